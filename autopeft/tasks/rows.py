"""Rows as they were read, and the list of what is wrong with them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as shortened

from autopeft.errors import DataError
from autopeft.tasks.messages import parted
from autopeft.tasks.spec import Columns

MAX_SHOWN = 5

_FLAGS: Mapping[object, bool] = {
    **dict.fromkeys((1, "1", "1.0", "true"), True),
    **dict.fromkeys((0, "0", "0.0", "false"), False),
}
"""What a column of one label says; true and 1.0 are equal to 1."""

_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair: JSON can write it, UTF-8 cannot


@dataclass(frozen=True, slots=True)
class Row:
    """One example; its texts are checked, its label is as the source has it.

    Attributes:
        line: where it begins, counted from 1; a row number where the source has no lines.
        texts: one string, the two of a pair, a row's words, or messages as JSON.
        label: not `None`; everything else about it is the task's to judge.
        references: as the source has them; `None` where none were asked for.
    """

    line: int
    texts: tuple[str, ...]
    label: object
    references: object = None


@dataclass(frozen=True)
class Table:
    """The rows of one split.

    Attributes:
        source: the file, or the split of a Hub data set.
        rows: in the order of the source.
        by_line: whether `Row.line` is a line of a text file, not a row number.
        typed: whether the source tells numbers from strings; CSV does not.
        label_names: the classes where the source declares them.
    """

    source: str
    rows: tuple[Row, ...]
    by_line: bool = False
    typed: bool = True
    label_names: tuple[str, ...] | None = None

    def where(self, row: Row) -> str:
        """The place of a row, for a message."""
        return place(self.source, row.line, by_line=self.by_line)


class Problems:
    """Collects what is wrong, so that one error tells all of it."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self.count = 0

    def add(self, where: str, message: str) -> None:
        """Note one problem and its place."""
        self.count += 1
        if len(self._shown) < MAX_SHOWN:
            self._shown.append(f"{where}: {message}")

    def raise_if_any(self) -> None:
        """Give up if anything was noted.

        Raises:
            DataError: with the first problems and the number of the others.
        """
        if self.count == 1:
            raise DataError(self._shown[0])
        if self.count:
            lines = [f"{self.count:,} problems in the data:", *self._shown]
            if more := self.count - len(self._shown):
                lines.append(f"and {more:,} more")
            raise DataError("\n  ".join(lines))


def place(source: str, line: int, *, by_line: bool) -> str:
    """`file:7` in a text file, `file, row 7` elsewhere."""
    return f"{source}:{line}" if by_line else f"{source}, row {line}"


def checked_row(
    line: int, values: Sequence[object], columns: Columns, where: str, problems: Problems
) -> Row | None:
    """A row of the values of these columns; `None` if it is at fault."""
    if columns.holds == "messages":
        return _conversation(line, values, columns, where, problems)
    n_texts, n_told = len(columns.text), len(columns.told)
    texts, label, *others = values[:n_texts], values[n_texts], *values[n_texts + n_told :]
    if columns.flags:
        label = _flagged(values[n_texts : n_texts + n_told], columns, where, problems)
    named = list(zip(columns.text, texts, strict=True))
    if columns.holds == "words":
        ((name, words),) = named
        if not isinstance(words, list) or not words:
            problems.add(where, f"column '{name}' is {shortened(words)}, not a list of words")
            return None
        texts = words
        named = [(f"{name}' with word '{i}", word) for i, word in enumerate(words, 1)]
    faults = [(name, fault_of(text)) for name, text in named]
    if label is None or isinstance(label, str):
        faults.append((columns.label, fault_of(label)))
    found = [f"column '{name}' {fault}" for name, fault in faults if fault]
    for message in found:
        problems.add(where, message)
    if found:
        return None
    return Row(line, tuple(str(text) for text in texts), label, *others)


def _flagged(
    values: Sequence[object], columns: Columns, where: str, problems: Problems
) -> list[str]:
    """The labels whose columns say that they are there."""
    labels = []
    for name, value in zip(columns.flags, values, strict=True):
        said = value.strip().lower() if isinstance(value, str) else value
        if not isinstance(said, bool | int | float | str) or said not in _FLAGS:
            told = f"column '{name}' is {shortened(value)}; it says of a label whether it is there"
            problems.add(where, f"{told}, 1 or 0, true or false")
        elif _FLAGS[said]:
            labels.append(name)
    return labels


def _conversation(
    line: int, values: Sequence[object], columns: Columns, where: str, problems: Problems
) -> Row | None:
    """A row of messages and, perhaps, references; `None` if it is at fault."""
    messages, *references = values
    try:
        before, answer = parted(messages)
    except ValueError as error:
        problems.add(where, f"column '{columns.label}' {error}")
        return None
    if fault := fault_of(before) or fault_of(answer):
        problems.add(where, f"column '{columns.label}' {fault}")
        return None
    return Row(line, (before,), answer, *references)


def one_line(error: Exception) -> str:
    """The message of a library's error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def missing_columns(wanted: Sequence[str], present: Sequence[str]) -> str | None:
    """What to say when a wanted column is absent, or there more than once."""
    listed = ", ".join(f"'{name}'" for name in present) or "none"
    if absent := [f"'{name}'" for name in wanted if name not in present]:
        return f"no column {', '.join(absent)}; it has: {listed}"
    if repeated := [f"'{name}'" for name in wanted if list(present).count(name) > 1]:
        return f"column {', '.join(repeated)} is there more than once; it has: {listed}"
    return None


def fault_of(value: object) -> str | None:
    """What makes a value no text, if anything does."""
    if value is None:
        return "is null"
    if isinstance(value, bytes):
        return "holds bytes that are not UTF-8 text"
    if not isinstance(value, str):
        return f"is of type {type(value).__name__}, not a string"
    if not value.strip():
        return "is empty"
    if _SURROGATE.search(value):
        return "holds half of a surrogate pair, which is not text"
    return None
