"""What one answer to every row scores, and when a search has learnt no more."""

import math

import numpy as np
import pytest

from autopeft.constant import Constant
from autopeft.tasks.constant import constant_of, constant_rows
from autopeft.tasks.multi_label import MultiLabel
from autopeft.tasks.own_metric import load_own_metric
from autopeft.tasks.splits import Split
from autopeft.tasks.task import Classification, Regression
from autopeft.tasks.tokens import TokenClassification


def split_of(labels):
    return Split("validation", tuple(("words",) for _ in labels), tuple(labels))


@pytest.mark.parametrize(
    ("metric", "labels", "answer", "value"),
    [
        ("accuracy", [0] * 7 + [1] * 3, '"no"', 0.7),
        ("f1", [0] * 7 + [1] * 3, '"yes"', 2 * 0.3 / 1.3),
        ("mcc", [0] * 7 + [1] * 3, '"no"', 0.0),
        ("accuracy", [0] * 3 + [1] * 7, '"yes"', 0.7),
    ],
)
def test_best_of_two_classes_depends_on_the_metric(metric, labels, answer, value):
    found = constant_of(Classification(2, metric), split_of(labels), ("no", "yes"))
    assert found.answer == answer
    assert found.value == pytest.approx(value)


def test_f1_of_the_first_class_counts_its_hits():
    task = Classification(2, "f1", positive=0)
    found = constant_of(task, split_of([0] * 3 + [1] * 7), ("fraud", "legit"))
    assert found.answer == '"fraud"'
    assert found.value == pytest.approx(2 * 0.3 / 1.3)


def test_best_of_many_classes_is_the_commonest():
    task = Classification(3, "f1")
    found = constant_of(task, split_of([2, 2, 2, 0, 1]), ("a", "b", "c"))
    assert found.answer == '"c"'
    assert found.value == pytest.approx(2 * 3 / (5 + 3) / 3), "macro F1: the other two are 0"
    assert found.stderr > 0


def test_no_correlation_with_a_constant():
    assert constant_of(Regression(), split_of([0.1, 0.5, 0.2]), ()).value == 0


@pytest.mark.parametrize(("metric", "value"), [("accuracy", 5 / 6), ("span_f1", 0.0)])
def test_of_tags_the_commonest(metric, value):
    names = ("B-x", "O")
    found = constant_of(
        TokenClassification(names, metric), split_of([(1, 1, 0), (1,), (1, 1)]), names
    )
    assert found.answer == '"O"'
    assert found.value == pytest.approx(value)


def test_metric_of_ones_own_is_not_asked(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def best(predictions, references):\n    raise ValueError\n", encoding="utf-8")
    own = load_own_metric(f"{file}:best")
    task = Classification(2, "best", own, ("no", "yes"))
    assert constant_of(task, split_of([0, 1]), ("no", "yes")) is None


def test_best_of_noise_does_not_beat_it():
    """Twenty models that guess: in 19 of 20 studies the best of them is not said to have learnt."""
    rng = np.random.default_rng(0)
    n_rows, n_trials, n_studies = 1000, 20, 400
    constant = Constant('"yes"', 0.5, math.sqrt(0.25 / n_rows))
    best = rng.binomial(n_rows, 0.5, size=(n_studies, n_trials)).max(axis=1) / n_rows
    errors = np.sqrt(best * (1 - best) / n_rows)
    said = [constant.is_beaten(q, e, n_trials) for q, e in zip(best, errors, strict=True)]
    assert np.mean(said) < 0.05
    alone = [constant.is_beaten(q, e, 1) for q, e in zip(best, errors, strict=True)]
    assert np.mean(alone) > 0.15, "as many would be, were it not told how many there were"
    assert constant.is_beaten(0.6, 0.0155, n_trials)
    assert constant.is_beaten(0.6, 0.0155, 0), "of a front whose records are not there"


@pytest.mark.parametrize(
    "told",
    [
        None,
        "yes",
        {},
        {"answer": "yes"},
        {"answer": 1, "value": 0.5, "stderr": 0.1},
        {"answer": "yes", "value": "0.5", "stderr": 0.1},
        {"answer": "yes", "value": 0.5},
    ],
)
def test_nonsense_in_a_manifest_tells_none(told):
    assert Constant.of_manifest({"data": {"constant": told}}) is None
    assert Constant.of_manifest({"data": told}) is None
    assert Constant.of_manifest(told) is None


def test_old_manifests_tell_none():
    assert Constant.of_manifest({}) is None
    assert Constant.of_manifest({"data": {"rows": {}}}) is None
    told = {"answer": '"yes"', "value": 0.5, "stderr": 0.1}
    assert Constant.of_manifest({"data": {"constant": told}}) == Constant('"yes"', 0.5, 0.1)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (Classification(2, "f1"), [0] * 7 + [1] * 3),
        (Classification(3, "f1_macro"), [0] * 5 + [1] * 3 + [2]),
        (Classification(2, "mcc"), [0] * 7 + [1] * 3),
        (TokenClassification(("O", "B-X"), "accuracy"), [(0, 0, 1), (0,), (1,)]),
        (MultiLabel(("a", "b"), "f1_micro"), [(0,), (0, 1), (), (0,)]),
    ],
)
def test_rows_of_the_best_answer_add_up_to_it(task, labels):
    split = split_of(labels)
    rows = constant_rows(task, split).values()
    assert len(rows) == len(labels)
    assert rows.mean() == pytest.approx(constant_of(task, split, ("a", "b", "c")).value, abs=1e-6)


def test_numbers_and_functions_have_no_rows_of_a_constant(tmp_path):
    assert constant_rows(Regression(), split_of([1.0, 2.0])) is None
    (tmp_path / "own.py").write_text("def fn(a, b):\n    return 1.0\n")
    own = load_own_metric(f"{tmp_path}/own.py:fn")
    assert constant_rows(Classification(2, own.name, own, ("no", "yes")), split_of([0, 1])) is None
