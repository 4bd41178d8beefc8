"""The text task: what is read from sources, and how it becomes balanced, disjoint splits."""

import importlib.metadata
import importlib.util
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from autopeft.demo.sentences import (
    first_sentence,
    harvest,
    names_pattern,
    sentence_key,
)
from autopeft.demo.text import Library, build, installed_libraries
from autopeft.errors import DataError

NAMES = names_pattern(["torch", "sklearn", "scikit-learn", "hugging face", "np"])
SMALL = {"train_rows": 48, "validation_rows": 24, "test_rows": 24}


def sentence(subject, number):
    """Distinct in its letters for each subject and number."""
    spelled = "".join("abcdefghij"[int(digit)] for digit in str(number))
    return f"Compute the {subject} value of item {spelled} now."


def write_package(root, functions):
    root.mkdir(parents=True)
    body = [f'def f{i}():\n    """{doc}"""\n' for i, doc in enumerate(functions)]
    for i in range(0, len(body), 5):
        (root / f"part{i}.py").write_text("\n".join(body[i : i + 5]))
    return root


def make_library(tmp_path, name, count, functions=()):
    subject = name[-1] * 5  # not the name itself, which would be replaced
    docs = [*(sentence(subject, i) for i in range(count)), *functions]
    return Library(name, write_package(tmp_path / "site" / name, docs), "1.0", (f"{name}-kit",))


@pytest.fixture
def libraries(tmp_path):
    return [make_library(tmp_path, f"lib{letter}", 30) for letter in "abcd"]


def read_rows(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read_splits(text):
    return {name: read_rows(getattr(text, name)) for name in ("train", "validation", "test")}


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return the sum of two arrays.", "Return the sum of two arrays."),
        ("Return the sum\n    of two arrays.\n\nMore.", "Return the sum of two arrays."),
        ("Return the sum, e.g. Of arrays. More.", "Return the sum, e.g. Of arrays."),
        ("See :class:`~a.b.Name` and :func:`.run` now.", "See Name and run now."),
        ("See :py:meth:`the title <a.b.c>` for more.", "See the title for more."),
        ("A ``literal`` and *some* **bold** `words_`.", "A literal and some bold words_."),
        ("See [`Trainer`] and [the docs](guide.md) too.", "See Trainer and the docs too."),
        (
            "Takes O(n**2) steps for a given List[int].",
            "Takes O(n**2) steps for a given List[int].",
        ),
        (
            "Wrap a TORCH.Tensor from SkLearn in np.",
            "Wrap a library.Tensor from library in library.",
        ),
        ("A Hugging Face pytorch_model, an npz file.", "A library library, an npz file."),
    ],
)
def test_first_sentence_is_plain_text(docstring, expected):
    assert first_sentence(docstring, NAMES) == expected


@pytest.mark.parametrize(
    "docstring",
    [
        "Only four words here.",
        " ".join(["word"] * 41),
        "Return the na\u00efve sum of arrays.",
        "Return the \x07 bell of two arrays.",
        ">>> add the one and two together",
        "Read it at https://example.org before use.",
        "Parameters\n----------\nx the first of them all",
        "Args: the first one is a number.",
        "size (int, optional): The size of one image.",
        "2 + 2 = 4, 3 * 3 = 9, 4 + 5 = x",
        "a = b + c * d / 2 - 1",
        "(deprecated) Use the other one instead.",
        ".. note:: this is not the sentence.",
        "",
    ],
)
def test_what_is_not_prose_is_left_out(docstring):
    assert first_sentence(docstring, NAMES) is None


