"""A job: these trials, from here to that rung, together."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from autopeft.errors import ConfigError
from autopeft.space import yaml
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.spec import Strict

JOB_VERSION = 1


@dataclass(frozen=True)
class JobTrial:
    """One trial of a job.

    Attributes:
        number: in the study, from 0.
        genotype: what is trained.
        seed: initialises it.
        origin: where it came from, such as `method lora` or `tpe`.
    """

    number: int
    genotype: Genotype
    seed: int
    origin: str


@dataclass(frozen=True)
class Job:
    """A cohort to train, and trials beside it that cannot share one.

    Attributes:
        trials: trained together, as far as they can.
        rung: the level of the training budget to reach.
        replicate: which repetition.
        order_seed: of the order of batches, the same for all trials of a study and replicate.
        until: optimizer steps from the start of a trial to the rung; None for all of them.
    """

    trials: tuple[JobTrial, ...]
    rung: int
    replicate: int
    order_seed: int
    until: int | None = None

    @property
    def measures(self) -> bool:
        """Its trials are finalists, whose costs are measured once, with nothing beside them."""
        return self.replicate == 1

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of its trials."""
        return tuple(trial.number for trial in self.trials)

    @property
    def keys(self) -> tuple[tuple[int, int, int], ...]:
        """Of the records that it will bring."""
        return tuple((number, self.rung, self.replicate) for number in self.numbers)

    def parts(self) -> "tuple[Job, ...]":
        """The same work with a cohort of its own for each trial that cannot share one."""
        together = tuple(trial for trial in self.trials if not trial.genotype.alone)
        cohorts = [together, *((trial,) for trial in self.trials if trial.genotype.alone)]
        return tuple(replace(self, trials=cohort) for cohort in cohorts if cohort)

    def halves(self) -> "tuple[Job, Job]":
        """The same work as two smaller cohorts."""
        middle = len(self.trials) // 2
        first, second = self.trials[:middle], self.trials[middle:]
        return replace(self, trials=first), replace(self, trials=second)

    def pieces(self, most: int) -> "tuple[Job, ...]":
        """The same work as cohorts of so many trials at most, as even as they can be."""
        n_pieces = -(-len(self.trials) // most)
        ends = [len(self.trials) * i // n_pieces for i in range(n_pieces + 1)]
        cohorts = [self.trials[first:last] for first, last in pairwise(ends)]
        return tuple(replace(self, trials=cohort) for cohort in cohorts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        trials = [{**vars(trial), "genotype": trial.genotype.to_dict()} for trial in self.trials]
        return {"version": JOB_VERSION, **vars(self), "trials": trials}

    @classmethod
    def from_dict(cls, data: Any, source: str) -> "Job":
        """The inverse of `to_dict`.

        Raises:
            ConfigError: not a job; `source` stands in the message.
        """
        file = yaml.validate(_JobFile, yaml.Document(source, data, {}))
        trials = tuple(
            JobTrial(t.number, genotype_from_dict(t.genotype, source), t.seed, t.origin)
            for t in file.trials
        )
        job = cls(trials, file.rung, file.replicate, file.order_seed, file.until)
        if len(set(job.numbers)) < len(trials):
            raise ConfigError(f"{source}: a trial is there twice")
        return job


def paused_file(folder: Path, trial: int, rung: int) -> Path:
    """Where the state of a trial at a rung lies, so that it can go on from there.

    Args:
        folder: of the study.
        trial: its number.
        rung: that it has come to.
    """
    return folder / "paused" / f"{trial:06d}-{rung}.safetensors"


def weights_name(trial: int, rung: int, replicate: int) -> str:
    """The name of the trained weights below the study's folder."""
    return f"weights/{trial:06d}-{rung}-{replicate}.safetensors"


_Count = Annotated[int, Field(strict=True, ge=0)]


class _TrialFile(Strict):
    number: _Count
    genotype: dict[str, Any]
    seed: _Count
    origin: Annotated[str, Field(min_length=1)]


class _JobFile(Strict):
    version: Annotated[int, Field(strict=True, ge=JOB_VERSION, le=JOB_VERSION)]
    trials: Annotated[tuple[_TrialFile, ...], Field(min_length=1)]
    rung: _Count
    replicate: _Count
    order_seed: _Count
    until: Annotated[int, Field(strict=True, ge=1)] | None = None
