"""The final selection from its records: estimates, comparisons with tuned LoRA, recommendation."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autopeft.errors import DataError
from autopeft.estimate import (
    Estimate,
    Scores,
    SeedVariance,
    adjusted,
    difference,
    outlying,
    pooled_seeds,
    quality,
    seeds_of_each,
)
from autopeft.front import Point, place
from autopeft.objectives import PARAMS, CostName
from autopeft.records import SELECTION, Record
from autopeft.selection import Comparison, Contender, Role, Selection, best_of, candidates
from autopeft.tasks.spec import metric_range


def selection_of(
    records: Iterable[Record],
    roles: Mapping[int, Role],
    *,
    points: Iterable[Point],
    metric: str,
    summarize: Callable[[dict[str, Any]], str],
    costs: Sequence[CostName] = (PARAMS,),
    paused: Iterable[Point] = (),
    other_answers: str | None = None,
) -> Selection | None:
    """What the final selection says.

    Args:
        records: of the study; those of the selection split count.
        roles: of the contenders, the most important first.
        points: every usable trial of the search that has the metric.
        metric: the name of the quality.
        summarize: says in words what a genotype is.
        costs: what the study optimises beside the metric.
        paused: usable trials that the search has measured by another one alone.
        other_answers: why scores of the search do not compare with these, if so.

    Returns:
        None if fewer than two contenders have two seeds each.

    Raises:
        DataError: the records are of different rows.
    """
    searched = {point.trial: point for point in points}
    known = {point.trial: point for point in paused} | searched
    unseen = [record for record in records if not record.is_searched and record.trial in roles]
    scores, notes = _scores(unseen, roles)
    if len(scores) < 2:  # noqa: PLR2004
        return None
    if len({item.shape[1] for item in scores.values()}) > 1:
        raise DataError("the records of the selection split are of different numbers of rows")
    crossed = all(record.split == SELECTION for record in unseen)
    full = {trial for trial in scores if roles[trial] == "full"}
    if not scores.keys() - full:
        return None
    seeds, told = _seeds(scores, full, crossed=crossed)
    measured = {record.trial: record.objectives for record in unseen if record.replicate == 1}
    found = [
        replace(
            _contender(
                known[trial],
                roles[trial],
                metric,
                _estimate(metric, item, seeds[trial], crossed=crossed),
                n_seeds=len(item),
                summarize=summarize,
            ),
            search_quality=searched[trial].quality if trial in searched else None,
            costs={n: measured[trial][n] for n in costs if n != PARAMS and n in measured[trial]},
        )
        for trial, item in scores.items()
    ]
    found.sort(key=lambda item: (item.trainable_params, item.trial))
    possible = candidates(found)
    best = best_of(possible)
    return Selection(
        metric=metric,
        rows=_n_rows(scores[best.trial], crossed=crossed),
        contenders=tuple(found),
        comparisons=tuple(_comparisons(found, scores, seeds)),
        recommended=_cheapest(
            [c for c in possible if c.quality >= best.quality - best.stderr], possible, costs
        ),
        notes=(*notes, *told, *filter(None, (other_answers,))),
        search_compares=other_answers is None,
    )


def _cheapest(near: list[Contender], found: list[Contender], names: Sequence[CostName]) -> int:
    """The contender with the least mean of its costs, each as a part of the largest of all."""

    def cost(item: Contender, name: CostName) -> float:
        return float(item.trainable_params) if name == PARAMS else item.costs[name].value

    ends = {name: max(cost(item, name) for item in found) for name in names}

    def mean(item: Contender) -> float:
        return sum(place(name, cost(item, name), end) for name, end in ends.items())

    return min(near, key=mean).trial


def _scores(
    records: Iterable[Record], roles: Mapping[int, Role]
) -> tuple[dict[int, Scores], list[str]]:
    """Scores [seed, row] of each contender, and who dropped out."""
    by_trial: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_trial[record.trial].append(record)
    scores: dict[int, Scores] = {}
    notes = []
    for trial in roles:
        failed = [record.failure.kind for record in by_trial[trial] if record.failure]
        rows = [
            record.row_scores.values()
            for record in sorted(by_trial[trial], key=lambda record: record.key)
            if record.row_scores is not None
        ]
        if failed:
            notes.append(f"trial {trial} is left out: with a fresh seed it failed ({failed[0]})")
        elif len(rows) > 1:
            scores[trial] = np.stack(rows)
    return scores, notes


def _seeds(
    scores: Mapping[int, Scores], full: Collection[int], *, crossed: bool
) -> tuple[dict[int, SeedVariance], list[str]]:
    """What seeds add to each contender, and whose seeds are not like those of the others."""
    tuned = {trial: item for trial, item in scores.items() if trial not in full}
    of_each = seeds_of_each([*tuned.values()], crossed=crossed)
    seeds = dict(zip(tuned, of_each, strict=True))
    seeds |= {trial: pooled_seeds([scores[trial]], crossed=crossed) for trial in full}
    odd = outlying([*tuned.values()])
    if odd is None:
        return seeds, []
    trial = [*tuned][odd]
    found = ", ".join(f"{mean:.4f}" for mean in sorted(scores[trial].mean(axis=1)))
    return seeds, [
        (
            f"trial {trial} depends on its seed far more than the others ({found}): "
            "what its seeds add is estimated for it alone"
        )
    ]


def _by_search(item: Contender) -> tuple[float, int]:
    """What the search thought best is the largest; of equals the earliest."""
    found = item.search_quality
    return -math.inf if found is None else found, -item.trial


def _n_rows(scores: Scores, *, crossed: bool) -> int:
    n_seeds, n_rows = scores.shape
    return int(n_rows if crossed else n_seeds * n_rows)


def _estimate(metric: str, scores: Scores, seeds: SeedVariance, *, crossed: bool) -> Estimate:
    """The quality, no surer than half of what one row can change.

    That is Wilson's standard error where all rows are right; without it, what happens to be right
    everywhere would be so for certain.
    """
    least, largest = metric_range(metric)
    width = largest - least if math.isfinite(largest) else 0.0
    return quality(scores, seeds).no_surer_than(width / 2 / _n_rows(scores, crossed=crossed))


def _contender(
    point: Point,
    role: Role,
    metric: str,
    estimate: Estimate,
    *,
    n_seeds: int,
    summarize: Callable[[dict[str, Any]], str],
) -> Contender:
    (least, largest), (low, high) = metric_range(metric), estimate.interval()
    return Contender(
        trial=point.trial,
        role=role,
        trainable_params=point.trainable_params,
        fraction=point.fraction,
        summary=summarize(point.genotype),
        search_quality=None,
        quality=estimate.mean,
        stderr=estimate.stderr,
        low=max(low, least),
        high=min(high, largest),
        seeds=n_seeds,
    )


def _comparisons(
    found: list[Contender], scores: Mapping[int, Scores], seeds: Mapping[int, SeedVariance]
) -> list[Comparison]:
    """Each contender against the LoRA of at least its size that the search thought best."""
    loras = [item for item in found if item.role == "lora"]
    against: dict[int, int] = {}
    estimates: dict[int, Estimate] = {}
    for item in found:
        larger = [lora for lora in loras if lora.trainable_params >= item.trainable_params]
        if item.role not in {"lora", "head", "full"} and larger:
            baseline = max(larger, key=_by_search)
            against[item.trial] = baseline.trial
            one, other = item.trial, baseline.trial
            estimates[one] = difference(scores[one], scores[other], seeds[one], seeds[other])
    hoped = [item for item in found if item.trial in against]
    first = max(hoped, key=_by_search).trial if hoped else None
    p_values = adjusted({trial: e.p_value for trial, e in estimates.items()}, first)
    comparisons = [
        Comparison(trial, against[trial], estimate.mean, *estimate.interval(), p_values[trial])
        for trial, estimate in estimates.items()
    ]
    return sorted(comparisons, key=lambda item: (item.p_value, -item.difference, item.trial))
