"""Labels as the sources give them, turned into class numbers or finite numbers."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from reprlib import repr as shortened

import numpy as np

from autopeft.tasks.encode import IGNORED
from autopeft.tasks.rows import Problems, Row, Table, fault_of

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,999})")  # Python reads few digits more
_LARGEST = float(np.finfo(np.float32).max)
_MAX_NAMED = 10


def class_labels(
    tables: Mapping[str, Table], problems: Problems
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Number the classes.

    The classes are those that the training rows' source declares, otherwise those found in them,
    sorted: by value if all are integers, by code point if not. So `1` of a CSV file, `1` and `"1"`
    are the same class; `true` is another.

    Args:
        tables: by split, with a `train`.
        problems: receives labels of a wrong or mixed type, labels that are no class, and classes
            that differ by blanks alone, unless they are declared.

    Returns:
        The names of the classes, and the labels of each split as positions in them.

    Raises:
        DataError: if anything was noted.
    """
    found = {split: _class_names(table, problems) for split, table in tables.items()}
    problems.raise_if_any()
    if (declared := tables["train"].label_names) is None:
        pairs = list(zip(tables["train"].rows, found["train"], strict=True))
        _check_blanks(tables["train"], pairs, problems)
    names = declared or _in_order(set(found["train"]))
    numbers = {name: number for number, name in enumerate(names)}
    labels = {}
    for split, table in tables.items():
        for row, name in zip(table.rows, found[split], strict=True):
            if name not in numbers:
                message = f"label {shortened(row.label)} is not one of train: {listed(names)}"
                problems.add(table.where(row), message + _nearly(name, names))
        labels[split] = tuple(numbers.get(name, -1) for name in found[split])
    problems.raise_if_any()
    return names, labels


def number_labels(tables: Mapping[str, Table], problems: Problems) -> dict[str, tuple[float, ...]]:
    """Read labels as finite numbers.

    Args:
        tables: by split.
        problems: receives labels that are not finite numbers, or beyond those of fp32; a string is
            one in CSV alone.

    Returns:
        The labels of each split.

    Raises:
        DataError: if anything was noted.
    """
    labels = {split: _numbers(table, problems) for split, table in tables.items()}
    problems.raise_if_any()
    return labels


def answers(
    tables: Mapping[str, Table], problems: Problems
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[tuple[str, ...], ...]]]:
    """Read labels as texts.

    Args:
        tables: by split.
        problems: receives answers that are no text, and references that are neither a text nor a
            list of texts.

    Returns:
        The answers of each split, and the references of those that have some.

    Raises:
        DataError: if anything was noted.
    """
    found: dict[str, tuple[str, ...]] = {}
    references: dict[str, tuple[tuple[str, ...], ...]] = {}
    for split, table in tables.items():
        for row in table.rows:
            if not isinstance(row.label, str):
                kind = type(row.label).__name__
                message = f"answer {shortened(row.label)} is of type {kind}, not a string"
                problems.add(table.where(row), message)
        found[split] = tuple(str(row.label) for row in table.rows)
        if any(row.references is not None for row in table.rows):
            references[split] = tuple(_references(table, row, problems) for row in table.rows)
    problems.raise_if_any()
    return found, references


