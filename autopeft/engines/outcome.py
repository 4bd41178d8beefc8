"""What comes of a job: a record for each trial, also where a worker did not survive it.

A cohort that fails is split until the guilty trial is alone; the others are trained again.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from autopeft.engines.job import Job, JobTrial
from autopeft.engines.work import Facts
from autopeft.objectives import (
    PARAMS,
    TRAINED,
    CostName,
    costs_of,
    objectives_of,
)
from autopeft.records import RECORD_VERSION, RECORD_VERSION_STORED, Failure, Metric, Record
from autopeft.row_scores import RowScores
from autopeft.space.costs import CostModel
from autopeft.space.genotype import Genotype

SPLIT = "validation"
"""The rows that trials are scored on."""

MOST_KILLS = 3
"""Times that a job is repeated whole after its worker was killed by somebody else."""


@dataclass(frozen=True)
class Moment:
    """When something began, for those who read of it, and to tell how long it takes.

    Attributes:
        told: by the clock of the machine, which may be set back meanwhile.
    """

    told: datetime = field(default_factory=lambda: datetime.now(UTC))
    _at: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since then."""
        return time.monotonic() - self._at


@dataclass(frozen=True)
class Attempt:
    """A job, or a part of one, to be run.

    Attributes:
        job: trained together.
        wanted: trials whose record is missing.
        kills: times that its worker was killed from outside.
    """

    job: Job
    wanted: frozenset[int]
    kills: int = 0


@dataclass(frozen=True)
class Mishap:
    """Why an attempt brought no records.

    Attributes:
        failure: what it is for the trial that is to blame.
        from_outside: somebody killed the worker; the trials need not be the cause.
    """

    failure: Failure
    from_outside: bool = False


def attempts_of(job: Job, wanted: Collection[int]) -> list[Attempt]:
    """What to run for a job, so that records come of the trials that are wanted."""
    parts = [Attempt(part, frozenset(wanted) & set(part.numbers)) for part in job.parts()]
    return [part for part in parts if part.wanted]


def after(attempt: Attempt, mishap: Mishap) -> list[Attempt]:
    """What to try after an attempt went wrong; nothing if its only trial is to blame."""
    if mishap.from_outside and attempt.kills < MOST_KILLS:
        return [replace(attempt, kills=attempt.kills + 1)]
    if len(attempt.job.trials) == 1:
        return []
    halves = [
        replace(attempt, job=half, wanted=attempt.wanted & set(half.numbers))
        for half in attempt.job.halves()
    ]
    return [half for half in halves if half.wanted]


def record_of(
    job: Job,
    trial: JobTrial,
    *,
    facts: Facts,
    precision: str,
    worker: str,
    seconds: float,
    started: datetime,
    failure: Failure | None,
    metric: str = "",
    metrics: Mapping[str, Metric] | None = None,
    wanted: Sequence[CostName] = (PARAMS,),
    model: CostModel | None = None,
    measured: dict[CostName, float] | None = None,
    head_params: int = 0,
    steps: int = 0,
    split: str | None = None,
    row_scores: RowScores | None = None,
    weights: tuple[str, str] | None = None,
    stored: Genotype | None = None,
) -> Record:
    """The record of one trial of a job.

    Args:
        job: the cohort as it was trained.
        trial: one of its trials.
        facts: of the model.
        precision: of the products.
        worker: that measured.
        seconds: that the trial took.
        started: when.
        failure: None if it is complete.
        metric: the study's; only of a complete trial.
        metrics: all that were measured; only of a complete trial.
        wanted: costs that the study optimises.
        model: predicts those of them that are not known exactly.
        measured: those that were measured with nothing beside the trial.
        head_params: parameters of the head.
        steps: of the optimizer.
        split: the rows that it was scored on; None for those that it was to be scored on.
        row_scores: what each of them adds to the metric.
        weights: path and SHA-256; only of a complete trial.
        stored: the genotype that the weights are of.
    """
    costs = costs_of(trial.genotype, facts.shape, model)
    params, trained = (int(costs[name]) for name in (PARAMS, TRAINED))
    becomes = any(op.stored is not op for op in trial.genotype.ops)
    found = {} if failure or metrics is None else dict(metrics)
    return Record(
        version=RECORD_VERSION_STORED if becomes or trained != params else RECORD_VERSION,
        trial=trial.number,
        rung=job.rung,
        replicate=job.replicate,
        state="failed" if failure else "complete",
        genotype=trial.genotype.to_dict(),
        hash=trial.genotype.hash,
        seed=trial.seed,
        metrics=found,
        objectives=objectives_of(metric, found, costs, wanted, measured or {}) if found else {},
        trainable_params=params,
        fraction=params / facts.backbone_params,
        head_params=head_params,
        steps=steps,
        seconds=seconds,
        started=started.isoformat(),
        worker=worker,
        cohort=job.numbers,
        precision=precision,
        split=split or (facts.unseen if job.replicate and facts.unseen else SPLIT),
        failure=failure,
        weights=weights[0] if weights else None,
        weights_sha256=weights[1] if weights else None,
        trained_params=trained if becomes or trained != params else None,
        stored=stored.to_dict() if becomes and stored else None,
        row_scores=row_scores,
    )
