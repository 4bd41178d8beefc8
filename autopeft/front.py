"""Front: the non-dominated records of a study, quality against one to three costs.

The space of the hypervolume and the knee has an axis for each, from 0 to 1 for the shipped metrics:

- a cost whose sizes differ by orders of magnitude: `log(1 + cost) / log(1 + worst)`; memory and
  times: `cost / worst`. The worst is the budget where there is one (it is in `trainable_params`),
  otherwise that of the costliest trial;
- quality as measured, a negative correlation counting as 0.

The reference point is (cost 1, quality 0). So a point that uses the whole budget adds nothing to
the hypervolume, and hypervolumes compare only between fronts of the same worst costs and metric.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, get_args

from autopeft.errors import ConfigError, DataError
from autopeft.objectives import COSTS, PARAMS, CostName, cost_of
from autopeft.pooling import pooled_over_rungs
from autopeft.records import Objective, Record

Direction = Literal["maximize"]


@dataclass(frozen=True)
class Point:
    """A trial that no other one beats in quality and all costs.

    Attributes:
        trial: number of the trial in its study.
        quality: mean of the metric over the replicates at the trial's highest rung.
        stderr: standard error of `quality`.
        pooled: quality by all the trial's rungs, see `pooling`; what is best, the knee and the
            recommendation go by it.
        trainable_params: of the ops, the head not counted.
        fraction: `trainable_params` over the parameters of the backbone.
        objectives: other measurements, of the first of these replicates.
        genotype: `Genotype.to_dict()`; to be treated as read-only.
        summary: the genotype in words.
    """

    trial: int
    quality: float
    stderr: float
    pooled: float
    trainable_params: int
    fraction: float
    objectives: dict[str, Objective]
    genotype: dict[str, Any]
    summary: str


@dataclass(frozen=True)
class Reference:
    """The worst corner of the plane of quality and parameters."""

    quality: float
    trainable_params: int


@dataclass(frozen=True)
class Front:
    """The points of a front and what follows from them.

    Attributes:
        metric: the name of the quality.
        direction: which quality is better.
        points: by ascending cost, the first one first; with one cost hence by ascending quality.
        hypervolume: share of the space between reference and front, see the module.
        reference: quality 0 and the budget in parameters.
        recommended: trial of the cheapest point whose pooled quality is within one standard error
            of the best point's, that error being the best point's own: the one-standard-error rule
            (Breiman et al. 1984, section 3.4.3). With several costs the cheapest is the one with
            the least mean of them, each on its axis. None if there is no point.
        worst: the costs, and of each the value where its axis ends.
    """

    metric: str
    direction: Direction
    points: tuple[Point, ...]
    hypervolume: float
    reference: Reference
    recommended: int | None
    worst: Mapping[CostName, float]

    @property
    def best(self) -> Point | None:
        """The point of the highest pooled quality, the cheapest of equals; None without points."""
        return max(self.points, key=lambda point: point.pooled, default=None)

    @property
    def judged(self) -> str:
        """How the best is told, in words that follow it; nothing where that is by its score."""
        pooled = any(point.pooled != point.quality for point in self.points)
        return ", by the scores at all rungs" if pooled else ""

    @property
    def knee(self) -> int | None:
        """Trial of the point farthest above the line through the first and the last point.

        With several costs their mean takes the place of the one, each measured from the cheapest
        to the costliest point of the front. Where no point is above the line, as with fewer than
        three points, it is the best one; None if there is no point.
        """
        if not self.points:
            return None
        axes = zip(*(self._place(point) for point in self.points), strict=True)
        *costs, quality = (_spread(axis) for axis in axes)
        if not any(quality):  # none differs from another above 0
            costs = []
        heights = [q - sum(c) / (len(c) or 1) for q, *c in zip(quality, *costs, strict=True)]
        best = max(range(len(heights)), key=lambda i: (heights[i], self.points[i].pooled, i))
        return self.points[best].trial

    def _place(self, point: Point) -> tuple[float, ...]:
        return (*_costs(point, self.worst), max(point.pooled, 0))


def front_of(
    records: Iterable[Record],
    metric: str,
    direction: Direction,
    max_params: int,
    summarize: Callable[[dict[str, Any]], str],
    costs: Mapping[CostName, float | None] | None = None,
) -> Front:
    """Find the points that no other one beats, and what to recommend among them.

    A trial is measured by its complete records at its highest rung. A trial that ever gave NaN or
    diverged is left out: the replicates that survived would flatter it. Other failures are
    accidents and take nothing from its complete records. Of trials equal in quality and
    costs the one with the lowest number stays. Records of the final selection do not count.

    Args:
        records: of one study, in any order.
        metric: the name of the quality.
        direction: "maximize", the only one so far.
        max_params: the budget; what is above it is left out.
        summarize: says in words what a genotype is.
        costs: what else counts, and the budget of each where there is one; `trainable_params` alone
            if None.

    Raises:
        ConfigError: an unknown direction or a negative budget.
        DataError: records that cannot be compared, or lack a cost, see the message.
    """
    if direction not in get_args(Direction):
        raise ConfigError(f"direction is {direction!r}, allowed: {', '.join(get_args(Direction))}")
    if max_params < 0:
        raise ConfigError(f"max_params is {max_params}, allowed: a whole number from 0")
    candidates = points_of(records, metric, max_params)
    worst = _worst(candidates, max_params, costs or {PARAMS: None})
    points = tuple(
        replace(point, summary=summarize(point.genotype))
        for point in _non_dominated(candidates, tuple(worst))
    )
    places = [(*_costs(point, worst), point.quality) for point in points]
    return Front(
        metric=metric,
        direction=direction,
        points=points,
        hypervolume=volume(places),
        reference=Reference(quality=0.0, trainable_params=max_params),
        recommended=_recommended(points, worst),
        worst=worst,
    )


def points_of(records: Iterable[Record], metric: str, max_params: int) -> list[Point]:
    """Every usable trial of a search as a point without words, as `front_of` sees it.

    Full fine-tuning is a baseline and none of them, whatever the budget.

    Raises:
        DataError: records that cannot be compared, see the message.
    """
    return _points(
        [
            group
            for group in _comparable(records)
            if group[0].trainable_params <= max_params and not group[0].is_full
        ],
        metric,
    )


def full_points_of(records: Iterable[Record], metric: str) -> list[Point]:
    """The trials of full fine-tuning, as `points_of` tells the others.

    Raises:
        DataError: records that cannot be compared, see the message.
    """
    return _points([group for group in _comparable(records) if group[0].is_full], metric)


def volume(places: Sequence[tuple[float, ...]]) -> float:
    """Share of the space described in the module that these points dominate.

    Args:
        places: of each point its costs on their axes, then its quality; dominated ones allowed.
    """
    if not places:
        return 0.0
    import moocore  # noqa: PLC0415  # with numpy 0.1 s, which reading a front need not wait for

    n_costs = len(places[0]) - 1
    # points beyond the reference, of negative quality, dominate nothing
    reference, up = (*[1.0] * n_costs, 0.0), (*[False] * n_costs, True)
    return float(moocore.hypervolume(places, ref=reference, maximise=up))


def place(name: CostName, value: float, worst: float) -> float:
    """Where a cost stands on its axis, 1 being the worst."""
    end = COSTS[name].scaled(worst)
    return COSTS[name].scaled(value) / end if end else 0.0


def mean_quality(replicates: Sequence[Record], metric: str) -> tuple[float, float]:
    """Mean quality and its standard error over new seeds and new rows.

    All replicates see the same rows, so averaging them shrinks the variance over seeds only:
    `stderr**2 = mean(stderr_i**2) + var(quality) / n`, with the unbiased variance.

    Args:
        replicates: complete records of one trial at one rung.
        metric: the name of the quality.

    Raises:
        DataError: one of them lacks it.
    """
    for record in replicates:
        if metric not in record.metrics:
            raise DataError(
                f"trial {record.trial}, rung {record.rung}, replicate {record.replicate} has no "
                f"metric {metric!r}, it has: {', '.join(record.metrics)}"
            )
    values = [record.metrics[metric].value for record in replicates]
    errors = [record.metrics[metric].stderr for record in replicates]
    if len(values) == 1:
        return values[0], errors[0]
    over_rows = math.hypot(*errors) / math.sqrt(len(errors))
    over_seeds = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), math.hypot(over_rows, over_seeds)


def complete_of(records: Iterable[Record]) -> list[Record]:
    """The complete records of a trial in the search; none if it ever gave NaN or diverged."""
    searched = [record for record in records if record.is_searched]
    if any(record.failure and not record.failure.is_accident for record in searched):
        return []
    return [record for record in searched if record.state == "complete"]


def _comparable(records: Iterable[Record]) -> list[list[Record]]:
    """For each usable trial its complete records, by rung and replicate."""
    trials: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.is_searched:
            trials[record.trial].append(record)
    groups = []
    for trial, group in trials.items():
        if len({(record.hash, record.trainable_params) for record in group}) > 1:
            raise DataError(f"the records of trial {trial} are of different genotypes")
        if len({record.key for record in group}) < len(group):
            raise DataError(f"trial {trial} has two records for one rung and replicate")
        if complete := complete_of(group):
            groups.append(sorted(complete, key=lambda record: record.key))
    splits = sorted({record.split for group in groups for record in group})
    if len(splits) > 1:
        raise DataError(f"qualities on different splits do not compare: {', '.join(splits)}")
    return groups


def _points(groups: Sequence[list[Record]], metric: str) -> list[Point]:
    """What the complete records of each trial say of it."""
    tops, qualities = {}, {}
    for group in groups:
        rungs = {
            rung: tuple(replicates)
            for rung, replicates in groupby(group, lambda record: record.rung)
        }
        measured = {rung: mean_quality(found, metric) for rung, found in rungs.items()}
        top = max(rungs)
        tops[group[0].trial] = rungs[top][0], *measured[top]
        qualities[group[0].trial] = {rung: value for rung, (value, _) in measured.items()}
    pooled = pooled_over_rungs(qualities)
    return [
        Point(
            trial=trial,
            quality=quality,
            stderr=stderr,
            pooled=pooled[trial],
            trainable_params=first.trainable_params,
            fraction=first.fraction,
            objectives=first.objectives,
            genotype=first.genotype,
            summary="",
        )
        for trial, (first, quality, stderr) in tops.items()
    ]


def _worst(
    candidates: Sequence[Point], max_params: int, costs: Mapping[CostName, float | None]
) -> dict[CostName, float]:
    """Where the axis of each cost ends: at its budget, or else at the costliest trial."""
    limits = {**costs} | ({PARAMS: float(max_params)} if PARAMS in costs else {})
    return {
        name: max((cost_of(point, name) for point in candidates), default=0.0)
        if limit is None
        else limit
        for name, limit in limits.items()
    }


def _non_dominated(candidates: list[Point], names: Sequence[CostName]) -> list[Point]:
    """The points that no other one beats; of equal ones the first trial. Sorted by cost."""
    if not candidates:
        return []
    import moocore  # noqa: PLC0415 - as above

    places = {p.trial: (*(cost_of(p, name) for name in names), -p.quality) for p in candidates}
    in_order = sorted(candidates, key=lambda point: (places[point.trial], point.trial))
    keep = moocore.is_nondominated([places[point.trial] for point in in_order])
    return [point for point, is_kept in zip(in_order, keep, strict=True) if is_kept]


def unbeaten(
    candidates: Sequence[Point], final: Collection[int], names: Sequence[CostName]
) -> set[int]:
    """The trials that may be on the front at the end of a search.

    Which others beat them now does not matter: the quality of a trial may still fall at a higher
    rung, and then what it beat is back.

    Args:
        candidates: usable trials.
        final: those whose quality does not change any more.
        names: of the costs.
    """

    def at(point: Point) -> tuple[tuple[float, ...], int]:
        return (*(cost_of(point, name) for name in names), -point.quality), point.trial

    ends = [*map(at, _non_dominated([p for p in candidates if p.trial in final], names))]
    return {
        here[1]
        for here in map(at, candidates)
        if not any(
            end < here and all(a <= b for a, b in zip(end[0], here[0], strict=True)) for end in ends
        )
    }


def _recommended(points: Sequence[Point], worst: Mapping[CostName, float]) -> int | None:
    if not points:
        return None
    best = max(points, key=lambda point: point.pooled)
    near = [point for point in points if point.pooled >= best.pooled - best.stderr]
    return min(near, key=lambda point: statistics.fmean(_costs(point, worst))).trial


def _costs(point: Point, worst: Mapping[CostName, float]) -> tuple[float, ...]:
    """The costs of a point on their axes."""
    return tuple(place(name, cost_of(point, name), end) for name, end in worst.items())


def _spread(values: Sequence[float]) -> list[float]:
    """Values moved and stretched to reach from 0 to 1; zeros if they are all equal."""
    least, most = min(values), max(values)
    return [(value - least) / (most - least) if most > least else 0.0 for value in values]
