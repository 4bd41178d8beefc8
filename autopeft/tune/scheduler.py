"""The promotion rule of our studies as a scheduler of Tune: trials pause, and the better go on."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from autopeft.errors import ConfigError
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.study.prepared import Prepared
from autopeft.study.promote import Standing, promotions
from autopeft.study.reports import REPORT, report_in
from autopeft.study.rungs import standing_of

NUMBER = "trial"
"""Key of a configuration: the trial's number in its run, which Tune keeps with it."""


class Promoter(Protocol):
    """Who decides which paused trials train on."""

    def pauses(self) -> None:
        """A scheduler asks from now on."""

    def joins(self, trial_id: str, config: dict[str, Any]) -> dict[str, Any]:
        """A trial was added, perhaps again; its configuration, with what has to be kept of it."""

    def hears(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial has a result."""

    def loses(self, trial_id: str) -> None:
        """A trial has failed where it was."""

    def going_on(self, *, is_all: bool) -> Iterable[str]:
        """The trials that may train on, in order; `is_all` if no others will come."""


class PromotionScheduler(TrialScheduler):  # type: ignore[misc]
    """Pauses trials at each rung, and lets those train on that the promotion rule chooses.

    What it knows follows from the trials' last results, which Tune keeps: a restored Tuner decides
    as one that was not interrupted. Those that do not go on are stopped when nothing else is left;
    since they are paused then, Tune tells its searcher that they have no result, and Optuna's notes
    them as pruned.

    Args:
        promoter: `Brackets` for any searcher; `StudySearch.scheduler()` makes one for a study.
    """

    _supports_buffered_results = False

    def __init__(self, promoter: Promoter) -> None:
        super().__init__()
        self._promoter = promoter
        self._seen: set[str] = set()

    def set_search_properties(self, *_: str | None, **__: Any) -> bool:
        """Begin; metric and costs are the study's."""
        self._promoter.pauses()
        return True

    def on_trial_add(self, _: Any, trial: Trial) -> None:
        """Take a trial; one that was restored with a result is paused where it was."""
        config = self._promoter.joins(trial.trial_id, trial.config)
        if config != trial.config:
            trial.set_config(config)
        if trial.trial_id in self._seen:
            return
        self._seen.add(trial.trial_id)
        if REPORT in trial.last_result:
            self._promoter.hears(trial.trial_id, trial.last_result)
            if trial.status == Trial.PENDING:
                trial.set_status(Trial.PAUSED)

    def on_trial_result(self, _: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pause at a rung.

        Raises:
            ConfigError: it is the result of another Trainable.
        """
        if REPORT not in result:
            raise ConfigError(
                f"a result of trial {trial.trial_id} has no report: this scheduler goes with "
                "`autopeft.tune.trainable` alone"
            )
        self._promoter.hears(trial.trial_id, result)
        return str(TrialScheduler.PAUSE)

    def on_trial_complete(self, _: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Take the result of a trial that has come to its end."""
        self._promoter.hears(trial.trial_id, result)

    def on_trial_error(self, _: Any, trial: Trial) -> None:
        """A trial has failed; if Tune tries it again, it is added again."""
        self._promoter.loses(trial.trial_id)

    def on_trial_remove(self, _: Any, __: Trial) -> None:
        """A paused trial was stopped."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """A trial that goes on, or else a new one; if there is neither, the others are stopped."""
        trials: Sequence[Trial] = tune_controller.get_trials()
        paused = {trial.trial_id: trial for trial in trials if trial.status == Trial.PAUSED}
        for trial_id in self._promoter.going_on(is_all=False):
            if trial_id in paused:
                return paused[trial_id]
        for trial in trials:
            if trial.status == Trial.PENDING:
                return trial
        if not paused or any(trial.status == Trial.RUNNING for trial in trials):
            return None
        if not tune_controller.search_alg.is_finished():
            warnings.warn(
                "the searcher waits for trials that pause until it brings others; leave out "
                "max_concurrent_trials, or rungs are decided before they are full",
                stacklevel=2,
            )
        for trial_id in self._promoter.going_on(is_all=True):
            if trial_id in paused:
                return paused[trial_id]
        for trial in paused.values():
            tune_controller.stop_trial(trial)
        return None

    def debug_string(self) -> str:
        """For Tune's own display."""
        return f"Promotions among {len(self._seen)} trials"


class Brackets:
    """Decides for a searcher that knows nothing of rungs, by the study's rule (`study/promote.py`).

    Args:
        ready: what `prepare` has made; its rungs, metric and costs count.
        trials: of the run in all, `num_samples`.
    """

    def __init__(self, ready: Prepared, trials: int) -> None:
        self._ready, self._trials = ready, trials
        self._numbers: dict[str, int] = {}
        self._standings: dict[tuple[int, int], Standing] = {}

    def pauses(self) -> None:
        """Nothing to be done."""

    def joins(self, trial_id: str, config: dict[str, Any]) -> dict[str, Any]:
        """Number a trial; one that Tune tries again has not failed."""
        if trial_id not in self._numbers:
            known = config.get(NUMBER, max(self._numbers.values(), default=-1) + 1)
            self._numbers[trial_id] = known
        number = self._numbers[trial_id]
        lost = [key for key, one in self._standings.items() if key[0] == number and not one.values]
        for key in lost:
            del self._standings[key]
        return {**config, NUMBER: number}

    def hears(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take the standings that a result tells of."""
        report = report_in(result, f"trial {trial_id}")
        if report is None or not report.records:
            self.loses(trial_id)
            return
        spec, number = self._ready.setup.spec, self._numbers[trial_id]
        for record in report.records:
            lora = genotype_from_dict(record.genotype).is_lora
            told = standing_of(record, spec.low_metric, spec.costs, baseline=lora)
            self._standings[number, told.rung] = replace(told, trial=number)

    def loses(self, trial_id: str) -> None:
        """A trial that has no measurement at a rung never goes on from there."""
        number = self._numbers[trial_id]
        rung = sum(one == number for one, _ in self._standings)
        self._standings[number, rung] = Standing(number, rung, 0, None)

    def going_on(self, *, is_all: bool) -> Iterator[str]:
        """The trials that were promoted and are not there yet, the highest rung first."""
        rungs = self._ready.rungs
        ids = {number: trial_id for trial_id, number in self._numbers.items()}
        promoted = promotions(
            self._standings.values(),
            trials=len(ids) if is_all else max(self._trials, len(ids)),
            rungs=len(rungs.steps),
            reduction=rungs.reduction,
        )
        for rung in range(len(promoted), 0, -1):
            for number in promoted[rung - 1]:
                if (number, rung) not in self._standings and number in ids:
                    yield ids[number]
