"""What the driver needs of whatever runs its jobs."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from autopeft.engines.job import Job
from autopeft.engines.meter import Meter
from autopeft.engines.work import CohortSize, Decided, Facts
from autopeft.records import Record
from autopeft.space.costs import CostModel
from autopeft.space.genotype import Genotype
from autopeft.training.settings import TrainingSettings

Stepped = Callable[[tuple[int, ...], int, int], None]
"""Called with the trials of a cohort, steps done, steps in all."""


class JobTaker(Protocol):
    """What jobs are given to."""

    @property
    def n_workers(self) -> int:
        """Jobs that run at the same time; known once loaded."""
        ...

    def submit(self, job: Job, wanted: Collection[int]) -> None:
        """Take a job; records are brought of the trials in `wanted`."""
        ...


class Engine(JobTaker, Protocol):
    """Runs jobs.

    In this order: `load`; for a new study `decide`, and perhaps `calibrate`; `begin`, then jobs,
    `close`.
    """

    def load(self) -> Facts:
        """Load model and data.

        Raises:
            ConfigError: something does not fit together.
            DataError: data or model cannot be used.
        """
        ...

    def decide(self, genotypes: Sequence[Genotype], cohort: CohortSize) -> Decided:
        """Measure how to compute.

        Raises:
            DataError: not even one trial fits into memory.
        """
        ...

    def calibrate(self, settings: TrainingSettings, genotypes: Sequence[Genotype]) -> CostModel:
        """Measure what genotypes cost alone, so that others can be predicted."""
        ...

    def begin(self, decided: Decided, folder: Path) -> None:
        """Get ready for jobs, whose weights go below `folder`."""
        ...

    def results(self, stepped: Stepped, meter: Meter | None = None) -> Iterator[Record]:
        """Records as they come, one for each wanted trial, until all jobs taken are done.

        Args:
            stepped: is told of steps.
            meter: is told when workers begin and end attempts, and what records tell of those.

        Raises:
            DataError: the study cannot go on: the disk is full, or no worker starts.
        """
        ...

    def close(self) -> None:
        """End all workers and what they started; jobs that run are lost."""
        ...
