"""The final selection from its records: estimates, comparisons with tuned LoRA, recommendation."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from autopeft.row_scores import RowScores
from autopeft.selection import (
    Comparison,
    Contender,
    Lead,
    Role,
    Selection,
    best_of,
    candidates,
)
from autopeft.study.contenders import BASELINES, FEWEST, kind_of
from autopeft.tasks.spec import metric_range

Replicates = dict[int, NDArray[np.float64]]
"""The score of each row, by the number of the fresh seed."""


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
    seen: int = 0,
    constant: Sequence[RowScores] = (),
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
        seen: rows of the selection split with a text that is also among those of the search.
        constant: what one answer adds at each of these rows, of each fold if there are several.

    Returns:
        None if fewer than two contenders have two seeds each.

    Raises:
        DataError: the records are of different rows.
    """
    searched = {point.trial: point for point in points}
    known = {point.trial: point for point in paused} | searched
    unseen = sorted(
        (r for r in records if r.trial in roles and _is_of_selection(r)), key=lambda r: r.key
    )
    complete = [record for record in unseen if record.state == "complete"]
    crossed = all(record.split == SELECTION for record in complete)
    rows_of, notes = _scores(unseen, roles, crossed=crossed)
    if len(rows_of) < FEWEST:
        return None
    scores = {trial: np.stack([*rows.values()]) for trial, rows in rows_of.items()}
    if len({item.shape[1] for item in scores.values()}) > 1:
        raise DataError("the records of the selection split are of different numbers of rows")
    full = {trial for trial in scores if roles[trial] == "full"}
    if not scores.keys() - full:
        return None
    kinds = {trial: kind_of(known[trial].genotype) for trial in scores}
    order = sorted(known, key=lambda t: (t not in searched, -known[t].pooled, t))
    roles = _with_a_lora(roles, kinds, order)
    frozen = {r.trial for r in complete if r.trainable_params == r.head_params == 0}
    seeds, told = _seeds(scores, full, frozen, crossed=crossed)
    measured = {record.trial: record.objectives for record in reversed(complete)}
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
        comparisons=tuple(_comparisons(found, kinds, order, scores, seeds)),
        recommended=_cheapest(
            [c for c in possible if c.quality >= best.quality - best.stderr], possible, costs
        ),
        notes=(*notes, *told, *filter(None, (other_answers,))),
        search_compares=other_answers is None,
        folds=not crossed,
        seen=seen,
        lead=_lead(
            scores[best.trial],
            seeds[best.trial],
            [constant[(r - 1) % len(constant)].values() for r in rows_of[best.trial] if constant],
            among=len(possible),
        ),
    )


def _lead(
    scores: Scores,
    seeds: SeedVariance,
    constant: Sequence[NDArray[np.float64]],
    *,
    among: int,
) -> Lead | None:
    """The best candidate against one answer to every row.

    Args:
        scores: of the candidate.
        seeds: what they add to it.
        constant: scores of the answer, as many as `scores` has seeds; none if nobody can tell.
        among: candidates that it is the best of.
    """
    if not constant or {len(rows) for rows in constant} != {scores.shape[1]}:
        return None
    answer = np.stack(constant)
    exact = SeedVariance(0.0, 0.0, math.inf, seeds.crossed)  # nothing is trained
    found = difference(scores, answer, seeds, exact)
    return Lead(
        float(answer.mean()),
        found.mean,
        *found.interval(),
        min(1.0, among * found.p_value),
    )


def _cheapest(near: list[Contender], found: list[Contender], names: Sequence[CostName]) -> int:
    """The contender with the least mean of its costs, each on its axis, see `place`.

    An axis ends at the largest cost of all that can be recommended.
    """

    def cost(item: Contender, name: CostName) -> float:
        return float(item.trainable_params) if name == PARAMS else item.costs[name].value

    ends = {name: max(cost(item, name) for item in found) for name in names}

    def mean(item: Contender) -> float:
        return sum(place(name, cost(item, name), end) for name, end in ends.items())

    return min(near, key=mean).trial


def _is_of_selection(record: Record) -> bool:
    """Whether it is of a fresh seed; failures of earlier versions tell of the search's rows."""
    return record.replicate > 0 if record.failure else not record.is_searched


def _scores(
    records: Iterable[Record], roles: Mapping[int, Role], *, crossed: bool
) -> tuple[dict[int, Replicates], list[str]]:
    """Scores of each contender, and what does not count.

    Whose genotype failed with a fresh seed is left out: the seeds that survived would flatter it.
    An accident takes nothing from the others.

    Args:
        records: of the final selection, by key.
        roles: of the contenders, the most important first.
        crossed: all seeds were scored on the same rows.
    """
    by_trial: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_trial[record.trial].append(record)
    found: dict[int, Replicates] = {}
    notes = []
    for trial in roles:
        failures = [record.failure for record in by_trial[trial] if record.failure]
        failures.sort(key=lambda failure: failure.is_accident)
        rows = {
            record.replicate: record.row_scores.values()
            for record in by_trial[trial]
            if record.row_scores is not None
        }
        enough = len(rows) >= FEWEST
        if failures and not (enough and failures[0].is_accident):
            kind = failures[0].kind
            notes.append(f"trial {trial} is left out: with a fresh seed it failed ({kind})")
        elif enough:
            found[trial] = rows
            notes += [
                f"trial {trial} failed with a fresh seed ({failure.kind}): its other seeds count"
                for failure in failures
            ]
    if not crossed:
        found, told = _in_common(found)
        notes += told
    return found, notes


