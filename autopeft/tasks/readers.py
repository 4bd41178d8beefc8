"""Readers of CSV, JSONL and Parquet files: file in, checked rows out."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from autopeft.tasks.rows import Problems, Table, checked_row, missing_columns, one_line, place
from autopeft.tasks.spec import Columns

Record = tuple[int, tuple[object, ...]]  # line or row number, then a value for each column
_Reader = Callable[[Path, Sequence[str], Problems], Iterator[Record]]

_BOM = b"\xef\xbb\xbf"
_LONGEST_FIELD = 2**31 - 1  # the largest C long on every platform


def read_table(path: Path, columns: Columns, problems: Problems) -> Table:
    """Read one file.

    Args:
        path: ends in `.csv`, `.jsonl` or `.parquet`.
        columns: to read.
        problems: receives whatever is wrong, with file and line (Parquet: row).

    Returns:
        The sound rows; none if the file cannot be read at all.
    """
    by_line = path.suffix.lower() != ".parquet"
    is_csv = path.suffix.lower() == ".csv"
    if is_csv and columns.holds != "texts" and not columns.flags:
        also = ", or `data.label_columns` of a study file" if columns.holds == "labels" else ""
        problems.add(str(path), f"CSV has no lists of {columns.holds}; take JSONL or Parquet{also}")
        return Table(str(path), ())
    rows = []
    n_records = 0
    n_problems_before = problems.count
    for line, values in _records(path, columns.names, problems):
        n_records += 1
        where = place(str(path), line, by_line=by_line)
        if row := checked_row(line, values, columns, where, problems):
            rows.append(row)
    if not n_records and problems.count == n_problems_before:
        problems.add(str(path), "has no rows")
    names = columns.flags or None
    return Table(str(path), tuple(rows), by_line, typed=not is_csv, label_names=names)


def _records(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Record]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        allowed = ", ".join(_READERS)
        problems.add(str(path), f"suffix '{path.suffix}' is not known; allowed: {allowed}")
        return
    try:
        yield from reader(path, columns, problems)
    except FileNotFoundError:
        problems.add(str(path), "does not exist")
    except OSError as error:
        problems.add(str(path), f"cannot be read: {error.strerror or one_line(error)}")


def _csv_records(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Record]:
    data = path.read_bytes()
    try:
        content = io.StringIO(data.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.add(f"{path}:{line}", _not_utf8(error))
        return
    reader = csv.reader(content, strict=True)
    line = 1
    with _long_fields():
        try:
            header = next(reader, [])
            if fault := missing_columns(columns, header):
                problems.add(f"{path}:1", fault if header else "is empty")
                return
            positions = [header.index(name) for name in columns]
            line = reader.line_num + 1
            for fields in reader:
                if not any(map(str.strip, fields)):
                    pass  # a blank line, or one that a spreadsheet fills with commas
                elif len(fields) == len(header):
                    yield line, tuple(fields[position] for position in positions)
                else:
                    problems.add(
                        f"{path}:{line}", f"{len(fields)} fields, the header has {len(header)}"
                    )
                line = reader.line_num + 1
        except csv.Error as error:
            problems.add(f"{path}:{line}", f"broken CSV: {error}")


def _jsonl_records(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Record]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            encoded = raw.removeprefix(_BOM) if line == 1 else raw
            if not encoded.strip():
                continue
            try:
                values = json.loads(encoded.decode())
            except UnicodeDecodeError as error:
                problems.add(f"{path}:{line}", _not_utf8(error))
                continue
            except (ValueError, RecursionError) as error:
                problems.add(f"{path}:{line}", _broken_json(error))
                continue
            if not isinstance(values, dict):
                problems.add(f"{path}:{line}", "is not a JSON object")
            elif fault := missing_columns(columns, list(values)):
                problems.add(f"{path}:{line}", fault)
            else:
                yield line, tuple(values[name] for name in columns)


def _parquet_records(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Record]:
    try:
        with pq.ParquetFile(path) as file:
            if fault := missing_columns(columns, file.schema_arrow.names):
                problems.add(str(path), fault)
                return
            table = file.read(columns=list(columns))
    except pa.ArrowException as error:
        problems.add(str(path), f"broken Parquet: {one_line(error)}")
        return
    values = [_column_values(table.column(name)) for name in columns]
    yield from enumerate(zip(*values, strict=True), start=1)


def _column_values(column: pa.ChunkedArray) -> list[object]:
    """The values of a column; a string that is not UTF-8 stays bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(pa.binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters a field; it is global to the process."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"is not UTF-8: byte 0x{error.object[error.start]:02x} ({error.reason})"


def _broken_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON: {error.msg} at column {error.colno}"
    return f"broken JSON: {error}"


_READERS: dict[str, _Reader] = {
    ".csv": _csv_records,
    ".jsonl": _jsonl_records,
    ".parquet": _parquet_records,
}
