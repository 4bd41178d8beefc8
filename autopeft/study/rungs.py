"""The rungs of a study, and who waits for a place in a job: functions of what is known so far."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from autopeft.objectives import CostName, cost_of, values_of
from autopeft.records import Record
from autopeft.study.promote import Standing, promotions, rung_steps

FEWEST_TRIALS = 30
"""A study of fewer trials trains all of them to the end."""

TELLING_STEPS, TELLING_SHARE = 64, 1 / 4
"""A rung below both, these steps and this part of the training, says little of what a trial will
become: after 28 of 252 steps most trials had learnt nothing, after 84 their order was nearly as
good as at the end (`benchmarks/search.py`)."""

Key = tuple[int, int, int]
"""(trial, rung, replicate)."""


@dataclass(frozen=True)
class Rungs:
    """Levels of the training budget.

    Attributes:
        steps: optimizer steps from the start of a trial to each rung; the last is the end.
        reduction: about one of so many trials goes on from one to the next.
    """

    steps: tuple[int, ...]
    reduction: int

    @property
    def top(self) -> int:
        """The rung at which training is complete."""
        return len(self.steps) - 1

    def share(self, rung: int) -> float:
        """The part of a whole training that leads from the rung below to this one."""
        below = self.steps[rung - 1] if rung else 0
        return (self.steps[rung] - below) / self.steps[-1]

    def until(self, rung: int) -> int | None:
        """Where the training of a job for this rung ends; None for the end of all."""
        return None if rung == self.top else self.steps[rung]

    def waiting(
        self,
        records: Iterable[Record],
        metric: str,
        costs: Sequence[CostName],
        trials: int,
        asked: Collection[Key],
        loras: Collection[int],
    ) -> dict[int, tuple[int, ...]]:
        """Trials that may train on and that no job has been asked for.

        Args:
            records: of the study.
            metric: its quality.
            costs: what it optimises beside, the one by which trials are binned first.
            trials: of the study in all.
            asked: what jobs have been asked for.
            loras: trials that are LoRA, which others are held against.

        Returns:
            By rung, the highest first; rungs for which nobody waits are left out.
        """
        standings = [
            standing_of(record, metric, costs, baseline=record.trial in loras)
            for record in records
            if record.replicate == 0 and record.is_searched
        ]
        promoted = promotions(
            standings, trials=trials, rungs=len(self.steps), reduction=self.reduction
        )
        found = {
            rung: tuple(t for t in there if (t, rung, 0) not in asked)
            for rung, there in enumerate(promoted, 1)
        }
        return {rung: found[rung] for rung in sorted(found, reverse=True) if found[rung]}


def rungs_of(steps: int, trials: int, rungs: int, reduction: int) -> Rungs:
    """The rungs of a new study; a small one has only one, and none is too low to tell anything.

    Args:
        steps: of a whole training.
        trials: that are planned.
        rungs: wanted.
        reduction: wanted.
    """
    wanted = rungs if trials >= FEWEST_TRIALS else 1
    least = min(TELLING_STEPS, TELLING_SHARE * steps)
    levels = rung_steps(steps, wanted, reduction)
    return Rungs(tuple(level for level in levels if level >= least), reduction)


def next_replicate(
    contenders: Sequence[int], seeds: int, top: int, size: int, asked: Collection[Key]
) -> tuple[int, tuple[int, ...]] | None:
    """The next cohort of the final selection.

    All contenders are trained with one seed before any is with the next, so that wherever it ends
    they have been treated alike.

    Args:
        contenders: trials, the most important first.
        seeds: trainings of each.
        top: the rung that they are trained to.
        size: of a cohort.
        asked: what jobs have been asked for.

    Returns:
        (replicate, trials), or None if all has been asked for.
    """
    for replicate in range(1, seeds + 1):
        missing = [trial for trial in contenders if (trial, top, replicate) not in asked]
        if missing:
            return replicate, tuple(missing[:size])
    return None


def standing_of(
    record: Record, metric: str, names: Sequence[CostName], *, baseline: bool
) -> Standing:
    """What a record of the search says to the promotion rule.

    Args:
        record: of one trial at one rung.
        metric: the study's quality.
        names: what it optimises beside, the one by which trials are binned first.
        baseline: others are held against it.
    """
    if record.state == "failed":
        return Standing(record.trial, record.rung, 0, None)
    costs = {name: cost_of(record, name) for name in names}
    quality, *others = values_of(record.metrics[metric].value, costs)
    values = (-quality, *others)
    return Standing(
        record.trial,
        record.rung,
        costs[names[0]],
        values,
        feasible=not record.is_full,
        baseline=baseline,
    )