def _in_common(found: Mapping[int, Replicates]) -> tuple[dict[int, Replicates], list[str]]:
    """The replicates that all contenders have, where each is scored on rows of its own.

    One that has too few of those of the more important ones is left out.
    """
    shared: set[int] = set()
    kept: list[int] = []
    notes = []
    for trial, rows in found.items():
        both = shared & rows.keys() if kept else {*rows}
        if len(both) >= FEWEST:
            shared = both
            kept.append(trial)
        else:
            notes.append(f"trial {trial} is left out: too few of its seeds are those of the others")
    cut = sorted({replicate for trial in kept for replicate in found[trial]} - shared)
    notes += [
        f"fresh seed {replicate} does not count: not all contenders were trained with it, and "
        "each seed is scored on other rows"
        for replicate in cut
    ]
    return {trial: {r: found[trial][r] for r in sorted(shared)} for trial in kept}, notes


def _seeds(
    scores: Mapping[int, Scores], full: Collection[int], frozen: Collection[int], *, crossed: bool
) -> tuple[dict[int, SeedVariance], list[str]]:
    """What seeds add to each contender, and whose seeds are not like those of the others."""
    tuned = [trial for trial in scores if trial not in full]
    of_each = seeds_of_each(
        [scores[trial] for trial in tuned],
        crossed=crossed,
        frozen={i for i, trial in enumerate(tuned) if trial in frozen},
    )
    seeds = dict(zip(tuned, of_each, strict=True))
    seeds |= {trial: pooled_seeds([scores[trial]], crossed=crossed) for trial in full}
    trained = [trial for trial in tuned if trial not in frozen]
    odd = outlying([scores[trial] for trial in trained])
    if odd is None:
        return seeds, []
    trial = trained[odd]
    found = ", ".join(f"{mean:.4f}" for mean in sorted(scores[trial].mean(axis=1)))
    return seeds, [
        (
            f"trial {trial} depends on its seed far more than the others ({found}): "
            "what its seeds add is estimated for it alone"
        )
    ]


def _with_a_lora(
    roles: Mapping[int, Role], kinds: Mapping[int, str | None], order: Sequence[int]
) -> Mapping[int, Role]:
    """The roles; where the search's best LoRA has dropped out, the best that is left has its."""
    loras = [trial for trial in order if kinds.get(trial) == "lora"]
    if not loras or any(roles[trial] == "lora" for trial in loras):
        return roles
    return {**roles, loras[0]: "lora"}


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
    found: Sequence[Contender],
    kinds: Mapping[int, str | None],
    order: Sequence[int],
    scores: Mapping[int, Scores],
    seeds: Mapping[int, SeedVariance],
) -> list[Comparison]:
    """Each contender against the LoRA of at least its size that the search thought best.

    One that is larger than every LoRA is held against the best of all: were it no better, its
    parameters would be for nothing. The part of the error rate that is kept for the contender that
    the search thought best goes to one that is not, since the verdict is about these. LoRA is
    compared with nothing, whatever its role; nor are the head alone and full fine-tuning.

    Args:
        found: the contenders.
        kinds: of their genotypes.
        order: the trials, the one that the search thought best first.
        scores: of the contenders.
        seeds: what they add to each.
    """
    size = {item.trial: item.trainable_params for item in found}
    ordered = [trial for trial in order if trial in size]
    loras = [trial for trial in ordered if kinds[trial] == "lora"]
    rivals = [trial for trial in ordered if kinds[trial] not in BASELINES and loras]
    within = {
        trial: as_large[0]
        for trial in rivals
        if (as_large := [lora for lora in loras if size[lora] >= size[trial]])
    }
    against = {trial: within[trial] if trial in within else loras[0] for trial in rivals}
    estimates = {
        one: difference(scores[one], scores[other], seeds[one], seeds[other])
        for one, other in against.items()
    }
    p_values = adjusted(
        {trial: estimate.p_value for trial, estimate in estimates.items()},
        next(iter(within), None),
    )
    comparisons = [
        Comparison(trial, against[trial], estimate.mean, *estimate.interval(), p_values[trial])
        for trial, estimate in estimates.items()
    ]
    return sorted(comparisons, key=lambda item: (item.p_value, -item.difference, item.trial))
