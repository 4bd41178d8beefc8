"""Where trials are measured: model and data stay loaded, jobs come, records go.

The one code path for measuring, in a worker process as in the driver's own.
"""

import hashlib
import math
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import save

from autopeft.engines.calibrate import calibrate, measure_alone
from autopeft.engines.decide import decide, heap_of, most_that_fit
from autopeft.engines.fault import RefusedTrialError, faults_of_trials
from autopeft.engines.ground import load_ground
from autopeft.engines.job import Job, JobTrial, paused_file, weights_name
from autopeft.engines.outcome import record_of
from autopeft.engines.work import CohortSize, Decided, Facts, Work
from autopeft.errors import MetricError
from autopeft.files import write_bytes
from autopeft.objectives import CostName
from autopeft.records import FOLD, Failure, Metric, Record
from autopeft.row_scores import pack
from autopeft.space.costs import CostModel
from autopeft.space.genotype import Genotype
from autopeft.tasks.encode import Encoded
from autopeft.tasks.language import Language
from autopeft.tasks.task import AnyTask
from autopeft.training.cohort import Trained
from autopeft.training.footprint import trial_bytes
from autopeft.training.frozen import FrozenCache
from autopeft.training.full import FULL_FLOATS, train_full
from autopeft.training.memory import (
    available_bytes,
    is_out_of_memory,
    keep_primitives,
    release_memory,
    use_heap,
)
from autopeft.training.paused import Paused, read_paused, write_paused
from autopeft.training.settings import TrainingSettings
from autopeft.training.train import train_cohort
from autopeft.training.trials import EVALUATION_FACTOR

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all); again and again while nothing is trained but scored."""


class Workbench:
    """Measures the trials of one study.

    Args:
        work: what to load.
        device: index of the GPU to use, where there are any.
        sharing: workers that share the memory.

    Raises:
        ConfigError: something does not fit together.
        DataError: data or model cannot be used.
    """

    def __init__(self, work: Work, device: int = 0, sharing: int = 1) -> None:
        keep_primitives(work.max_memory, sharing)
        self._ground = load_ground(work, device)
        self._sharing = sharing
        self._has_decided = False
        self._most: int | None = None
        self._facts = self._ground.facts

    @property
    def facts(self) -> Facts:
        """What was loaded."""
        return self._facts

    def decide(self, genotypes: Sequence[Genotype], cohort: CohortSize) -> Decided:
        """Measure how to compute; see `decide`."""
        self._has_decided = True
        return decide(self._ground, genotypes, cohort, self._sharing)

    def calibrate(self, settings: TrainingSettings, genotypes: Sequence[Genotype]) -> CostModel:
        """Measure what genotypes cost alone; see `calibrate`."""
        return calibrate(self._ground, settings, genotypes)

    def begin(self, decided: Decided, folder: Path, worker: str, *, fitting: bool = False) -> None:
        """Get ready for jobs.

        Args:
            decided: how to compute.
            folder: of the study; weights are written below it.
            worker: a name for the records.
            fitting: train cohorts in parts that fit this device, unless the study was decided here.
        """
        self._most = None
        if fitting and not self._has_decided:
            each = decided.trial_bytes * self._sharing
            self._most = most_that_fit(each, self._ground.device)
        self._decided, self._folder, self._worker = decided, folder, worker
        self._kept: dict[int, tuple[Encoded, Encoded, str]] = {}
        self._ground = self._ground.computing_in(decided.precision)
        self._rest_bytes = release_memory()
        self._heap = heap_of(decided, self._ground.work.max_memory, self._sharing)
        settings = decided.settings
        use_heap(self._heap, self._ground.state_bytes(settings))
        batch = settings.part_size * EVALUATION_FACTOR
        self._cache = (
            FrozenCache(self._ground.backbone, settings.kernel, batch)
            if settings.frozen_cache
            else None
        )

    def run(self, job: Job, wanted: Collection[int], progress: Progress) -> Iterator[Record]:
        """Train a cohort.

        Args:
            job: the cohort.
            wanted: trials to measure; the others are but company.
            progress: is told of every step.

        Yields:
            A record for each trial. Weights are on disk before the record is handed over.

        Raises:
            MemoryError: or RuntimeError; it does not fit into memory.
            RefusedTrialError: a genotype cannot be trained with this model.
            DataError: weights cannot be written.
        """
        for part in job.pieces(self._most or len(job.trials)):
            if not set(wanted).isdisjoint(part.numbers):
                yield from self._run(part, wanted, progress)

    def _run(self, job: Job, wanted: Collection[int], progress: Progress) -> Iterator[Record]:
        """Train a cohort that fits."""
        started = datetime.now(UTC)
        _, scored, split = self._rows(job.replicate)
        is_full = any(trial.genotype.full for trial in job.trials)
        train = self._train_full if is_full else self._train
        trained, seconds = train(job, progress)
        for trial, result in zip(job.trials, trained, strict=True):
            if trial.number in wanted:
                progress(result.steps, result.steps)
                truth = scored.truth
                each = seconds / len(trained)
                yield self._measure(job, trial, result, truth, split, each, started)

    def _train(self, job: Job, progress: Progress) -> tuple[list[Trained], float]:
        """Train a cohort on the frozen backbone."""
        ground = self._ground
        train, scored, split = self._rows(job.replicate)
        task, paused, expected = self._task(job), self._paused(job), self._trial_bytes(job)
        with faults_of_trials(progress) as tell:
            return train_cohort(
                ground.backbone,
                [trial.genotype for trial in job.trials],
                [trial.seed for trial in job.trials],
                task=task,
                settings=self._decided.settings,
                train=train,
                validation=scored,
                order_seed=job.order_seed,
                until=job.until,
                paused=paused,
                cache=self._cache if split != FOLD else None,
                trial_bytes=expected,
                rest_bytes=self._rest_bytes,
                progress=tell,
            )

    def _train_full(self, job: Job, progress: Progress) -> tuple[list[Trained], float]:
        """Train the whole backbone, one that is loaded for this alone.

        Raises:
            MemoryError: there is too little memory for it.
        """
        (trial,) = job.trials
        ground = self._ground
        needed = 4 * FULL_FLOATS * trial.genotype.count_trained(ground.backbone.shape)
        _check_free(needed, ground.device)
        train, scored, _ = self._rows(job.replicate)
        task, backbone = self._task(job), ground.another_backbone()
        with faults_of_trials(progress) as tell:
            trained, seconds = train_full(
                backbone,
                trial.genotype,
                trial.seed,
                task=task,
                settings=self._decided.settings,
                train=train,
                validation=scored,
                order_seed=job.order_seed,
                until=job.until,
                progress=tell,
            )
        return [trained], seconds

    def _task(self, job: Job) -> AnyTask:
        """The task as a job is scored: whose trials pause may be measured by something cheaper."""
        task, metric = self._ground.task, self._ground.work.rung_metric
        if metric is None or job.until is None or not isinstance(task, Language):
            return task
        return task.scored_by(metric)

    def _rows(self, replicate: int) -> tuple[Encoded, Encoded, str]:
        """Rows to train and to score on; the same objects each time, as the cache needs them."""
        if replicate not in self._kept:
            self._kept[replicate] = self._ground.rows(replicate)
        return self._kept[replicate]

    def _paused(self, job: Job) -> list[Paused]:
        """Where the trials of a job go on from; nowhere if that is not known of all of them."""
        if job.replicate or not job.rung:
            return []
        below = [paused_file(self._folder, number, job.rung - 1) for number in job.numbers]
        return [read_paused(path) for path in below] if all(p.is_file() for p in below) else []

    def _trial_bytes(self, job: Job) -> int:
        """Memory that each trial is expected to take.

        Raises:
            MemoryError: a trial that is too large to share a cohort is too large for the memory.
        """
        genotypes = [trial.genotype for trial in job.trials]
        if not any(genotype.alone for genotype in genotypes):
            return self._decided.trial_bytes
        ground = self._ground
        with faults_of_trials():
            expected = trial_bytes(
                ground.backbone,
                genotypes,
                task=ground.task,
                settings=self._decided.settings,
                rows=ground.train,
            )
        _check_free(expected, ground.device)
        return expected

    def _measure(
        self,
        job: Job,
        trial: JobTrial,
        result: Trained,
        truth: NDArray[Any],
        split: str,
        seconds: float,
        started: datetime,
    ) -> Record:
        task = self._task(job)
        measured: dict[str, Metric] = {}
        scores = None
        try:
            if result.finite:
                measured = task.metrics(result.predictions, truth)
            failure = failure_of(result, [item.value for item in measured.values()])
            if failure is None:
                scores = pack(task.row_scores(result.predictions, truth))
        except MetricError as error:
            measured, failure = {}, Failure("error", str(error))
        weights = None if failure or trial.genotype.full else self._save(job, trial, result)
        return record_of(
            job,
            trial,
            facts=self._facts,
            precision="fp32" if trial.genotype.full else self._decided.precision,
            worker=self._worker,
            seconds=seconds,
            started=started,
            failure=failure,
            metric=task.metric,
            metrics=measured,
            wanted=self._ground.work.costs,
            model=self._decided.costs,
            measured=self._alone(trial.genotype) if job.measures and not failure else {},
            head_params=result.head_params,
            steps=result.steps,
            split=split,
            row_scores=scores,
            weights=weights,
            stored=result.stored,
        )

    def _alone(self, genotype: Genotype) -> dict[CostName, float]:
        """Costs of a finalist, nothing running beside it; memory is taken as it was predicted."""
        if self._decided.costs is None or genotype.full:
            return {}
        settings = self._decided.settings
        state = self._ground.state_bytes(settings)
        use_heap("exact", state)
        try:
            with faults_of_trials():
                return measure_alone(self._ground, settings, self._decided.costs, genotype)
        finally:
            use_heap(self._heap, state)

    def _save(self, job: Job, trial: JobTrial, result: Trained) -> tuple[str, str]:
        """Write weights: their path below the folder, and SHA-256. What a pause needs, before."""
        if result.paused is not None:
            path = paused_file(self._folder, trial.number, job.rung)
            path.parent.mkdir(exist_ok=True)
            write_paused(path, result.paused)
        name = weights_name(trial.number, job.rung, job.replicate)
        data = save({name: tensor.contiguous() for name, tensor in result.tensors.items()})
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, data)
        return name, hashlib.sha256(data).hexdigest()


def _check_free(expected: int, device: torch.device) -> None:
    """Refuse a trial that is too large for the memory, before it takes any.

    Raises:
        MemoryError: it is.
    """
    release_memory()
    free = available_bytes(device)
    if expected > free:
        raise MemoryError(
            f"a trial of {expected / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        )


def failure_of(result: Trained, values: Sequence[float]) -> Failure | None:
    """What is wrong with a training that came to its end.

    Args:
        result: of the training.
        values: of the metrics; none if an output was not finite.
    """
    bad = next((i for i, x in enumerate(result.losses) if not math.isfinite(x)), None)
    if bad is not None:
        loss = result.losses[bad]
        where = f"the loss at step {bad} of {len(result.losses)}"
        if math.isnan(loss):
            return Failure("nan", f"{where} is not a number")
        return Failure("diverged", f"{where} is infinite")
    if not result.finite:
        return Failure("nan", "an output in evaluation is not finite")
    if not all(map(math.isfinite, values)):
        return Failure("nan", "a metric is not finite")
    return None


def rising(progress: Progress | None) -> Progress:
    """Tell of every step once."""
    last = 0

    def tell(step: int, steps: int) -> None:
        nonlocal last
        if step > last and progress is not None:
            last = step
            progress(step, steps)

    return tell


def failure_from(error: Exception) -> Failure:
    """An exception that ended a training, in one line, with the place that raised it."""
    first = next(iter(str(error).splitlines()), "")
    if is_out_of_memory(error):
        return Failure("out_of_memory", first or "no memory left")
    if isinstance(error, RefusedTrialError):
        return Failure("error", first)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return Failure("error", f"{type(error).__name__}: {first}{where}")
