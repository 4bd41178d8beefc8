"""Front: the non-dominated records of a study, quality against trainable parameters.

The plane of the hypervolume and the knee has two axes, both from 0 to 1 for the shipped metrics:

- cost, `log10(1 + trainable_params) / log10(1 + max_params)`: sizes differ by orders of magnitude,
  and the budget is 1;
- quality as measured, a negative correlation counting as 0.

The reference point is (cost 1, quality 0). So a point that uses the whole budget adds nothing to
the hypervolume, and hypervolumes compare only between fronts of the same budget and metric.
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, get_args

from autopeft import checks
from autopeft.errors import ConfigError, DataError
from autopeft.files import read_json, write_atomic
from autopeft.records import UNSEEN, Objective, Record, check_objectives

FRONT_VERSION = 1

Direction = Literal["maximize"]

_PROPERTIES_OF_THE_GENOTYPE = {"nan", "diverged"}


@dataclass(frozen=True)
class Point:
    """A trial that no other one beats in both quality and trainable parameters.

    Attributes:
        trial: number of the trial in its study.
        quality: mean of the metric over the replicates at the trial's highest rung.
        stderr: standard error of `quality`.
        trainable_params: of the ops, the head not counted.
        fraction: `trainable_params` over the parameters of the backbone.
        objectives: other measurements, of the first of these replicates.
        genotype: `Genotype.to_dict()`; to be treated as read-only.
        summary: the genotype in words.
    """

    trial: int
    quality: float
    stderr: float
    trainable_params: int
    fraction: float
    objectives: dict[str, Objective]
    genotype: dict[str, Any]
    summary: str


@dataclass(frozen=True)
class Reference:
    """The worst corner of the plane that the hypervolume is measured from."""

    quality: float
    trainable_params: int


@dataclass(frozen=True)
class Front:
    """The points of a front and what follows from them.

    Attributes:
        metric: the name of the quality.
        direction: which quality is better.
        points: by ascending trainable parameters, hence ascending quality.
        hypervolume: share of the plane between reference and front, see the module.
        reference: the corner of that plane.
        recommended: trial of the cheapest point whose quality is within one standard error of the
            best point's, that error being the best point's own: the one-standard-error rule
            (Breiman et al. 1984, section 3.4.3). None if there is no point.
    """

    metric: str
    direction: Direction
    points: tuple[Point, ...]
    hypervolume: float
    reference: Reference
    recommended: int | None

    @property
    def knee(self) -> int | None:
        """Trial of the point farthest above the line through the first and the last point.

        The distance is taken in the plane of the module. Where no point is above the line, as
        with fewer than three points, it is the best one; None if there is no point.
        """
        if not self.points:
            return None
        plane = [
            (_cost(point.trainable_params, self.reference.trainable_params), max(point.quality, 0))
            for point in self.points
        ]
        (first_cost, first_quality), (last_cost, last_quality) = plane[0], plane[-1]
        # distance times the length of the line, exactly 0 for its two ends
        heights = [
            (last_cost - first_cost) * (quality - first_quality)
            - (last_quality - first_quality) * (cost - first_cost)
            for cost, quality in plane
        ]
        best = max(range(len(plane)), key=lambda index: (heights[index], index))
        return self.points[best].trial

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the version first."""
        data = asdict(self)
        return {"version": FRONT_VERSION, **data, "points": list(data["points"])}

    @classmethod
    def from_dict(cls, data: Any, source: str = "front") -> Self:
        """The inverse of `to_dict`.

        Args:
            data: as parsed from JSON.
            source: the file, for the error message.

        Raises:
            ConfigError: naming the source, each key that is wrong, its value and what is allowed.
        """
        checks.refuse_if_any(_problems(data), source)
        return cls(
            metric=data["metric"],
            direction=data["direction"],
            points=tuple(_point_from_dict(point) for point in data["points"]),
            hypervolume=data["hypervolume"],
            reference=Reference(**data["reference"]),
            recommended=data["recommended"],
        )


