"""What is told of labels that can be used and may not be what was meant."""

import json

import pytest

from autopeft.constant import Constant
from autopeft.errors import DataError
from autopeft.tasks.data import load
from autopeft.tasks.remarks import decimals
from autopeft.tasks.spec import DataSpec


@pytest.fixture
def told(tmp_path):
    """The notes on files with these labels, or the message that refuses them."""

    def load_labels(kind="classification", suffix="jsonl", **splits):
        for name, labels in splits.items():
            rows = [(f"{name} {i}", one) for i, one in enumerate(labels)]
            if suffix == "csv":
                lines = ["text,label", *(f'{a},"{b}"' for a, b in rows)]
            else:
                lines = [json.dumps({"text": a, "label": b}) for a, b in rows]
            (tmp_path / f"{name}.{suffix}").write_text("\n".join(lines) + "\n")
        spec = DataSpec(**{name: f"{name}.{suffix}" for name in splits})
        try:
            return load(spec, kind, tmp_path, seed=0).notes
        except DataError as error:
            return str(error).replace(f"{tmp_path}/", "")

    return load_labels


def test_what_is_as_it_should_be_needs_no_word(told):
    assert told(train=["a", "b"] * 5, validation=["a", "b"], test=["b", "a"]) == ()
    assert told("regression", train=[0.5, 1.5] * 5, validation=[0.5, 2]) == ()
    assert told(suffix="csv", train=["1", "2.0"] * 5, validation=["1", "2.0"]) == ()


def test_numbers_of_a_csv_file_may_have_been_meant_as_numbers(told):
    labels = ["0,5", "1", "-2,25"] * 2
    (note,) = told(suffix="csv", train=labels, validation=labels)
    assert note == (
        "the labels are decimals like '-2,25', and each is taken for a class; numbers, written "
        "with a decimal point, are predicted by `task: regression`"
    )
    assert decimals(("1.5", "2")) is not None
    assert decimals(("1,234.50",)) is not None
    for names in (("1", "2"), ("1.0", "2.0"), ("1.5", "many"), ("1.5.x",), ("v1.5",)):
        assert decimals(names) is None


def test_classes_of_one_row_are_told_where_most_are(told):
    most, half = ["a", "b", "c", "d", "d"], ["a", "b", "c", "c", "d", "d"]
    assert told(train=most, validation=most) == ("train: 3 of 4 classes have a single row",)
    assert told(train=half, validation=half) == ()
    assert told(train=["a", "b"], validation=["a", "b"]) == ()


def test_why_no_row_can_be_set_aside(told):
    words = "train.csv: too few rows to set some aside for validation: none of 5 classes has two"
    assert told(suffix="csv", train="abcde") == words
    numbers = told(suffix="csv", train=["0.1", "0.2", "0.3", "0.4", "0.5"])
    assert numbers.startswith(f"{words}; the labels are decimals like '0.1', ")
    assert "`task: regression`" in numbers


def test_classes_that_differ_by_blanks_are_refused(told):
    message = told(suffix="csv", train=["pos", "neg", "pos ", "neg", " neg"])
    assert message.splitlines()[1:] == [
        "  train.csv:4: label 'pos ' differs from 'pos' by blanks around it alone",
        "  train.csv:6: label ' neg' differs from 'neg' by blanks around it alone",
    ]
    assert told(train=[" a", "b "] * 2, validation=[" a", "b "]) == (), "they are other words"


@pytest.mark.parametrize(
    ("label", "ending"),
    [
        ("TRUE", "; it differs from 'True' by upper and lower case alone"),
        ("True ", "; it differs from 'True' by blanks around it alone"),
        ("Truth", ""),
    ],
)
def test_class_that_is_nearly_one_of_train_is_told_which(told, label, ending):
    message = told(suffix="csv", train=["False", "True"] * 2, validation=["False", label])
    said = f"label '{label}' is not one of train: 'False', 'True'{ending}"
    assert message == f"validation.csv:3: {said}"


def test_rows_of_one_class_are_told(told):
    (note,) = told(train=[0, 1] * 5, validation=[1] * 4, test=[0, 1])
    assert note == "validation: all rows have the label '1', so scores on it tell little"
    (note,) = told("regression", train=[3, 4] * 5, validation=[3, 4], test=[3, 3])
    assert note == "test: all rows have the label 3.0, so scores on it tell little"


def test_classes_that_rows_lack_are_told(told):
    train = [f"class {i:02}" for i in range(13)] * 2
    (note,) = told(train=train, validation=train[:12])
    assert note == "validation: no row has the label 'class 12'"
    (note,) = told(train=train, validation=train[:2])
    assert note.endswith(
        "'class 02', 'class 03', 'class 04', 'class 05', 'class 06', 'class 07', "
        "'class 08', 'class 09', 'class 10', 'class 11' and 1 more"
    )


def test_tags_that_words_lack_are_told(tmp_path):
    def write(name, *tags):
        rows = [
            {"tokens": [f"{name} {i}"] * len(row.split()), "tags": row.split()}
            for i, row in enumerate(tags)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    spec = DataSpec(
        train=write("t.jsonl", "O B-X", "O B-Y"),
        validation=write("v.jsonl", "O O", "O B-Y"),
        test=write("e.jsonl", "O O O"),
    )
    assert load(spec, "token_classification", tmp_path, seed=0).notes == (
        "validation: no word has the label 'B-X'",
        "test: all words have the label 'O', so scores on it tell little",
    )


def test_nothing_can_be_learnt_to_be_seen_on_rows_of_one_class():
    perfect = Constant('"1"', 1.0, 0.0)
    assert not perfect.is_beaten(1.0, 0.0, 1)
    assert "Score on rows with several labels" in perfect.nothing_learnt()
    assert "more epochs" not in perfect.nothing_learnt()
    assert "more epochs" in Constant('"1"', 0.9, 0.01).nothing_learnt()
