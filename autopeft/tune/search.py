"""Our study as a searcher of Tune."""

import json
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from autopeft.engines.job import Job
from autopeft.errors import ConfigError
from autopeft.files import parse_json
from autopeft.study.driver import Driver
from autopeft.study.events import Silent, Watcher
from autopeft.study.lock import locked
from autopeft.study.prepared import Prepared, remove_leftovers
from autopeft.study.reports import JOB, PAUSES, lost, report_in
from autopeft.study.rungs import Key
from autopeft.tune.scheduler import PromotionScheduler


class StudySearch(Searcher):  # type: ignore[misc]
    """The study that was prepared: its known methods, sampler, budgets, rungs and final selection.

    Its state is the study's folder, where jobs and records are written as in any search. So a Tuner
    that is restored goes on, and so does a new one on the same folder, or `autopeft resume`. Give
    `num_samples=-1`: the study knows when it is at its end.

    Args:
        ready: what `prepare` has made.
        concurrent: trials at a time; proposals depend on it, as on the number of workers.
        watcher: is told what happens.

    Raises:
        ConfigError: the folder holds a study that was not prepared for trials that train alone.
    """

    def __init__(
        self, ready: Prepared, *, concurrent: int = 1, watcher: Watcher | None = None
    ) -> None:
        spec = ready.setup.spec
        super().__init__([spec.chosen_metric, *spec.costs], ["max", *["min"] * len(spec.costs)])
        if ready.manifest.cohort != 1:
            raise ConfigError(
                f"{ready.study.folder} trains cohorts of {ready.manifest.cohort}, and a trial of "
                "Tune trains alone; prepare another folder"
            )
        self._ready, self._watcher = ready, watcher or Silent()
        self._asked = _Asked(concurrent)
        self._live: dict[str, tuple[int, int]] = {}
        self._pauses = self._is_over = False
        self._driver: Driver | None = None
        self._open = ExitStack()

    def scheduler(self) -> PromotionScheduler:
        """The scheduler that lets trials pause and go on as the study decides."""
        return PromotionScheduler(self)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job that no trial of Tune's is at."""
        self._begin()
        at = set(self._live.values())
        for key, job in self._asked.jobs.items():
            if (key[0], key[2]) not in at:
                self._live[trial_id] = (key[0], key[2])
                return {JOB: json.dumps(job.to_dict()), PAUSES: self._pauses}
        if self._asked.jobs:
            return None
        self._end()
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the record of a rung."""
        self._hear(trial_id, result)

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002 - as Tune has it
    ) -> None:
        """Keep the last record of a trial, or that it was lost."""
        if result is not None:
            self._hear(trial_id, result)
        number, replicate = self._live.pop(trial_id, (-1, 0))
        if error and not self._is_over:
            for key, job in list(self._asked.jobs.items()):
                if (key[0], key[2]) == (number, replicate):
                    del self._asked.jobs[key]
                    self._begin().take(lost(self._ready, job))

    def save(self, checkpoint_path: str) -> None:
        """Write which trials of Tune's are at which of the study's; all else is in its folder."""
        text = json.dumps({trial_id: list(at) for trial_id, at in self._live.items()})
        Path(checkpoint_path).write_text(text, encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Go on with the trials that Tune has restored.

        Raises:
            DataError: the file is damaged.
        """
        data = parse_json(Path(checkpoint_path).read_bytes(), checkpoint_path)
        self._live = {str(trial_id): (int(at[0]), int(at[1])) for trial_id, at in data.items()}

    def close(self) -> None:
        """Let go of the folder, where Tune has ended before the study."""
        self._driver = None
        self._asked.jobs.clear()
        self._open.close()

    def pauses(self) -> None:
        """A scheduler decides who trains on; otherwise a trial ends with its job."""
        self._pauses = True

    def joins(self, _: str, config: dict[str, Any]) -> dict[str, Any]:
        """A trial was added; the study knows its number."""
        return config

    def hears(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial has a result, which Tune tells its searcher, too."""

    def loses(self, trial_id: str) -> None:
        """A trial has failed, which Tune tells its searcher, too."""

    def going_on(self, *, is_all: bool) -> Iterator[str]:  # noqa: ARG002
        """Tune's trials that the study has jobs for, the highest rung first."""
        ids = {at: trial_id for trial_id, at in self._live.items()}
        for number, _, replicate in sorted(self._asked.jobs, key=lambda key: -key[1]):
            if (number, replicate) in ids:
                yield ids[number, replicate]

    def __getstate__(self) -> dict[str, Any]:
        """Without what is open: Tune keeps a copy from before it began."""
        closed = {"_driver": None, "_open": ExitStack(), "_asked": _Asked(self._asked.n_workers)}
        return {**self.__dict__, **closed}

    def _begin(self) -> Driver:
        """Open the study's folder, once."""
        if self._driver is None:
            ready = self._ready
            self._open.enter_context(locked(ready.study.folder))
            remove_leftovers(ready.study)
            ledger = ready.ledger()
            self._open.callback(ledger.close)
            self._driver = Driver(
                ready.study, ready.setup, ready.manifest, ledger, self._asked, self._watcher
            )
            self._watcher.planned(self._driver.plan())
            self._driver.settle()
            self._driver.dispatch()
        return self._driver

    def _end(self) -> None:
        self._begin().finish()
        self._is_over = True
        self.close()

    def _hear(self, trial_id: str, result: dict[str, Any]) -> None:
        report = report_in(result, f"trial {trial_id}")
        if self._is_over or report is None:
            return
        driver = self._begin()
        for record in report.records:
            if record.key in self._asked.jobs:
                del self._asked.jobs[record.key]
                driver.take(record)


class _Asked:
    """The jobs that Tune has been asked for, one trial each.

    Args:
        concurrent: at a time.
    """

    def __init__(self, concurrent: int) -> None:
        self.jobs: dict[Key, Job] = {}
        self._concurrent = concurrent

    @property
    def n_workers(self) -> int:
        """Jobs at a time."""
        return self._concurrent

    def submit(self, job: Job, wanted: Collection[int]) -> None:
        """Remember a job until its record comes."""
        self.jobs |= {key: job for key in job.keys if key[0] in wanted}