def front_of(
    records: Iterable[Record],
    metric: str,
    direction: Direction,
    max_params: int,
    summarize: Callable[[dict[str, Any]], str],
) -> Front:
    """Find the points that no other one beats, and what to recommend among them.

    A trial is measured by its complete records at its highest rung. A trial that ever gave NaN or
    diverged is left out: the replicates that survived would flatter it. Other failures are
    accidents and take nothing from its complete records. Of trials equal in quality and
    parameters the one with the lowest number stays. Records of the final selection do not count.

    Args:
        records: of one study, in any order.
        metric: the name of the quality.
        direction: "maximize", the only one so far.
        max_params: the budget; what is above it is left out.
        summarize: says in words what a genotype is.

    Raises:
        ConfigError: an unknown direction or a negative budget.
        DataError: records that cannot be compared, see the message.
    """
    if direction not in get_args(Direction):
        raise ConfigError(f"direction is {direction!r}, allowed: {', '.join(get_args(Direction))}")
    if max_params < 0:
        raise ConfigError(f"max_params is {max_params}, allowed: a whole number from 0")
    points = tuple(
        replace(point, summary=summarize(point.genotype))
        for point in _non_dominated(points_of(records, metric, max_params))
    )
    return Front(
        metric=metric,
        direction=direction,
        points=points,
        hypervolume=hypervolume(
            [(point.trainable_params, point.quality) for point in points],
            max_params,
        ),
        reference=Reference(quality=0.0, trainable_params=max_params),
        recommended=_recommended(points),
    )


def points_of(records: Iterable[Record], metric: str, max_params: int) -> list[Point]:
    """Every usable trial of a search as a point without words, as `front_of` sees it.

    Raises:
        DataError: records that cannot be compared, see the message.
    """
    return [
        _point_of(group, metric)
        for group in _comparable(records)
        if group[0].trainable_params <= max_params
    ]


def hypervolume(values: Sequence[tuple[int, float]], max_params: int) -> float:
    """Share of the plane described in the module that these points dominate.

    Args:
        values: (trainable parameters, quality) of each point, dominated ones allowed.
        max_params: the budget, where the cost is 1.
    """
    if not values:
        return 0.0
    import moocore  # noqa: PLC0415  # with numpy 0.1 s, which reading a front need not wait for

    plane = [(_cost(params, max_params), quality) for params, quality in values]
    # points beyond the reference, of negative quality, dominate nothing
    return float(moocore.hypervolume(plane, ref=(1.0, 0.0), maximise=(False, True)))


def mean_quality(replicates: Sequence[Record], metric: str) -> tuple[float, float]:
    """Mean quality and its standard error over new seeds and new rows.

    All replicates see the same rows, so averaging them shrinks the variance over seeds only:
    `stderr**2 = mean(stderr_i**2) + var(quality) / n`, with the unbiased variance.

    Args:
        replicates: complete records of one trial at one rung.
        metric: the name of the quality.
    """
    values = [record.metrics[metric].value for record in replicates]
    errors = [record.metrics[metric].stderr for record in replicates]
    if len(values) == 1:
        return values[0], errors[0]
    over_rows = math.hypot(*errors) / math.sqrt(len(errors))
    over_seeds = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), math.hypot(over_rows, over_seeds)


def write_front(folder: Path, front: Front) -> Path:
    """Write `front.json` into a study's folder, replacing an older one.

    Raises:
        DataError: the file cannot be written.
    """
    path = folder / "front.json"
    write_atomic(path, json.dumps(front.to_dict(), indent=2, allow_nan=False) + "\n")
    return path


def read_front(path: Path) -> Front:
    """Read a `front.json`.

    Raises:
        DataError: naming the file and everything that is wrong with it.
    """
    try:
        return Front.from_dict(read_json(path), str(path))
    except ConfigError as error:  # in a file of results it is the data that is wrong
        raise DataError(str(error)) from error


