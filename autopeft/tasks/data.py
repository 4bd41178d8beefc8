"""A data set: train, validation and test rows, checked, and what their user has to be told."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from autopeft.errors import DataError
from autopeft.tasks.labels import answers, class_labels, label_sets, number_labels, tag_labels
from autopeft.tasks.readers import read_table
from autopeft.tasks.remarks import decimals, remarks, repeats
from autopeft.tasks.rows import Problems, Table
from autopeft.tasks.spec import DataSpec, Kind, Unseen, columns_of
from autopeft.tasks.splits import N_FOLDS, Labels, Split, carve, draw

MIN_TRAIN_ROWS = 2
MIN_ROWS_FOR_SELECTION = 1_000
"""Training rows from which some are set aside for the final selection unasked."""
MIN_UNSEEN_ROWS = 2
"""Of the final selection: a single row tells nothing of how rows differ."""


@dataclass(frozen=True)
class Dataset:
    """The rows of a study.

    Attributes:
        train: what the ops learn from.
        validation: what the search selects on.
        selection: what the winners of the search are compared on, which it has not seen; optional.
        test: what nothing of all this has seen; optional.
        label_names: the classes, by number; none where labels are numbers or texts.
        notes: what was done to the rows that a user would not expect, a sentence each.
    """

    train: Split
    validation: Split
    selection: Split | None = None
    test: Split | None = None
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that are there, train first."""
        return (self.train, self.validation, *filter(None, (self.selection, self.test)))

    def other_answers(self, unseen: Unseen | None) -> str | None:
        """That rows of the final selection have more or fewer answers than validation, if so.

        BLEU and its like are the higher the more there are, and rows of train have one.

        Args:
            unseen: what the final selection scores on.
        """
        rows = self.train if unseen == "fold" else self.selection
        if unseen is None or rows is None:
            return None
        there, validation = (
            sum(map(len, split.answers)) / len(split) for split in (rows, self.validation)
        )
        if math.isclose(validation, there, rel_tol=0.1):
            return None
        return (
            f"{rows.name}: {there:.1f} answers a row to score against, in validation "
            f"{validation:.1f}, so that scores on the two do not compare"
        )

    def count_seen(self, split: Split) -> int:
        """How many rows of a split have a text of one before it, which the search has seen."""
        before = self.splits[: self.splits.index(split)]
        known = {texts for other in before for texts in other.texts}
        return sum(texts in known for texts in split.texts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the classes and of all rows of all splits."""
        parts = [repr(self.label_names), *(f"{s.name} {s.fingerprint}" for s in self.splits)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load(spec: DataSpec, kind: Kind, base: Path, seed: int) -> Dataset:
    """Read, check and split the rows of a study.

    Args:
        spec: where they are.
        kind: what the labels are: classes, sets of them, numbers, tags of words or texts.
        base: folder that relative paths start from.
        seed: draws the rows that are carved, and those of `train_rows`.

    Returns:
        The data set; missing validation and selection splits, and a test split without labels,
        are carved from the training rows.

    Raises:
        DataError: telling what is wrong, with file and line.
    """
    problems = Problems()
    tables, unlabelled = _read(spec, kind, base, problems)
    problems.raise_if_any()
    label_names: tuple[str, ...] = ()
    labels: Mapping[str, Labels]
    references: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    if kind == "classification":
        label_names, labels = class_labels(tables, problems)
    elif kind == "multi_label_classification":
        label_names, labels = label_sets(tables, problems)
    elif kind == "regression":
        labels = number_labels(tables, problems)
    elif kind == "token_classification":
        label_names, labels = tag_labels(tables, problems)
    else:
        labels, references = answers(tables, problems)
    splits = {
        name: Split(
            name, tuple(row.texts for row in table.rows), labels[name], references.get(name)
        )
        for name, table in tables.items()
    }
    source = tables["train"].source
    _check_train(splits["train"], source, kind)
    stratified = kind == "classification"
    notes = _carve_missing(splits, unlabelled, seed, stratified=stratified)
    notes += _carve_selection(splits, spec.selection_rows, seed, stratified=stratified)
    notes += _limit_train(splits, spec.train_rows, label_names, seed)
    _check_train(splits["train"], f"{source}, what is left to train on", kind)
    if not splits["validation"]:
        raise DataError(f"{source}: {_nothing_to_set_aside(label_names)}")
    if "selection" in splits and len(splits["selection"]) < MIN_UNSEEN_ROWS:
        n_rows = len(splits["selection"])
        raise DataError(f"selection: {n_rows} row(s); at least {MIN_UNSEEN_ROWS} are needed")
    found = Dataset(
        splits["train"],
        splits["validation"],
        splits.get("selection"),
        splits.get("test"),
        label_names,
    )
    notes += remarks(splits, label_names, kind)
    scored = unseen(spec, found)
    told = (found.other_answers(scored), repeats(found.train, seed) if scored == "fold" else None)
    notes += filter(None, told)
    return replace(found, notes=tuple(notes))


def unseen(spec: DataSpec, dataset: Dataset | None) -> Unseen | None:
    """What the final selection scores on.

    Args:
        spec: may want none.
        dataset: its rows; None where they were not read.

    Returns:
        Rows set aside, or each time a part of the training rows; None if neither is wanted, or if
        the training rows are too few to be parted.
    """
    if spec.selection_rows or (dataset is not None and dataset.selection is not None):
        return "selection"
    too_few = dataset is not None and len(dataset.train) // N_FOLDS < MIN_UNSEEN_ROWS
    return None if spec.selection_rows == 0 or too_few else "fold"


def _read(
    spec: DataSpec, kind: Kind, base: Path, problems: Problems
) -> tuple[dict[str, Table], tuple[str, ...]]:
    if spec.hub is not None:
        # `datasets` takes seconds to import, and files do without it.
        from autopeft.tasks.hub import read_hub  # noqa: PLC0415

        return read_hub(spec, kind, problems)
    names = ("train", "validation", "selection", "test")
    files: dict[str, Path | None] = {name: getattr(spec, name) for name in names}
    columns = spec.columns(kind)
    tables = {
        name: read_table(base / path, columns_of(name, columns), problems)
        for name, path in files.items()
        if path is not None
    }
    return tables, ()


def _check_train(train: Split, source: str, kind: Kind) -> None:
    if len(train) < MIN_TRAIN_ROWS:
        raise DataError(f"{source}: {len(train)} row(s); at least {MIN_TRAIN_ROWS} are needed")
    if train.is_alike(kind):
        raise DataError(f"{source}: all rows have the same label, so there is nothing to learn")


def _nothing_to_set_aside(label_names: tuple[str, ...]) -> str:
    told = "too few rows to set some aside for validation"
    if label_names:
        told += f": none of {len(label_names):,} classes has two"
    return "; ".join(filter(None, [told, decimals(label_names)]))


def _carve_missing(
    splits: dict[str, Split], unlabelled: tuple[str, ...], seed: int, *, stratified: bool
) -> list[str]:
    notes = []
    for name in ("test", "validation"):
        if name in splits or (name == "test" and name not in unlabelled):
            continue
        n_before = len(splits["train"])
        splits["train"], splits[name] = carve(splits["train"], name, seed, stratified=stratified)
        reason = "its own split has no labels" if name in unlabelled else "none was given"
        notes.append(
            f"{name}: {reason}, so {len(splits[name]):,} of {n_before:,} training rows were "
            "set aside"
        )
    return notes


def _carve_selection(
    splits: dict[str, Split], n_rows: int | None, seed: int, *, stratified: bool
) -> list[str]:
    """Before the training rows are limited, so that rows which are not trained on come for free."""
    train = splits["train"]
    too_few = n_rows is None and len(train) < MIN_ROWS_FOR_SELECTION
    if "selection" in splits or n_rows == 0 or too_few:
        return []
    splits["train"], splits["selection"] = carve(
        train, "selection", seed, stratified=stratified, n_rows=n_rows
    )
    n_carved = len(splits["selection"])
    note = f"selection: {n_carved:,} of {len(train):,} training rows were set aside "
    return [note + "to compare the winners on"]


def _limit_train(
    splits: dict[str, Split], n_rows: int | None, label_names: tuple[str, ...], seed: int
) -> list[str]:
    train = splits["train"]
    if n_rows is None:
        return []
    if n_rows >= len(train):
        return [f"train: train_rows is {n_rows:,}, but there are only {len(train):,}: all are used"]
    splits["train"] = draw(train, n_rows, seed)
    notes = [f"train: {n_rows:,} of {len(train):,} rows are used (train_rows)"]
    lost = train.classes - splits["train"].classes if label_names else set()
    if lost:
        names = ", ".join(f"'{name}'" for i, name in enumerate(label_names) if i in lost)
        notes.append(f"train: train_rows leaves no row of {names}")
    return notes