def listed(names: Sequence[str]) -> str:
    """The first of some names in quotes, and how many more there are."""
    told = ", ".join(f"'{name}'" for name in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return f"{told} and {more:,} more" if more > 0 else told


def tag_labels(
    tables: Mapping[str, Table], problems: Problems
) -> tuple[tuple[str, ...], dict[str, tuple[tuple[int, ...], ...]]]:
    """Number the tags of words, which are the training rows' as the classes of `class_labels`.

    Args:
        tables: by split, with a `train`.
        problems: receives rows without a tag for every word, tags that are none or of mixed types,
            and tags that differ by blanks alone, unless they are declared.

    Returns:
        The names of the tags, and of each split and row the positions in them.

    Raises:
        DataError: if anything was noted.
    """
    for table in tables.values():
        for row in table.rows:
            _check_tags(table, row, problems)
    return _numbered(tables, problems, "tag")


def label_sets(
    tables: Mapping[str, Table], problems: Problems
) -> tuple[tuple[str, ...], dict[str, tuple[tuple[int, ...], ...]]]:
    """Number the labels that rows have any number of, likewise.

    Args:
        tables: by split, with a `train`.
        problems: receives rows without a list, or with one that names a label twice, labels that
            are none or of mixed types, and labels that differ by blanks alone, unless they are
            declared.

    Returns:
        The names of the labels, and of each split and row the positions in them, in their order.

    Raises:
        DataError: if anything was noted.
    """
    names, numbers = _numbered(tables, problems, "label")
    for split, table in tables.items():
        for row, labels in zip(table.rows, numbers[split], strict=True):
            if repeated := [one for one, count in Counter(labels).items() if count > 1]:
                problems.add(table.where(row), f"label '{names[repeated[0]]}' is there twice")
    problems.raise_if_any()
    return names, {
        split: tuple(tuple(sorted(labels)) for labels in rows) for split, rows in numbers.items()
    }


def _numbered(
    tables: Mapping[str, Table], problems: Problems, what: str
) -> tuple[tuple[str, ...], dict[str, tuple[tuple[int, ...], ...]]]:
    """The names in the lists of all rows, and the positions in them of each split and row."""
    found = {split: _lists_of(table, problems, what) for split, table in tables.items()}
    problems.raise_if_any()
    rows_of = zip(tables["train"].rows, found["train"], strict=True)
    train = [(row, one) for row, ones in rows_of for one in ones]
    if (declared := tables["train"].label_names) is None:
        _check_blanks(tables["train"], train, problems, what)
    names = declared or _in_order({one for _, one in train})
    numbers = {name: number for number, name in enumerate(names)}
    for split, table in tables.items():
        for row, ones in zip(table.rows, found[split], strict=True):
            if unknown := [one for one in ones if one not in numbers]:
                message = f"{what} {shortened(unknown[0])} is not one of train: {listed(names)}"
                problems.add(table.where(row), message + _nearly(unknown[0], names))
    problems.raise_if_any()
    return names, {
        split: tuple(tuple(numbers[one] for one in ones) for ones in rows)
        for split, rows in found.items()
    }


def _lists_of(table: Table, problems: Problems, what: str) -> list[list[str]]:
    lists = (row.label for row in table.rows if isinstance(row.label, list))
    first = next((type(one) for ones in lists for one in ones), str)
    return [_list_of(table, row, first, problems, what) for row in table.rows]


def _list_of(table: Table, row: Row, first: type, problems: Problems, what: str) -> list[str]:
    ones = row.label
    if not isinstance(ones, list):
        problems.add(table.where(row), f"{what}s {shortened(ones)} are no list")
        return []
    wrong = [one for one in ones if isinstance(one, bool) or not isinstance(one, int | str)]
    if wrong:
        message = f"{what} {shortened(wrong[0])} is neither a string nor an integer"
        problems.add(table.where(row), message)
    elif mixed := [one for one in ones if type(one) is not first]:
        kind = type(mixed[0]).__name__
        message = f"{what} {shortened(mixed[0])} is of type {kind}, the first one"
        problems.add(table.where(row), f"{message} of type {first.__name__}")
    elif any(isinstance(one, str) and not one.strip() for one in ones):
        problems.add(table.where(row), f"a {what} is empty")
    return [str(one) for one in ones]


def _check_tags(table: Table, row: Row, problems: Problems) -> None:
    if not isinstance(tags := row.label, list):
        return  # which is told of all lists
    if len(tags) != len(row.texts):
        problems.add(table.where(row), f"{len(row.texts)} words and {len(tags)} tags")
    if IGNORED in tags:
        message = (
            f"tag {IGNORED} stands for none in other libraries; here words are given, each with "
        )
        problems.add(table.where(row), f"{message}a tag, and their tokens are found")


def _references(table: Table, row: Row, problems: Problems) -> tuple[str, ...]:
    given = [row.references] if isinstance(row.references, str) else row.references
    if not isinstance(given, list) or not given or any(map(fault_of, given)):
        problems.add(
            table.where(row),
            f"references {shortened(row.references)} are neither a text nor a list of texts",
        )
        return ()
    return tuple(map(str, given))


def _class_names(table: Table, problems: Problems) -> list[str]:
    names = []
    first = type(table.rows[0].label) if table.rows else str
    for row in table.rows:
        if not isinstance(row.label, bool | int | str):
            problems.add(
                table.where(row),
                f"label {shortened(row.label)} is of type {type(row.label).__name__}; a class is "
                "an integer, a string or true/false (`task: regression` takes numbers, "
                "`task: multi_label_classification` lists of classes)",
            )
        elif type(row.label) is not first:
            problems.add(
                table.where(row),
                f"label {shortened(row.label)} is of type {type(row.label).__name__}, that of the "
                f"first row of type {first.__name__}",
            )
        names.append(str(row.label).lower() if isinstance(row.label, bool) else str(row.label))
    return names


def _check_blanks(
    table: Table, found: Sequence[tuple[Row, str]], problems: Problems, what: str = "label"
) -> None:
    """Refuse classes that nobody can tell apart."""
    alike = defaultdict(set)
    for _, name in found:
        alike[name.strip()].add(name)
    for row, name in found:
        others = alike[name.strip()] - {name}
        if others and name != name.strip():
            message = f"{what} {name!r} differs from {min(others)!r} by blanks around it alone"
            problems.add(table.where(row), message)


def _nearly(name: str, names: Sequence[str]) -> str:
    """The class that a label was probably meant to be, as the end of a message."""
    for differs, form in (("blanks around it", str.strip), ("upper and lower case", str.lower)):
        if near := [one for one in names if form(one) == form(name)]:
            return f"; it differs from {near[0]!r} by {differs} alone"
    return ""


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    listed = list(names)
    if all(_INTEGER.fullmatch(name) for name in listed):
        return tuple(sorted(listed, key=int))
    return tuple(sorted(listed))


def _numbers(table: Table, problems: Problems) -> tuple[float, ...]:
    numbers = []
    for row in table.rows:
        number = _number(row.label, typed=table.typed)
        if number is None:
            problems.add(table.where(row), f"label {shortened(row.label)} is not a finite number")
        elif abs(number) > _LARGEST:
            most = f"{_LARGEST:.1e}, the largest number of fp32"
            problems.add(table.where(row), f"label {shortened(row.label)} is beyond {most}")
        else:
            numbers.append(number)
    return tuple(numbers)


def _number(label: object, *, typed: bool) -> float | None:
    if isinstance(label, bool) or not isinstance(label, int | float | str):
        return None
    if isinstance(label, str) and typed:
        return None
    try:
        number = float(label)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
