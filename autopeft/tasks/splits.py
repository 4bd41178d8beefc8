"""Splits: the rows of one part of a data set, and how parts are carved from one another."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from autopeft.tasks.spec import Kind

CARVED_PERCENT = 20
CARVED_MAX_ROWS = 2_000
N_FOLDS = 5


Labels = tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | tuple[tuple[int, ...], ...]
"""Of the rows of a split, all of one type."""


@dataclass(frozen=True)
class Split:
    """Rows that are used for one purpose.

    Attributes:
        name: `train`, `validation`, `selection`, `fold` or `test`.
        texts: one string a row, the two of a pair, the words that have tags, or messages as JSON.
        labels: a class number from 0, a finite number, the answer to give, the tags' numbers, or
            those of the labels that a row has, in their order.
        references: one or several answers to score against; None where that is the label.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: Labels
    references: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        counts = {len(self.texts), len(self.labels), len(self.references or self.labels)}
        if len(counts) > 1:
            raise ValueError(f"{len(self.texts)} texts and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the rows in their order, as one line of JSON each."""
        digest = hashlib.sha256()
        for texts, label in zip(self.texts, self.labels, strict=True):
            digest.update(json.dumps([*texts, label]).encode() + b"\n")
        if self.references is not None:
            digest.update(json.dumps(self.references).encode())
        return digest.hexdigest()

    @property
    def classes(self) -> set[int | float | str]:  # checked as it stands
        """The labels that there are; of tagged words, the tags; of sets, what is in them."""
        each = (label if isinstance(label, tuple) else (label,) for label in self.labels)
        return {one for some in each for one in some}

    def is_alike(self, kind: Kind) -> bool:
        """Whether all rows, or all words, have the same label; or labels, if of any number.

        Args:
            kind: of the task.
        """
        if kind == "multi_label_classification":
            return len(set(self.labels)) == 1
        return len(self.classes) == 1

    @property
    def asked(self) -> "Split":
        """Its texts alone, where answers are texts."""
        return Split(self.name, self.texts, (0,) * len(self))

    @property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """What answers are scored against, where they are texts."""
        return self.references or tuple((str(label),) for label in self.labels)

    def take(self, rows: Sequence[int], name: str | None = None) -> "Split":
        """The rows at these positions, in this order."""
        texts = tuple(self.texts[row] for row in rows)
        labels = tuple(self.labels[row] for row in rows)
        references = self.references and tuple(self.references[row] for row in rows)
        return Split(name or self.name, texts, labels, references)  # type: ignore[arg-type]


def shuffled(n_rows: int, key: str) -> list[int]:
    """Positions in the order of their hashes.

    The same for ever: neither `random` nor numpy promise their shuffles to a later version.
    """
    return sorted(range(n_rows), key=lambda row: hashlib.sha256(f"{key}:{row}".encode()).digest())


def draw(split: Split, n_rows: int, seed: int) -> Split:
    """So many rows at random, in the split's order; a smaller draw is part of a larger one."""
    return split.take(sorted(shuffled(len(split), f"draw {seed}")[:n_rows]))


def carve(
    split: Split, name: str, seed: int, *, stratified: bool, n_rows: int | None = None
) -> tuple[Split, Split]:
    """Set a part of a split aside.

    Args:
        split: what to take from.
        name: of the new split.
        seed: draws the rows.
        n_rows: how many, about; 20 % and at most 2,000 if None.
        stratified: take the same share of every class, at least one row of it; a class of a single
            row stays where it is.

    Returns:
        What is left, and the new split.
    """
    n_carved = min(len(split) * CARVED_PERCENT // 100, CARVED_MAX_ROWS)
    if n_rows is not None:
        n_carved = min(n_rows, len(split))
    strata: dict[float | str | tuple[int, ...], list[int]] = defaultdict(list)
    for row in shuffled(len(split), f"carve {name} {seed}"):
        strata[split.labels[row] if stratified else 0].append(row)
    taken = set[int]()
    for rows in strata.values():
        n_share = max(1, n_carved * len(rows) // len(split))
        taken.update(rows[: min(n_share, len(rows) - 1)])
    kept = [row for row in range(len(split)) if row not in taken]
    return split.take(kept), split.take(sorted(taken), name)


def fold(split: Split, number: int, seed: int) -> tuple[Split, Split]:
    """Leave one of `N_FOLDS` parts of equal size out, each row in at most one of them.

    Rows that have a text of the part are in neither, unless that would take most of what is left.

    Args:
        split: what to part.
        number: of the part, from 0; beyond the last one it begins anew.
        seed: draws the parts.

    Returns:
        What is left, and the part.
    """
    size = len(split) // N_FOLDS
    first = number % N_FOLDS * size
    left_out = sorted(shuffled(len(split), f"folds {seed}")[first : first + size])
    rest, part = sorted(set(range(len(split))) - set(left_out)), split.take(left_out, "fold")
    known = set(part.texts)
    others = [row for row in rest if split.texts[row] not in known]
    return split.take(others if 2 * len(others) > len(rest) else rest), part


def count_shared(split: Split, other: Split) -> int:
    """How many rows of `split` have the texts of a row of `other`."""
    known = set(other.texts)
    return sum(texts in known for texts in split.texts)


def count_repeated(split: Split) -> int:
    """How many rows have the texts of another row of theirs."""
    return sum(count for count in Counter(split.texts).values() if count > 1)