def _comparable(records: Iterable[Record]) -> list[list[Record]]:
    """For each usable trial its complete records at its highest rung, by replicate."""
    trials: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.split not in UNSEEN:
            trials[record.trial].append(record)
    groups = []
    for trial, group in trials.items():
        if len({(record.hash, record.trainable_params) for record in group}) > 1:
            raise DataError(f"the records of trial {trial} are of different genotypes")
        if len({record.key for record in group}) < len(group):
            raise DataError(f"trial {trial} has two records for one rung and replicate")
        if any(r.failure and r.failure.kind in _PROPERTIES_OF_THE_GENOTYPE for r in group):
            continue
        complete = [record for record in group if record.state == "complete"]
        top = max((record.rung for record in complete), default=0)
        if complete:
            at_top = (record for record in complete if record.rung == top)
            groups.append(sorted(at_top, key=lambda record: record.replicate))
    splits = sorted({record.split for group in groups for record in group})
    if len(splits) > 1:
        raise DataError(f"qualities on different splits do not compare: {', '.join(splits)}")
    return groups


def _point_of(replicates: list[Record], metric: str) -> Point:
    for record in replicates:
        if metric not in record.metrics:
            raise DataError(
                f"trial {record.trial}, rung {record.rung}, replicate {record.replicate} has no "
                f"metric {metric!r}, it has: {', '.join(record.metrics)}"
            )
    first = replicates[0]
    quality, stderr = mean_quality(replicates, metric)
    return Point(
        trial=first.trial,
        quality=quality,
        stderr=stderr,
        trainable_params=first.trainable_params,
        fraction=first.fraction,
        objectives=first.objectives,
        genotype=first.genotype,
        summary="",
    )


def _non_dominated(candidates: list[Point]) -> list[Point]:
    """Sorted by parameters, a point stays if it is better than all cheaper ones."""
    front: list[Point] = []
    for point in sorted(candidates, key=lambda p: (p.trainable_params, -p.quality, p.trial)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def _recommended(points: Sequence[Point]) -> int | None:
    if not points:
        return None
    best = points[-1]
    return next(point.trial for point in points if point.quality >= best.quality - best.stderr)


def _cost(trainable_params: int, max_params: int) -> float:
    return math.log1p(trainable_params) / math.log1p(max_params) if max_params else 0.0


def _point_from_dict(data: dict[str, Any]) -> Point:
    objectives = {name: Objective(**item) for name, item in data["objectives"].items()}
    return Point(**{**data, "objectives": objectives})


def _problems(data: Any) -> list[str]:
    problems = _check_fields(data, "")
    if problems:
        return problems
    points = data["points"]
    for i, (one, two) in enumerate(pairwise(points), 1):
        problems += [
            f"points[{i}].{key} is {two[key]}, allowed: more than {one[key]}, that of the point "
            "before"
            for key in ("trainable_params", "quality")
            if two[key] <= one[key]
        ]
    budget = data["reference"]["trainable_params"]
    if points and points[-1]["trainable_params"] > budget:
        problems.append(f"points exceed reference.trainable_params, {budget}")
    trials = [point["trial"] for point in points]
    if len(set(trials)) < len(trials):
        problems.append(f"points have the trials {trials}, allowed: distinct ones")
    if data["recommended"] not in (trials or [None]):
        problems.append(f"recommended is {data['recommended']}, allowed: {trials or None}")
    return problems


_check_fields = checks.fields(
    {
        "version": checks.one_of(FRONT_VERSION),
        "metric": checks.TEXT,
        "direction": checks.one_of(*get_args(Direction)),
        "points": checks.list_of(
            checks.fields(
                {
                    "trial": checks.COUNT,
                    "quality": checks.NUMBER,
                    "stderr": checks.NUMBER_FROM_0,
                    "trainable_params": checks.COUNT,
                    "fraction": checks.NUMBER_FROM_0,
                    "objectives": check_objectives,
                    "genotype": checks.PLAIN_OBJECT,
                    "summary": checks.TEXT,
                },
            ),
        ),
        "hypervolume": checks.NUMBER_FROM_0,
        "reference": checks.fields(
            {"quality": checks.NUMBER, "trainable_params": checks.COUNT},
        ),
        "recommended": checks.optional(checks.COUNT),
    },
)