@pytest.mark.filterwarnings("error")
def test_only_public_docstrings_of_own_sources_are_read(tmp_path):
    root = tmp_path / "package"
    files = {
        "__init__.py": '"""The package docstring is public too."""',
        "_private.py": '"""A private module docstring is skipped."""\n'
        'def run():\n    """But its public function is taken."""',
        "shapes.py": "class Shape:\n"
        '    """A class docstring is taken here."""\n'
        '    def area(self):\n        """A method docstring is taken here."""\n'
        '    def _area(self):\n        """A private method docstring is skipped."""\n'
        'class _Hidden:\n    def area(self):\n        """Inside a private class it is skipped."""\n'
        'def outer():\n    def inner():\n        """A nested function docstring is skipped."""\n',
        "escape.py": 'def run():\n    """An invalid escape is no obstacle."""\n    return "\\d"',
        "broken.py": 'def run(:\n    """This file has no valid syntax."""',
        "null.py": '"""This file has a null byte."""\0',
        "tests/shapes.py": '"""A file below tests is skipped."""',
        "_vendor/shapes.py": '"""A file below a vendored package is skipped."""',
        "test_shapes.py": '"""A file with tests itself is skipped."""',
        "data.txt": '"""A file without sources is skipped."""',
    }
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    found = harvest(root, NAMES, 100, random.Random(0))
    assert set(found.values()) == {
        "The package docstring is public too.",
        "But its public function is taken.",
        "A class docstring is taken here.",
        "A method docstring is taken here.",
        "An invalid escape is no obstacle.",
    }


def test_a_long_file_does_not_crowd_out_the_others(tmp_path):
    (tmp_path / "long.py").write_text(
        "\n".join(f'def f{i}():\n    """{sentence("long", i)}"""' for i in range(200))
    )
    (tmp_path / "short.py").write_text(f'def f():\n    """{sentence("short", 0)}"""')
    found = harvest(tmp_path, NAMES, 100, random.Random(0))
    assert len(found) == 21
    assert sentence("short", 0) in found.values()


def test_splits_are_balanced_disjoint_and_as_large_as_asked(tmp_path, libraries):
    text = build(tmp_path / "out", 0, **SMALL, libraries=libraries)
    splits = read_splits(text)
    assert text.labels == ("liba", "libb", "libc", "libd")
    assert (text.train_rows, text.validation_rows, text.test_rows) == (48, 24, 24)
    for name, each in (("train", 12), ("validation", 6), ("test", 6)):
        assert Counter(row["label"] for row in splits[name]) == dict.fromkeys(text.labels, each)
    keys = [sentence_key(row["text"]) for rows in splits.values() for row in rows]
    assert len(keys) == len(set(keys)) == 96
    assert text.versions == dict.fromkeys(text.labels, "1.0")


def test_rows_of_a_split_are_mixed(tmp_path, libraries):
    text = build(tmp_path / "out", 0, **SMALL, libraries=libraries)
    first = read_rows(text.train)[:12]
    assert len({row["label"] for row in first}) > 1


def test_same_seed_same_bytes_another_seed_other_rows(tmp_path, libraries):
    one = build(tmp_path / "one", 0, **SMALL, libraries=libraries)
    two = build(tmp_path / "two", 0, **SMALL, libraries=libraries)
    other = build(tmp_path / "other", 1, **SMALL, libraries=libraries)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert one.test.read_bytes() == two.test.read_bytes() != other.test.read_bytes()


def test_order_in_which_the_file_system_lists_files_is_no_matter(tmp_path, libraries, monkeypatch):
    one = build(tmp_path / "one", 0, **SMALL, libraries=libraries)
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *args: reversed(list(listed(*args))))
    two = build(tmp_path / "two", 0, **SMALL, libraries=libraries)
    assert one.fingerprint == two.fingerprint


def test_sentences_of_two_libraries_are_in_neither(tmp_path):
    shared = "Return the very same thing in both."
    variant = shared.replace("very same", "very-same").upper()
    libraries = [
        make_library(tmp_path, "liba", 25, [shared] * 3),
        make_library(tmp_path, "libb", 25, [variant]),
        make_library(tmp_path, "libc", 25),
        make_library(tmp_path, "libd", 25),
    ]
    text = build(tmp_path / "out", 0, **SMALL, libraries=libraries)
    rows = [row for split in read_splits(text).values() for row in split]
    assert len(rows) == 96
    assert sentence_key(shared) not in {sentence_key(row["text"]) for row in rows}


