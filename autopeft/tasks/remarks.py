"""What a user has to be told of rows that can be used and may not be what was meant."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from reprlib import repr as shortened

from autopeft.tasks.labels import listed
from autopeft.tasks.spec import Kind
from autopeft.tasks.splits import N_FOLDS, Split, count_repeated, count_shared, fold

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)*")
_FRACTION = re.compile(r"[.,]\d*[1-9]\d*$")
_FEW_CLASSES = 2


def remarks(splits: Mapping[str, Split], label_names: Sequence[str], kind: Kind) -> list[str]:
    """What is odd about the labels, and rows that are in an earlier split, too; a sentence each.

    Args:
        splits: by name, with a `train`.
        label_names: the classes, by number, where there are any.
        kind: what the labels are.
    """
    later = [splits[name] for name in ("validation", "selection", "test") if name in splits]
    told = []
    if kind == "classification":
        told += [*_single(splits["train"]), *filter(None, [decimals(label_names)])]
    for split in later:
        told += _lacking(split, splits["train"], label_names, kind)
    every = [splits["train"], *later]
    pairs = [(split, other) for i, split in enumerate(every) for other in every[:i]]
    return told + [note for pair in pairs for note in _leaks(*pair)]


def repeats(train: Split, seed: int) -> str | None:
    """That rows are there more than once, and what a final selection by folds makes of them.

    Args:
        train: whose parts are left out in turn.
        seed: draws the parts.
    """
    n_repeated = count_repeated(train)
    if not n_repeated:
        return None
    parts = [fold(train, number, seed) for number in range(N_FOLDS)]
    does = "trains on none that has the text of a row it scores"
    if any(count_shared(part, rest) for rest, part in parts):
        does = "scores rows whose text it has trained on, as else there were too few"
    return (
        f"train: {n_repeated:,} of {len(train):,} rows have the text of another one; a final "
        f"selection by folds {does}"
    )


def of_which_class(positive: int, label_names: Sequence[str], *, chosen: bool) -> str:
    """That F1 is of one of two classes alone.

    Args:
        positive: its number.
        label_names: both.
        chosen: the user has named it.
    """
    told = f"metric: f1 is that of the class '{label_names[positive]}'"
    if chosen:
        return told
    return (
        f"{told}; `positive: {label_names[1 - positive]}` takes the other one, `metric: f1_macro` "
        "the mean of both"
    )


def decimals(label_names: Sequence[str]) -> str | None:
    """That the classes look like numbers that were to be predicted, if they do."""
    if not all(map(_NUMBER.fullmatch, label_names)):
        return None
    example = next(filter(_FRACTION.search, label_names), None)
    if example is None:
        return None
    return (
        f"the labels are decimals like '{example}', and each is taken for a class; numbers, "
        "written with a decimal point, are predicted by `task: regression`"
    )


def _single(train: Split) -> list[str]:
    counts = Counter(train.labels)
    n_single = sum(count == 1 for count in counts.values())
    if len(counts) <= _FEW_CLASSES or 2 * n_single <= len(counts):
        return []
    return [f"train: {n_single:,} of {len(counts):,} classes have a single row"]


def _lacking(split: Split, train: Split, label_names: Sequence[str], kind: Kind) -> list[str]:
    """That a split has one label, or not all of train's classes."""
    each = "words" if kind == "token_classification" else "rows"
    there = split.classes
    if split.is_alike(kind):
        if kind == "multi_label_classification":
            return [f"{split.name}: all rows have the same labels, so scores on it tell little"]
        (one,) = there
        told = f"'{label_names[int(one)]}'" if label_names else shortened(one)
        return [f"{split.name}: all {each} have the label {told}, so scores on it tell little"]
    if not label_names or not (lost := train.classes - there):
        return []
    names = tuple(name for number, name in enumerate(label_names) if number in lost)
    return [f"{split.name}: no {each[:-1]} has the label {listed(names)}"]


def _leaks(split: Split, earlier: Split) -> list[str]:
    n_shared = count_shared(split, earlier)
    if not n_shared:
        return []
    rows = f"{n_shared:,} of {len(split):,} rows"
    return [f"{split.name}: {rows} have a text that is also in {earlier.name}"]
