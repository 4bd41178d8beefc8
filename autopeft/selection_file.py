"""`selection.json`: a final selection as plain JSON values, and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from autopeft import checks
from autopeft.errors import ConfigError, DataError
from autopeft.files import read_json, write_atomic
from autopeft.records import Objective, check_objectives, objectives_to_dict
from autopeft.selection import Comparison, Contender, Lead, Role, Selection

SELECTION_VERSION = 1


def selection_to_dict(selection: Selection) -> dict[str, Any]:
    """Plain JSON values, the version first; what is not as usual only where it is so."""
    data = asdict(selection)
    lists = {name: list(data[name]) for name in ("comparisons", "notes")}
    lists["contenders"] = [_contender_to_dict(item) for item in selection.contenders]
    told = {"version": SELECTION_VERSION, **data, **lists, "verdict": selection.verdict}
    usual = {"search_compares": True, "folds": False, "seen": 0, "lead": None}
    return {k: v for k, v in told.items() if k not in usual or v != usual[k]}


def selection_from_dict(data: Any, source: str = "selection") -> Selection:
    """The inverse of `selection_to_dict`.

    Args:
        data: as parsed from JSON.
        source: the file, for the error message.

    Raises:
        ConfigError: naming the source, each key that is wrong, its value and what is allowed.
    """
    checks.refuse_if_any(_problems(data), source)
    return Selection(
        metric=data["metric"],
        rows=data["rows"],
        contenders=tuple(_contender_from_dict(item) for item in data["contenders"]),
        comparisons=tuple(Comparison(**item) for item in data["comparisons"]),
        recommended=data["recommended"],
        notes=tuple(data["notes"]),
        search_compares=data.get("search_compares", True),
        folds=data.get("folds", False),
        seen=data.get("seen", 0),
        lead=Lead(**data["lead"]) if "lead" in data else None,
    )


def write_selection(path: Path, selection: Selection) -> None:
    """Write it as a whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    write_atomic(path, json.dumps(selection_to_dict(selection), indent=2, allow_nan=False) + "\n")


def read_selection(path: Path) -> Selection:
    """Read a `selection.json`.

    Raises:
        DataError: naming the file and everything that is wrong with it.
    """
    try:
        return selection_from_dict(read_json(path), str(path))
    except ConfigError as error:
        raise DataError(str(error)) from error


def _contender_to_dict(contender: Contender) -> dict[str, Any]:
    """Costs only where there are any."""
    data = {**asdict(contender), "costs": objectives_to_dict(contender.costs)}
    return {key: value for key, value in data.items() if key != "costs" or value}


def _contender_from_dict(data: Mapping[str, Any]) -> Contender:
    costs = {name: Objective(**item) for name, item in data.get("costs", {}).items()}
    return Contender(**{**data, "costs": costs})


def _problems(data: Any) -> list[str]:
    problems = _check_fields(data, "")
    if problems:
        return problems
    trials = [item["trial"] for item in data["contenders"]]
    if len(set(trials)) < len(trials):
        problems.append(f"contenders have the trials {trials}, allowed: distinct ones")
    for key, found in (
        ("recommended", [data["recommended"]]),
        ("comparisons", [i[k] for i in data["comparisons"] for k in ("trial", "baseline")]),
    ):
        problems += [
            f"{key} names trial {trial}, allowed: {trials}"
            for trial in found
            if trial not in trials
        ]
    return problems


_check_contender = checks.fields(
    {
        "trial": checks.COUNT,
        "role": checks.one_of(*get_args(Role)),
        "trainable_params": checks.COUNT,
        "fraction": checks.NUMBER_FROM_0,
        "summary": checks.TEXT,
        "search_quality": checks.optional(checks.NUMBER),
        "quality": checks.NUMBER,
        "stderr": checks.NUMBER_FROM_0,
        "low": checks.NUMBER,
        "high": checks.NUMBER,
        "seeds": checks.COUNT,
    },
    may_have={"costs": check_objectives},
)
_DIFFERENCE = {
    "difference": checks.NUMBER,
    "low": checks.NUMBER,
    "high": checks.NUMBER,
    "p_value": checks.NUMBER_FROM_0,
}
_COMPARISON = checks.fields({"trial": checks.COUNT, "baseline": checks.COUNT, **_DIFFERENCE})
_LEAD = checks.fields({"constant": checks.NUMBER, **_DIFFERENCE})
_check_fields = checks.fields(
    {
        "version": checks.one_of(SELECTION_VERSION),
        "metric": checks.TEXT,
        "rows": checks.COUNT,
        "contenders": checks.list_of(_check_contender),
        "comparisons": checks.list_of(_COMPARISON),
        "recommended": checks.COUNT,
        "notes": checks.list_of(checks.TEXT),
        "verdict": checks.TEXT,
    },
    may_have={
        "search_compares": checks.one_of(False),
        "folds": checks.one_of(True),
        "seen": checks.COUNT,
        "lead": _LEAD,
    },
)