def test_names_and_aliases_of_all_libraries_are_replaced(tmp_path):
    libraries = [
        make_library(
            tmp_path,
            f"lib{letter}",
            0,
            [sentence("LIBA-kit and libB", f"{k}{i}") for i in range(30)],
        )
        for k, letter in enumerate("abcd")
    ]
    text = build(tmp_path / "out", 0, **SMALL, libraries=libraries)
    rows = [row["text"] for split in read_splits(text).values() for row in split]
    assert all(row.startswith("Compute the library and library value") for row in rows)


def test_too_small_libraries_are_left_out_and_rows_cut_to_the_smallest(tmp_path):
    sizes = {"liba": 30, "libb": 30, "libc": 30, "libd": 16, "libe": 3}
    libraries = [make_library(tmp_path, name, size) for name, size in sizes.items()]
    text = build(tmp_path / "out", 0, **SMALL, libraries=libraries)
    assert text.labels == ("liba", "libb", "libc", "libd")
    assert set(text.versions) == set(text.labels)
    assert (text.train_rows, text.validation_rows, text.test_rows) == (32, 16, 16)


def test_fewer_than_four_libraries_are_refused_and_nothing_is_written(tmp_path):
    libraries = [make_library(tmp_path, name, 40) for name in ("liba", "libb", "libc")]
    libraries.append(make_library(tmp_path, "libd", 2))
    with pytest.raises(DataError, match=r"at least 4 libraries with 12 .* libd 2"):
        build(tmp_path / "out", 0, **SMALL, libraries=libraries)
    assert not (tmp_path / "out").exists()


def test_no_library_is_refused(tmp_path):
    with pytest.raises(DataError, match="found: no library"):
        build(tmp_path / "out", 0, libraries=[])


def test_fewer_rows_than_classes_are_refused(tmp_path, libraries):
    with pytest.raises(DataError, match="no test rows"):
        build(
            tmp_path / "out",
            0,
            train_rows=48,
            validation_rows=24,
            test_rows=3,
            libraries=libraries,
        )


def test_folder_that_cannot_be_made_is_refused(tmp_path, libraries):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written.*out"):
        build(tmp_path / "out", 0, **SMALL, libraries=libraries)


def test_library_that_is_not_installed_is_left_out(monkeypatch):
    def version(distribution):
        if distribution == "numpy":
            raise importlib.metadata.PackageNotFoundError(distribution)
        return "1.0"

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    names = {library.name for library in installed_libraries()}
    assert len(names) == 6
    assert not names & {"numpy", "torch"}


def test_installed_libraries_are_read_the_same_way_twice(tmp_path):
    one = build(tmp_path / "one", 7, train_rows=160, validation_rows=80, test_rows=80)
    two = build(tmp_path / "two", 7, train_rows=160, validation_rows=80, test_rows=80)
    assert one.train_rows == 160
    assert one.fingerprint == two.fingerprint


@pytest.mark.slow
def test_installed_libraries_fill_the_task_and_none_is_named(tmp_path):
    before = set(sys.modules)
    text = build(tmp_path, 0)
    labels = {library.name for library in installed_libraries()}
    assert not labels & (set(sys.modules) - before)
    assert set(text.labels) == set(text.versions) == labels
    assert len(labels) == 8
    names = re.compile(
        r"torch|numpy|scipy|sklearn|scikit.?learn|pandas|transformers|sql.?alchemy|hugging.?face"
        r"|\b(?:np|pd|hf|aten)\b",
        re.IGNORECASE,
    )
    keys = set()
    for split, rows in read_splits(text).items():
        each = {"train": 300, "validation": 125, "test": 125}[split]
        assert Counter(row["label"] for row in rows) == dict.fromkeys(text.labels, each)
        for row in rows:
            assert not names.search(row["text"])
            assert row["text"].isascii()
            assert row["text"].isprintable()
            assert 5 <= len(row["text"].split()) <= 40
            keys.add(sentence_key(row["text"]))
    assert len(keys) == text.train_rows + text.validation_rows + text.test_rows == 4400
