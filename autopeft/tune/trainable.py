"""The Trainable: one trial of a study at a time, a rung at a step."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ray import tune
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from autopeft.engines.inline import InlineEngine
from autopeft.engines.job import paused_file, weights_name
from autopeft.errors import DataError
from autopeft.files import write_atomic
from autopeft.records import Record
from autopeft.study import reports
from autopeft.study.prepared import Prepared
from autopeft.study.reports import PAUSED, REPORT, WEIGHTS, Report

_REPORT = "report.json"
"""What is known of a trial, in a checkpoint."""


def trainable(ready: Prepared) -> type["PeftTrainable"]:
    """The Trainable of a study, for `tune.Tuner`.

    Args:
        ready: what `prepare` has made.
    """
    return type("Peft", (PeftTrainable,), {"ready": ready, "__doc__": PeftTrainable.__doc__})


class PeftTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains the genotype of a configuration, from rung to rung.

    A step leads to the next rung, so `training_iteration` counts rungs. Model and data are loaded
    once in an actor; with `reuse_actors` it keeps them. A result has metrics and costs by name; a
    trial that failed or that is over the budget ends with NaN for what was not measured.
    """

    ready: ClassVar[Prepared]

    def setup(self, config: dict[str, Any]) -> None:
        """Load model and data.

        Raises:
            DataError: they, or the metric, are not those that the study was prepared with.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="autopeft-tune-"))
        self._engine = InlineEngine(self.ready.setup.spec.work)
        if what := self._engine.load().differs_from(self.ready.setup.facts):
            raise DataError(f"this node has {what} than the study")
        self._engine.begin(self.ready.manifest.decided, self._folder)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial.

        Raises:
            ConfigError: the configuration is none of this space.
        """
        for name in ("weights", "paused"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self._job = reports.first_job(self.ready, new_config)
        asked = reports.JOB in new_config
        self._ends = asked and not new_config.get(reports.PAUSES)
        genotype = self._job.trials[0].genotype
        self._report = Report(refusal=reports.refusal_of(self.ready, genotype), asked=asked)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung."""
        job = self._job
        if self._report.refusal is None:
            if self._report.records:
                job = reports.job_of(self.ready, job.trials[0], job.rung + 1)
            self._engine.submit(job, job.numbers)
            (record,) = self._engine.results(_nobody)
            self._job = job
            self._report = replace(self._report, records=(*self._report.records, record))
        genotype = job.trials[0].genotype
        values = reports.values_in(self.ready, self._report, genotype)
        records = self._report.records
        is_measured = bool(records) and records[-1].state == "complete"
        is_last = self._ends or job.rung == self.ready.rungs.top
        return {
            **values,
            "rung": job.rung,
            REPORT: self._report.to_json(),
            DONE: is_last or not is_measured,
            SHOULD_CHECKPOINT: is_measured,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write what is known of the trial, its weights, and where it goes on from."""
        folder = Path(checkpoint_dir)
        write_atomic(folder / _REPORT, self._report.to_json() + "\n")
        if self._report.records:
            for name, path in self._files(self._report.records[-1]).items():
                if path.is_file():
                    shutil.copyfile(path, folder / name)

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from there.

        Raises:
            DataError: it is that of another trial.
        """
        folder = Path(checkpoint)
        report = Report.from_json((folder / _REPORT).read_text(encoding="utf-8"), str(folder))
        mine = self._job.trials[0].genotype.hash
        if any(record.hash != mine for record in report.records):
            raise DataError(
                "the checkpoint is that of another genotype; schedulers that change trials, such "
                "as population based training, do not go with this Trainable"
            )
        self._report = report
        if report.records:
            last = report.records[-1]
            for name, path in self._files(last).items():
                if (folder / name).is_file():
                    path.parent.mkdir(exist_ok=True)
                    shutil.copyfile(folder / name, path)
            self._job = reports.job_of(self.ready, self._job.trials[0], last.rung)

    def cleanup(self) -> None:
        """Leave nothing on the node's disk."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self, record: Record) -> dict[str, Path]:
        """Where the files of a record lie here, by their names in a checkpoint."""
        weights = weights_name(record.trial, record.rung, record.replicate)
        return {
            WEIGHTS: self._folder / weights,
            PAUSED: paused_file(self._folder, record.trial, record.rung),
        }


def _nobody(_: tuple[int, ...], __: int, ___: int) -> None:
    """Hears of no steps: Tune hears of rungs."""
