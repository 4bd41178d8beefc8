"""A job: these trials, from here to that rung, together."""

from dataclasses import dataclass

from autopeft.space.genotype import Genotype


@dataclass(frozen=True)
class JobTrial:
    """One trial of a job: its number in the study, what it is, and its seed."""

    number: int
    genotype: Genotype
    seed: int


@dataclass(frozen=True)
class Job:
    """A cohort to train.

    Attributes:
        trials: trained together.
        rung: the level of the training budget to reach.
        replicate: which repetition.
        order_seed: of the order of batches, the same for all trials of a study and replicate.
    """

    trials: tuple[JobTrial, ...]
    rung: int
    replicate: int
    order_seed: int

    @property
    def mixed(self) -> bool:
        """Some of its trials cannot share a cohort."""
        return len(self.trials) > 1 and any(trial.genotype.alone for trial in self.trials)

    def parts(self) -> "tuple[Job, ...]":
        """The same work with a cohort of its own for each trial that cannot share one."""
        together = tuple(trial for trial in self.trials if not trial.genotype.alone)
        cohorts = [together, *((trial,) for trial in self.trials if trial.genotype.alone)]
        return tuple(
            Job(cohort, self.rung, self.replicate, self.order_seed) for cohort in cohorts if cohort
        )

    def halves(self) -> "tuple[Job, Job]":
        """The same work as two smaller cohorts."""
        middle = len(self.trials) // 2
        first, second = self.trials[:middle], self.trials[middle:]
        return (
            Job(first, self.rung, self.replicate, self.order_seed),
            Job(second, self.rung, self.replicate, self.order_seed),
        )
