"""`front.json`: a front as plain JSON values, and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from autopeft import checks
from autopeft.errors import ConfigError, DataError
from autopeft.files import read_json, write_atomic
from autopeft.front import Direction, Front, Point, Reference
from autopeft.objectives import COSTS, PARAMS
from autopeft.records import Objective, check_objectives, objectives_to_dict

FRONT_VERSION = 1
FRONT_VERSION_COSTS = 2
"""Of fronts with other costs than trainable parameters; the others stay as they were."""


def front_to_dict(front: Front) -> dict[str, Any]:
    """Plain JSON values, the version first; `pooled` where it is not the quality."""
    data = {**asdict(front), "points": [_point_to_dict(point) for point in front.points]}
    worst = data.pop("worst")
    if list(worst) == [PARAMS]:
        return {"version": FRONT_VERSION, **data}
    return {"version": FRONT_VERSION_COSTS, **data, "worst": dict(worst)}


def front_from_dict(data: Any, source: str = "front") -> Front:
    """The inverse of `front_to_dict`.

    Args:
        data: as parsed from JSON.
        source: the file, for the error message.

    Raises:
        ConfigError: naming the source, each key that is wrong, its value and what is allowed.
    """
    checks.refuse_if_any(_problems(data), source)
    reference = Reference(**data["reference"])
    return Front(
        metric=data["metric"],
        direction=data["direction"],
        points=tuple(_point_from_dict(point) for point in data["points"]),
        hypervolume=data["hypervolume"],
        reference=reference,
        recommended=data["recommended"],
        worst=data.get("worst", {PARAMS: float(reference.trainable_params)}),
    )


def write_front(folder: Path, front: Front) -> Path:
    """Write `front.json` into a study's folder, replacing an older one.

    Raises:
        DataError: the file cannot be written.
    """
    path = folder / "front.json"
    write_atomic(path, json.dumps(front_to_dict(front), indent=2, allow_nan=False) + "\n")
    return path


def read_front(path: Path) -> Front:
    """Read a `front.json`.

    Raises:
        DataError: naming the file and everything that is wrong with it.
    """
    try:
        return front_from_dict(read_json(path), str(path))
    except ConfigError as error:  # in a file of results it is the data that is wrong
        raise DataError(str(error)) from error


def _point_to_dict(point: Point) -> dict[str, Any]:
    data = {**asdict(point), "objectives": objectives_to_dict(point.objectives)}
    if point.pooled == point.quality:
        del data["pooled"]
    return data


def _point_from_dict(data: dict[str, Any]) -> Point:
    objectives = {name: Objective(**item) for name, item in data["objectives"].items()}
    return Point(**{"pooled": data["quality"], **data, "objectives": objectives})


def _problems(data: Any) -> list[str]:
    has_costs = isinstance(data, dict) and data.get("version") == FRONT_VERSION_COSTS
    problems = checks.fields(_FIELDS | (_WORST if has_costs else {}))(data, "")
    if problems:
        return problems
    points = data["points"]
    if has_costs:
        problems += _cost_problems(points, data["worst"])
    else:
        problems += _order_problems(points)
    budget = data["reference"]["trainable_params"]
    if any(point["trainable_params"] > budget for point in points):
        problems.append(f"points exceed reference.trainable_params, {budget}")
    trials = [point["trial"] for point in points]
    if len(set(trials)) < len(trials):
        problems.append(f"points have the trials {trials}, allowed: distinct ones")
    if data["recommended"] not in (trials or [None]):
        problems.append(f"recommended is {data['recommended']}, allowed: {trials or None}")
    return problems


def _order_problems(points: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"points[{i}].{key} is {two[key]}, allowed: more than {one[key]}, that of the point before"
        for i, (one, two) in enumerate(pairwise(points), 1)
        for key in ("trainable_params", "quality")
        if two[key] <= one[key]
    ]


def _cost_problems(points: Sequence[Mapping[str, Any]], worst: Mapping[str, float]) -> list[str]:
    if unknown := [name for name in worst if name not in COSTS]:
        return [f"worst names {unknown[0]}, allowed: {', '.join(COSTS)}"]
    return [
        f"points[{i}].objectives has no {name}, which worst names"
        for i, point in enumerate(points)
        for name in worst
        if name != PARAMS and name not in point["objectives"]
    ] + ([] if worst else ["worst names no cost"])


_WORST = {"worst": checks.named(checks.NUMBER_FROM_0)}
_FIELDS = {
    "version": checks.one_of(FRONT_VERSION, FRONT_VERSION_COSTS),
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
            may_have={"pooled": checks.NUMBER},
        ),
    ),
    "hypervolume": checks.NUMBER_FROM_0,
    "reference": checks.fields(
        {"quality": checks.NUMBER, "trainable_params": checks.COUNT},
    ),
    "recommended": checks.optional(checks.COUNT),
}
