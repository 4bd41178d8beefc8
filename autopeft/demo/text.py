"""The text task of `autopeft demo`: which library does this sentence come from?"""

import hashlib
import importlib.metadata
import importlib.util
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopeft.demo.sentences import harvest, names_pattern
from autopeft.errors import DataError

MIN_CLASSES = 4

_RESERVE = 1.05  # sentences read for each one wanted; some turn out to be in two libraries

# Importable package, distribution, and what else the library is called. Each is a dependency,
# direct or not, of autopeft itself.
_LIBRARIES = (
    ("torch", "torch", ("pytorch", "aten")),
    ("numpy", "numpy", ("np",)),
    ("scipy", "scipy", ("sp",)),
    ("sklearn", "scikit-learn", ("scikit-learn", "scikit learn", "sk-learn", "scikits.learn")),
    ("pandas", "pandas", ("pd",)),
    ("transformers", "transformers", ("hugging face", "hugging-face", "huggingface", "hf")),
    ("sqlalchemy", "SQLAlchemy", ("sql alchemy", "sa")),
    ("huggingface_hub", "huggingface-hub", ("hugging face", "hugging-face", "huggingface", "hf")),
)


@dataclass(frozen=True)
class Library:
    """A class of the task.

    Attributes:
        name: the label; replaced wherever a sentence contains it.
        root: folder of the package's sources.
        version: of its distribution, for the account of what was read.
        aliases: other names of it, replaced too.
    """

    name: str
    root: Path
    version: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class DemoText:
    """The task as written: JSON lines with the fields `text` and `label`, classes balanced.

    Attributes:
        train: file of the training rows.
        validation: file of the validation rows.
        test: file of the test rows.
        labels: library names, sorted.
        train_rows: number of training rows.
        validation_rows: number of validation rows.
        test_rows: number of test rows.
        versions: of the libraries read, by label.
        fingerprint: SHA-256 over the three files.
    """

    train: Path
    validation: Path
    test: Path
    labels: tuple[str, ...]
    train_rows: int
    validation_rows: int
    test_rows: int
    versions: Mapping[str, str]
    fingerprint: str


@dataclass(frozen=True)
class _Row:
    text: str
    label: str


def build(
    out: Path,
    seed: int = 0,
    *,
    train_rows: int = 2400,
    validation_rows: int = 1000,
    test_rows: int = 1000,
    libraries: Sequence[Library] | None = None,
) -> DemoText:
    """Write the task into a folder; the same files for the same seed and library versions.

    The rows asked for are divided equally among the libraries. A library with less than half of
    its share is left out, and the others are cut to the smallest of them, so that there may be
    fewer rows than asked for. No two rows have the same letters.

    Args:
        out: folder for train.jsonl, validation.jsonl and test.jsonl; made if absent.
        seed: decides which sentences are taken, and where they go.
        train_rows: training rows wanted, over all classes.
        validation_rows: validation rows wanted, over all classes.
        test_rows: test rows wanted, over all classes.
        libraries: the classes; those installed with autopeft if not given.

    Raises:
        DataError: fewer than four libraries have enough sentences, or `out` cannot be written.
    """
    libraries = installed_libraries() if libraries is None else libraries
    wanted = {"train": train_rows, "validation": validation_rows, "test": test_rows}
    share = sum(wanted.values()) // max(len(libraries), 1)
    pools = _large_enough(_read(libraries, seed, share), share)
    splits = _split(pools, wanted, seed)
    paths = {name: out / f"{name}.jsonl" for name in splits}
    fingerprint = hashlib.sha256()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, rows in splits.items():
            content = _json_lines(rows)
            fingerprint.update(name.encode() + content)
            paths[name].write_bytes(content)
    except OSError as error:
        raise DataError(f"the demo text cannot be written: {error}") from error
    return DemoText(
        **paths,
        labels=tuple(sorted(pools)),
        train_rows=len(splits["train"]),
        validation_rows=len(splits["validation"]),
        test_rows=len(splits["test"]),
        versions={library.name: library.version for library in libraries if library.name in pools},
        fingerprint=fingerprint.hexdigest(),
    )


def installed_libraries() -> tuple[Library, ...]:
    """The libraries of the task that are installed, found without importing them."""
    found = []
    for package, distribution, aliases in _LIBRARIES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(next(iter(spec.submodule_search_locations)))
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:  # a folder of that name, not the library
            continue
        found.append(Library(package, root, version, aliases))
    return tuple(found)


def _read(libraries: Sequence[Library], seed: int, share: int) -> dict[str, list[str]]:
    """Sentences of each library that none of the others has."""
    # Every name is replaced in every library: another's name would say which one it is not.
    names = names_pattern([n for library in libraries for n in (library.name, *library.aliases)])
    found = {
        library.name: harvest(library.root, names, int(_RESERVE * share), _rng(seed, library.name))
        for library in libraries
    }
    owners = Counter(key for sentences in found.values() for key in sentences)
    return {
        name: [text for key, text in sentences.items() if owners[key] == 1]
        for name, sentences in found.items()
    }


def _large_enough(pools: dict[str, list[str]], share: int) -> dict[str, list[str]]:
    """The libraries with at least half of their share of sentences."""
    kept = {name: texts for name, texts in pools.items() if 2 * len(texts) >= share}
    if len(kept) < MIN_CLASSES:
        sizes = ", ".join(f"{name} {len(texts)}" for name, texts in pools.items())
        raise DataError(
            f"the demo text needs at least {MIN_CLASSES} libraries with {(share + 1) // 2} or more "
            f"docstring sentences each; found: {sizes or 'no library'}"
        )
    return kept


def _split(pools: dict[str, list[str]], wanted: dict[str, int], seed: int) -> dict[str, list[_Row]]:
    """Disjoint splits in the wanted proportions, each with equally many rows of each class."""
    rng = _rng(seed, "split")
    total = sum(wanted.values())
    smallest = min(len(texts) for texts in pools.values())
    splits: dict[str, list[_Row]] = {name: [] for name in wanted}
    for label in sorted(pools):
        texts = rng.sample(pools[label], len(pools[label]))
        for name, rows in wanted.items():
            per_class = min(rows // len(pools), smallest * rows // total)
            splits[name] += [_Row(text, label) for text in texts[:per_class]]
            texts = texts[per_class:]
    if empty := [name for name, rows_of_split in splits.items() if not rows_of_split]:
        raise DataError(
            f"the demo text would have no {' and no '.join(empty)} rows: {wanted} rows wanted of "
            f"{len(pools)} libraries, the smallest with {smallest} sentences"
        )
    for rows_of_split in splits.values():
        rng.shuffle(rows_of_split)
    return splits


def _rng(seed: int, purpose: str) -> random.Random:
    """A generator of its own for each library, so that one does not change another's rows."""
    return random.Random(f"{seed}/{purpose}")  # noqa: S311 (nothing secret)


def _json_lines(rows: Sequence[_Row]) -> bytes:
    return "".join(
        json.dumps({"text": row.text, "label": row.label}) + "\n" for row in rows
    ).encode()
