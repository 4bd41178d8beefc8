"""What a run of Ray Tune has measured, as jobs and records of the study prepared for it."""

import hashlib
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from autopeft.engines.job import Job, JobTrial, paused_file
from autopeft.errors import DataError
from autopeft.files import write_bytes
from autopeft.record_files import write_record
from autopeft.records import Record
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.study import reports
from autopeft.study.driver import Driver
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.jobs import read_jobs, write_job
from autopeft.study.lock import locked
from autopeft.study.planner import Known
from autopeft.study.prepared import Prepared, read_prepared, remove_leftovers
from autopeft.study.reports import PAUSED, WEIGHTS, Report


def keep_results(results: Iterable[Any], folder: Path) -> Study:
    """Write what trials of Ray Tune have measured into the study that was prepared for them.

    A genotype that was trained twice counts once, as in any study. What was over the budget is left
    out, since it was not trained; trials that a scheduler stopped are pruned in the ledger. The
    same results again change nothing, and more of them are added.

    Args:
        results: a `ray.tune.ResultGrid`.
        folder: that `autopeft.tune.prepare` has made.

    Raises:
        DataError: the folder is no such study, or the results are none of it.
    """
    ready = read_prepared(folder)
    with locked(folder), closing(ready.ledger()) as ledger:
        remove_leftovers(ready.study)
        pile = _Pile(ready)
        left_out = [reason for result in results if (reason := pile.add(result)) is not None]
        driver = Driver(ready.study, ready.setup, ready.manifest, ledger, _Idle(), Silent())
        driver.settle()
        driver.finish()
    if left_out:
        warnings.warn(
            f"{len(left_out)} results are left out: {'; '.join(dict.fromkeys(left_out))}",
            stacklevel=3,
        )
    return ready.study


class _Pile:
    """Jobs and records of a study, to which results are added.

    Args:
        ready: the study; locked.
    """

    def __init__(self, ready: Prepared) -> None:
        self._ready, self._folder = ready, ready.study.folder
        records = {record.key: record for record in ready.study.records()}
        self._known = Known(read_jobs(self._folder), records)
        trials = self._known.trials
        self._n_trials = len(trials)
        self._numbers = {t.genotype.hash: t.number for t in trials if t.origin == reports.ORIGIN}

    def add(self, result: Any) -> str | None:
        """Write the records of a trial.

        Returns:
            Why it is left out; None if it is not.
        """
        metrics = result.metrics or {}
        source = f"trial {metrics.get('trial_id')}"
        report = reports.report_in(metrics, source)
        if report is None:
            report = self._lost(metrics.get("config"))
        if report is None:
            return f"{source} has no result and no configuration"
        if report.refusal is not None:
            return report.refusal
        records = report.records if report.asked else self._numbered(report.records)
        for record in records:
            self._ask_for(record, asked=report.asked, source=source)
        self._take_files(records, result.checkpoint, source)
        for record in records:
            if record.key not in self._known.records:
                write_record(self._folder, record)
                self._known.records[record.key] = record
        return None

    def _lost(self, config: Mapping[str, Any] | None) -> Report | None:
        """What a trial comes to that Tune has given up; None if nothing is known of it."""
        if not config:
            return None
        job = reports.first_job(self._ready, config)
        refusal = reports.refusal_of(self._ready, job.trials[0].genotype)
        records = () if refusal else (reports.lost(self._ready, job),)
        return Report(records, refusal, asked=reports.JOB in config)

    def _numbered(self, records: Iterable[Record]) -> list[Record]:
        """The records under the number of their genotype, a new one if there is none yet."""
        found = []
        for record in records:
            number = self._numbers.setdefault(record.hash, self._n_trials)
            self._n_trials = max(self._n_trials, number + 1)
            found.append(reports.renumbered(record, number))
        return found

    def _ask_for(self, record: Record, *, asked: bool, source: str) -> None:
        """Write the job of a record, if there is none.

        Raises:
            DataError: the study does not know it, and it says that it does.
        """
        if record.key in self._known.asked:
            return
        if asked:
            raise DataError(
                f"{source} is of another study: none in {self._folder} has asked for trial "
                f"{record.trial} at rung {record.rung}"
            )
        genotype = genotype_from_dict(record.genotype)
        trial = JobTrial(record.trial, genotype, record.seed, reports.ORIGIN)
        job = reports.job_of(self._ready, trial, record.rung)
        write_job(self._folder, len(self._known.jobs), job)
        self._known.jobs.append(job)

    def _take_files(self, records: Iterable[Record], checkpoint: Any, source: str) -> None:
        """Take weights, and where the trial can go on from, out of its checkpoint.

        Raises:
            DataError: they are of none of the records, or cannot be written.
        """
        by_hash = {record.weights_sha256: record for record in records}
        if checkpoint is None or not any(by_hash):
            return
        with checkpoint.as_directory() as place:
            if not (Path(place) / WEIGHTS).is_file():
                return
            data = (Path(place) / WEIGHTS).read_bytes()
            record = by_hash.get(hashlib.sha256(data).hexdigest())
            if record is None or record.weights is None:
                raise DataError(f"{source}: the weights in its checkpoint are of no record of it")
            targets = {WEIGHTS: self._folder / record.weights}
            if record.rung < self._ready.rungs.top and not record.replicate:
                targets[PAUSED] = paused_file(self._folder, record.trial, record.rung)
            for name, target in targets.items():
                if (Path(place) / name).is_file():
                    target.parent.mkdir(exist_ok=True)
                    write_bytes(target, (Path(place) / name).read_bytes())


class _Idle:
    """Takes no jobs: what is missing is left to whoever goes on with the study."""

    n_workers = 0

    def submit(self, job: Job, wanted: Collection[int]) -> None:
        """Never called, since there is no worker.

        Raises:
            DataError: it was.
        """
        raise DataError(f"nobody trains {sorted(wanted)} of {job}")
