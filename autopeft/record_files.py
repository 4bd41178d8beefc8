"""The files of records: one for each while a study runs, one for all of a published study."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from autopeft.errors import ConfigError, DataError
from autopeft.files import MAX_JSON_BYTES, parse_json, read_json, write_atomic, write_new
from autopeft.records import Record


def write_record(folder: Path, record: Record) -> Path:
    """Write a record to its own file below a study's folder; writing the same again is harmless.

    Returns:
        `records/{trial:06d}-{rung}-{replicate}.json`.

    Raises:
        DataError: there is another record for this key, or the file cannot be written.
    """
    path = folder / "records" / _file_name(record)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create {path.parent}: {error.strerror or error}") from error
    write_new(path, record.to_json() + "\n")
    return path


def read_records(folder: Path) -> list[Record]:
    """All records of a study's folder, sorted by key; none where nothing was measured yet.

    Raises:
        DataError: naming a folder that is missing, or a file that is not what `write_record` wrote.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    records = []
    for path in (folder / "records").glob("*.json"):
        record = _from_json(read_json(path), str(path))
        if path.name != _file_name(record):
            raise DataError(f"{path} holds the record that belongs in {_file_name(record)}")
        records.append(record)
    return sorted(records, key=lambda record: record.key)


def write_jsonl(folder: Path, lines: Mapping[tuple[int, int, int], str]) -> Path:
    """Write `records.jsonl`, one object a line, sorted by key.

    Args:
        folder: of the study.
        lines: by key, `Record.to_json()`.

    Raises:
        DataError: the file cannot be written.
    """
    path = folder / "records.jsonl"
    write_atomic(path, "".join(f"{lines[key]}\n" for key in sorted(lines)))
    return path


def read_jsonl(path: Path) -> list[Record]:
    """The records of a `records.jsonl`, sorted by key.

    Raises:
        DataError: naming the file, and the line that is malformed or whose key came before.
    """
    lines: dict[tuple[int, int, int], int] = {}
    records = []
    try:
        with path.open("rb") as handle:
            lines_of = iter(partial(handle.readline, MAX_JSON_BYTES + 1), b"")
            for number, line in enumerate(lines_of, 1):
                source = f"{path}, line {number}"
                if len(line) > MAX_JSON_BYTES:
                    raise DataError(f"{source} is longer than {MAX_JSON_BYTES} bytes")
                record = _from_json(parse_json(line, source), source)
                first = lines.setdefault(record.key, number)
                if first != number:
                    raise DataError(f"{source} has the trial, rung, replicate of line {first}")
                records.append(record)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return sorted(records, key=lambda record: record.key)


def _file_name(record: Record) -> str:
    return f"{record.trial:06d}-{record.rung}-{record.replicate}.json"


def _from_json(data: Any, source: str) -> Record:
    try:
        return Record.from_dict(data, source)
    except ConfigError as error:  # in a file of measurements it is the data that is wrong
        raise DataError(str(error)) from error
