"""Which trials may train on: a pure function of what the rungs have measured.

Trials come in brackets of `reduction ** rungs`. A rung of a bracket is full when each of its trials
has arrived there, measured or failed; then it is decided, once, and only then. So a decision knows
all that it compares, arrivals in any order lead to the same one, and no later arrival takes it
back. Other brackets go on meanwhile, so no worker waits for a rung to fill.

The cost of a trial is the same at every rung. Compared with all others, tiny trials would
stay non-dominated for ever and take the places: trials are compared with those of like cost (the
first of several), in `reduction` bins of equal count, and each bin has a share of the places. Of a
bin's non-dominated trials those that add most to the hypervolume go on (Emmerich, Beume and Naujoks
2005); a dominated one never does, even if places are left. Brackets are successive halving
(Jamieson and Talwalkar 2016), except that who does not go on is paused and not stopped.

One is beside them: when all have arrived at a rung, the best of those that others are held against
(LoRA) goes on from it, whatever dominates it. Otherwise the baseline of a verdict is the best of
those that were small enough for a place, and what was to be beaten was trained for a part of the
time. It takes nobody's place, at the next rung neither.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

REFERENCE = 1.1
"""Worst corner of a rung for the hypervolume, its values scaled to 0..1; beyond 1, so that the
ends of a front count."""


@dataclass(frozen=True)
class Standing:
    """What a rung has measured of a trial.

    Attributes:
        trial: its number in the study, from 0.
        rung: level of the training budget, from 0.
        cost: by which it is binned.
        values: of the objectives, smaller is better; None if it failed.
        feasible: it is within every budget; otherwise it never goes on.
        baseline: others are held against it.
    """

    trial: int
    rung: int
    cost: float
    values: tuple[float, ...] | None
    feasible: bool = True
    baseline: bool = False


def promotions(
    standings: Iterable[Standing], *, trials: int, rungs: int, reduction: int
) -> tuple[tuple[int, ...], ...]:
    """The trials of each rung above the lowest, those that are there and those that may go there.

    Args:
        standings: at most one for each trial and rung, in any order.
        trials: of the study in all; its last bracket may be a part of one.
        rungs: levels of the training budget.
        reduction: about one of so many trials goes on, at least 2.

    Returns:
        For rung 1, 2, ... the trial numbers, ascending. A trial that has a standing at a rung is
        among them, so a study that is made longer goes back on nothing.
    """
    arrived: list[dict[int, Standing]] = [{} for _ in range(rungs)]
    for standing in standings:
        arrived[standing.rung][standing.trial] = standing
    size = reduction**rungs
    chosen: list[list[int]] = [[] for _ in range(rungs - 1)]
    for first in range(0, trials, size):
        bracket = range(first, min(first + size, trials))
        members, is_full = list(bracket), True
        for rung, above in enumerate(arrived[1:]):
            here = [arrived[rung][trial] for trial in members if trial in arrived[rung]]
            is_full = is_full and len(here) == len(members)
            decided = winners(here, reduction) if is_full else ()
            there = {trial for trial in bracket if trial in above}
            chosen[rung] += sorted({*decided, *there})
            beside = {trial for trial in there if above[trial].baseline}.difference(decided)
            members = sorted({*decided, *there} - beside)
    members = list(range(trials))
    for rung, chosen_here in enumerate(chosen):
        if any(trial not in arrived[rung] for trial in members):
            break
        best = _best_baseline(arrived[rung][trial] for trial in members)
        members = chosen[rung] = sorted({*chosen_here, *best})
    return tuple(map(tuple, chosen))


def winners(standings: Iterable[Standing], reduction: int) -> tuple[int, ...]:
    """The trials that go on from a full rung of a bracket.

    Args:
        standings: of all trials of the rung, in any order.
        reduction: about one of so many goes on.

    Returns:
        Trial numbers, ascending. Of trials with equal values only the first counts.
    """
    usable = sorted(
        (s for s in standings if s.values is not None and s.feasible), key=lambda s: s.trial
    )
    if not usable:
        return ()
    values = np.array([s.values for s in usable], np.float64)
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    best: list[int] = []
    for members in _bins([s.cost for s in usable], reduction):
        places = max(1, len(members) // reduction)
        front = members[moocore.is_nondominated(values[members])]
        added = moocore.hv_contributions(scaled[front], ref=[REFERENCE] * values.shape[1])
        best += front[np.argsort(-added, kind="stable")][:places].tolist()
    return tuple(sorted(usable[i].trial for i in best))


def _best_baseline(standings: Iterable[Standing]) -> list[int]:
    """The baseline of the highest quality, which is the first of the values; none without any.

    Of equals it is the cheapest, then the first.
    """
    usable = [(s.values, s.trial) for s in standings if s.baseline and s.feasible and s.values]
    return [trial for _, trial in sorted(usable)[:1]]


def rung_steps(steps: int, rungs: int, reduction: int) -> tuple[int, ...]:
    """Optimizer steps from the start of a trial to each rung, the last one being all of them.

    Args:
        steps: of the whole training.
        rungs: levels at most; fewer come out where there are too few steps to tell them apart.
        reduction: ratio of one level to the one below.
    """
    levels = {max(1, round(steps / reduction**below)) for below in range(rungs)}
    return tuple(sorted(levels))


def _bins(costs: Sequence[float], reduction: int) -> list[NDArray[np.int64]]:
    """Positions by cost, in bins of equal count; those of one cost are never parted."""
    n_bins = max(1, min(reduction, len(costs) // reduction))
    ordered = sorted(costs)
    edges = [ordered[len(ordered) * i // n_bins] for i in range(1, n_bins)]
    where = np.searchsorted(edges, costs, side="right")
    return [np.flatnonzero(where == i) for i in range(n_bins) if (where == i).any()]
