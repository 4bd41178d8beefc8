"""The local engine: jobs run in this process, on one loaded backbone."""

import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save_file

from autopeft.engines.job import Job, JobTrial
from autopeft.model.backbone import Backbone
from autopeft.objectives import objectives_of
from autopeft.records import (
    RECORD_VERSION,
    RECORD_VERSION_STORED,
    Failure,
    Metric,
    Record,
)
from autopeft.space.genotype import Genotype
from autopeft.tasks.encode import Encoded
from autopeft.tasks.task import Task
from autopeft.training.cohort import EVALUATION_FACTOR, Trained, train_cohort
from autopeft.training.frozen import FrozenCache
from autopeft.training.settings import TrainingSettings

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Workplace:
    """Everything a worker keeps loaded between jobs.

    Attributes:
        backbone: the frozen model.
        task: loss, predictions and metrics.
        train: encoded training rows.
        validation: encoded rows to score on.
        split: name of the latter in records.
        settings: of training.
        trial_bytes: memory that a trial is expected to take, or None.
        weights: folder for trained weights, relative to `root`.
        root: the study's folder.
    """

    backbone: Backbone
    task: Task
    train: Encoded
    validation: Encoded
    split: str
    settings: TrainingSettings
    root: Path
    trial_bytes: int | None = None
    weights: str = "weights"


class LocalEngine:
    """Runs jobs one after the other.

    Args:
        workplace: what is loaded.
    """

    def __init__(self, workplace: Workplace) -> None:
        self._place = workplace
        settings = workplace.settings
        batch = settings.batch_size * EVALUATION_FACTOR
        self._cache = (
            FrozenCache(workplace.backbone, settings.kernel, batch)
            if settings.frozen_cache
            else None
        )
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def run(self, job: Job, progress: Progress | None = None) -> Iterator[Record]:
        """Train a cohort; one that does not fit into memory is split in half.

        Trials that are too large to share a cohort have one of their own.

        Yields:
            A record for each trial. Weights are on disk before the record is handed over.
        """
        if job.mixed:
            for part in job.parts():
                yield from self.run(part, progress)
            return
        started = datetime.now(UTC)
        try:
            trained, seconds = train_cohort(
                self._place.backbone,
                [trial.genotype for trial in job.trials],
                [trial.seed for trial in job.trials],
                task=self._place.task,
                settings=self._place.settings,
                train=self._place.train,
                validation=self._place.validation,
                order_seed=job.order_seed,
                cache=self._cache,
                trial_bytes=self._place.trial_bytes,
                progress=progress,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            cause = str(error)
        else:
            for trial, result in zip(job.trials, trained, strict=True):
                yield self._measure(job, trial, result, seconds / len(trained), started)
            return
        if len(job.trials) == 1:
            yield self._out_of_memory(job, cause, started)
            return
        for half in job.halves():
            yield from self.run(half, progress)

    def _measure(
        self, job: Job, trial: JobTrial, result: Trained, seconds: float, started: datetime
    ) -> Record:
        place = self._place
        labels = place.validation.labels.numpy()
        measured = place.task.metrics(result.predictions, labels) if result.finite else {}
        failure = self._failure(result, [item.value for item in measured.values()])
        metrics = {name: Metric(item.value, item.stderr) for name, item in measured.items()}
        weights = None
        if failure is None:
            weights = f"{place.weights}/{trial.number:06d}-{job.rung}-{job.replicate}.safetensors"
            _save(place.root / weights, result)
        return self._record(
            job,
            trial,
            seconds,
            started,
            metrics=None if failure else metrics,
            failure=failure,
            weights=weights,
            stored=result.stored,
            head_params=result.head_params,
            steps=result.steps,
        )

    def _failure(self, result: Trained, values: list[float]) -> Failure | None:
        if not result.finite:
            bad = next((i for i, x in enumerate(result.losses) if not math.isfinite(x)), None)
            where = f"the loss at step {bad}" if bad is not None else "an output in evaluation"
            return Failure("nan", f"{where} of {len(result.losses)} is not finite")
        if not all(math.isfinite(value) for value in values):
            return Failure("nan", "a metric is not finite")
        return None

    def _out_of_memory(self, job: Job, cause: str, started: datetime) -> Record:
        seconds = (datetime.now(UTC) - started).total_seconds()
        failure = Failure("out_of_memory", cause.splitlines()[0] if cause else "no memory left")
        return self._record(job, job.trials[0], seconds, started, failure=failure)

    def _record(
        self,
        job: Job,
        trial: JobTrial,
        seconds: float,
        started: datetime,
        *,
        metrics: Mapping[str, Metric] | None = None,
        failure: Failure | None = None,
        weights: str | None = None,
        stored: Genotype | None = None,
        head_params: int = 0,
        steps: int = 0,
    ) -> Record:
        place = self._place
        params = trial.genotype.count_params(place.backbone.shape)
        trained = trial.genotype.count_trained(place.backbone.shape)
        becomes = any(op.stored is not op for op in trial.genotype.ops)
        return Record(
            version=RECORD_VERSION_STORED if becomes or trained != params else RECORD_VERSION,
            trial=trial.number,
            rung=job.rung,
            replicate=job.replicate,
            state="failed" if failure else "complete",
            genotype=trial.genotype.to_dict(),
            hash=trial.genotype.hash,
            seed=trial.seed,
            metrics=dict(metrics or {}),
            objectives=objectives_of(place.task.metric, metrics, params) if metrics else {},
            trainable_params=params,
            fraction=params / place.backbone.shape.backbone_params,
            head_params=head_params,
            steps=steps,
            seconds=seconds,
            started=started.isoformat(),
            worker=self._worker,
            cohort=tuple(t.number for t in job.trials),
            precision=place.settings.precision,
            split=place.split,
            failure=failure,
            weights=weights,
            trained_params=trained if becomes or trained != params else None,
            stored=stored.to_dict() if becomes and stored else None,
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; on a CPU torch says so by a plain RuntimeError."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def _save(path: Path, result: Trained) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: t.contiguous() for name, t in result.tensors.items()}, temporary)
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
