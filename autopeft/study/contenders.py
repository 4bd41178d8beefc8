"""Who takes part in the final selection, and with how many seeds: a function of the search."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from autopeft.front import Front, Point
from autopeft.selection import Role
from autopeft.space.genotype_file import genotype_from_dict

MOST_OF_THE_FRONT = 10
FEWEST = 2
"""Contenders, and seeds of each, below which a selection says nothing."""
BASELINES: tuple[Role, ...] = ("lora", "head", "full")
"""Kinds that others are held against."""
ENOUGH = 4
"""Contenders that are worth more than a third seed."""


def contenders(
    points: Sequence[Point], front: Front, most: int, paused: Sequence[Point] = ()
) -> dict[int, Role]:
    """The trials to train again, the most important first.

    Args:
        points: every usable trial of the search, full fine-tuning included.
        front: of the search.
        most: how many there may be.
        paused: usable trials that a lower rung has measured by another metric: they stand for the
            methods and baselines that have nobody else.

    Returns:
        Roles by trial: what is recommended, the best LoRA, the head alone, full fine-tuning at its
        best learning rate, the front from its best point down, and the best genotype of each other
        single form.
    """
    ordered: list[tuple[int, Role]] = []
    best = _best_of_each_kind(paused) | _best_of_each_kind(points)
    last = {point.trial for point in paused}
    if front.recommended is not None:
        ordered.append((front.recommended, "recommended"))
    ordered += [(best.pop(kind).trial, kind) for kind in BASELINES if kind in best]
    others = sorted(front.points, key=lambda point: -point.pooled)[:MOST_OF_THE_FRONT]
    ordered += [(point.trial, "front") for point in others]
    by_quality = sorted(best.values(), key=lambda p: (p.trial in last, -p.pooled, p.trial))
    ordered += [(point.trial, "method") for point in by_quality]
    chosen: dict[int, Role] = {}
    for trial, role in ordered:
        if trial not in chosen and len(chosen) == most:
            break
        if chosen.get(trial) in {None, "recommended"} and role in {"lora", "head"}:
            chosen[trial] = role  # a baseline stays one, even if it is recommended
        chosen.setdefault(trial, role)
    return chosen


def may_be_best(
    points: Sequence[Point], final: Collection[int], paused: Sequence[Point] = ()
) -> set[int]:
    """The trials that may be the best of their kind at the end of a search.

    One that is the best now may fall at a higher rung, and then what it beat is back.

    Args:
        points: every usable trial of the search, full fine-tuning included.
        final: trials whose quality does not change any more.
        paused: usable trials that a lower rung has measured by another metric.
    """
    ends = _best_of_each_kind(point for point in points if point.trial in final)
    found = set()
    for point in (*points, *paused):
        kind = kind_of(point.genotype)
        if kind is not None and (kind not in ends or _merit(point) <= _merit(ends[kind])):
            found.add(point.trial)
    return found


def affordable(trainings: int, seeds: int) -> tuple[int, int]:
    """How many contenders with how many seeds a number of trainings pays for.

    Args:
        trainings: full ones.
        seeds: wanted for each contender.

    Returns:
        (contenders, seeds); (0, 0) where it is too little for a selection.
    """
    while seeds > FEWEST and trainings // seeds < ENOUGH:
        seeds -= 1
    if seeds < FEWEST or trainings // seeds < FEWEST:
        return 0, 0
    return trainings // seeds, seeds


def trained_anew(
    chosen: Sequence[int],
    trainings: int,
    seeds: int,
    asked: Collection[tuple[int, int]],
    payable: int,
) -> tuple[list[int], int]:
    """Who is trained anew, with how many seeds: all of these trainings are asked for or payable.

    Those that have been begun are among them. If they have become dearer than what is left, they
    still get the fewest seeds, since what they have taken would otherwise be for nothing.

    Args:
        chosen: contenders, the most important first.
        trainings: that are planned at most.
        seeds: wanted for each contender.
        asked: (trial, seed) that have been asked for.
        payable: trainings that the time left pays for beside those.

    Returns:
        (contenders, seeds); nobody, where it is too little for a selection.
    """
    begun = [trial for trial in chosen if (trial, 1) in asked]
    if len(chosen) < FEWEST:
        return [], 0
    for count in range(trainings, FEWEST**2 - 1, -1):
        most, fresh = affordable(count, seeds)
        some = [trial for i, trial in enumerate(chosen) if i < most or trial in begun]
        if len(_missing(some, fresh, asked)) <= payable:
            return some, fresh
    if not _missing(begun, FEWEST, asked):
        return [], 0
    return [*dict.fromkeys((*begun, *chosen))][: max(FEWEST, len(begun))], FEWEST


def _missing(
    trials: Iterable[int], seeds: int, asked: Collection[tuple[int, int]]
) -> set[tuple[int, int]]:
    return {(trial, seed + 1) for trial in trials for seed in range(seeds)} - {*asked}


def _best_of_each_kind(points: Iterable[Point]) -> dict[str, Point]:
    """The best point of each single method; of equals the smaller, then the earlier."""
    best: dict[str, Point] = {}
    for point in sorted(points, key=_merit):
        kind = kind_of(point.genotype)
        if kind is not None:
            best.setdefault(kind, point)
    return best


def _merit(point: Point) -> tuple[float, int, int]:
    return -point.pooled, point.trainable_params, point.trial


def kind_of(genotype: dict[str, Any]) -> str | None:
    """`head`, `full`, `lora`, the form that all ops have, or None for a mixture."""
    read = genotype_from_dict(genotype)
    if read.full:
        return "full"
    if not read.ops:
        return "head"
    if read.is_lora:
        return "lora"
    forms = {op.form for op in read.ops}
    return str(forms.pop()) if len(forms) == 1 else None
