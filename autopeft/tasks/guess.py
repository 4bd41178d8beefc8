"""From what a user names (a folder, a file, a Hub name) to the data section of a study."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from autopeft.checks import shown
from autopeft.errors import ConfigError, DataError

SUFFIXES = (".jsonl", ".csv", ".parquet")
_SPLITS = ("train", "validation", "selection", "test")
_PAIR = ["text_a", "text_b"]


def data_section(data: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The `data` section that a folder, a training file or a Hub name stands for.

    In a folder, `train`, `validation` and `test` are files with a known suffix. The text columns
    are `text_a` and `text_b` where the training file has both, otherwise the default.

    Raises:
        ConfigError: it is none of these.
        DataError: a folder without a training file, or a file that cannot be read.
    """
    if isinstance(data, Mapping):
        return {k: str(v) if isinstance(v, Path) else v for k, v in data.items()}
    if not isinstance(data, str | Path):
        raise ConfigError(
            f"data is {shown(data)}, allowed: a folder, a file, a Hub name, or the `data` section "
            "of a study file; tables in memory are written to files first, such as "
            "frame.to_parquet('data/train.parquet')"
        )
    path = Path(data)
    if path.is_dir():
        files = {name: str(file) for name in _SPLITS if (file := _split_file(path, name))}
        if "train" not in files:
            raise DataError(
                f"{path} has no train file ({', '.join(f'train{s}' for s in SUFFIXES)})"
            )
    elif path.is_file() or path.suffix.lower() in SUFFIXES:
        files = {"train": str(path)}
    else:
        return {"hub": str(data)}
    pair = set(_PAIR) <= _columns(Path(files["train"]))
    return {**files, "text": _PAIR} if pair else dict(files)


def _split_file(folder: Path, name: str) -> Path | None:
    known = [f for f in folder.iterdir() if f.stem == name and f.suffix.lower() in SUFFIXES]
    files = filter(Path.is_file, known)
    # Of two that differ by case, the one in lower case comes first.
    return min(files, key=lambda f: (_rank(f), f.name.swapcase()), default=None)


def _rank(file: Path) -> int:
    return SUFFIXES.index(file.suffix.lower())


def _columns(path: Path) -> set[str]:
    """Column names of a file; none if it is not sound, which reading it will say better."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return set(pq.read_schema(path).names)
        with path.open(encoding="utf-8-sig") as handle:
            first = next((line for line in handle if line.strip()), "")
        if suffix == ".csv":
            return set(next(csv.reader([first]), []))
        row = json.loads(first)
    except (OSError, ValueError, csv.Error):
        return set()
    return set(row) if isinstance(row, dict) else set()
