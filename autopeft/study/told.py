"""What is shown of a study's `manifest.json` and `test.json`, checked as it is read.

Whoever shows a study has it from anybody, from an older version, or in part: a key may be missing,
and others may be there, but what is read has its kind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopeft import checks
from autopeft.errors import DataError
from autopeft.files import read_json

_MOST_LAYERS = 1000
_DEPTH = checks.leaf(
    f"a whole number from 1 to {_MOST_LAYERS}",
    lambda value: type(value) is int and 1 <= value <= _MOST_LAYERS,
)
_TEXTS = checks.list_of(checks.ANY_TEXT)


def _some(table: Mapping[str, checks.Check]) -> checks.Check:
    return checks.fields({}, table, and_others=True)


_SCORE = checks.fields({"value": checks.NUMBER, "stderr": checks.NUMBER_FROM_0}, and_others=True)
_MODEL = _some(
    {
        "name": checks.TEXT,
        "backbone_params": checks.COUNT,
        "n_layers": _DEPTH,
        "widths": checks.named(checks.COUNT),
        "ffn_activation": checks.optional(checks.TEXT),
        "biased": _TEXTS,
        "shared_inputs": _TEXTS,
        "n_encoder_layers": checks.COUNT,
        "room": checks.optional(checks.COUNT),
        "only_in": checks.named(checks.list_of(checks.COUNT)),
    }
)
_DATA = _some(
    {
        "rows": checks.named(checks.COUNT),
        "labels": _TEXTS,
        "notes": _TEXTS,
        "constant": checks.optional(_SCORE),
    }
)
_MANIFEST = _some(
    {
        "study": checks.TEXT,
        "created": checks.TEXT,
        "versions": checks.named(checks.ANY_TEXT),
        "machine": checks.named(checks.ANY_TEXT),
        "model": _MODEL,
        "data": _DATA,
        "settings": _some({}),
        "max_params": checks.COUNT,
        "rung_steps": checks.list_of(checks.COUNT),
    }
)
_OPENING = checks.fields(
    {
        "metric": checks.TEXT,
        "rows": checks.COUNT,
        "results": checks.list_of(
            checks.fields(
                {"role": checks.TEXT, "trial": checks.COUNT, "metrics": checks.named(_SCORE)},
                and_others=True,
            )
        ),
    },
    {"seen": checks.COUNT},
    and_others=True,
)
_LEDGER = checks.fields({"openings": checks.list_of(_OPENING)}, and_others=True)


def told_of(path: Path) -> dict[str, Any]:
    """What a manifest tells; nothing if there is none.

    Raises:
        DataError: naming the file and everything that is wrong with it.
    """
    return _read(path, _MANIFEST) if path.is_file() else {}


def openings_in(path: Path) -> list[dict[str, Any]]:
    """The looks at the test split that `test.json` tells of; none if there is no such file.

    Raises:
        DataError: naming the file and everything that is wrong with it.
    """
    return list(_read(path, _LEDGER)["openings"]) if path.exists() else []


def _read(path: Path, check: checks.Check) -> dict[str, Any]:
    data: dict[str, Any] = read_json(path)
    if problems := check(data, ""):
        raise DataError(f"{path}: " + "; ".join(problems))
    return data
