"""Rows with any number of labels: columns, metrics as scikit-learn has them, and what to expect."""

import itertools
import math

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from tasks.test_tasks_hub import hub
from tasks.test_tasks_task import TaskContract
from tasks.test_tasks_tokens import write
from torch.nn.functional import binary_cross_entropy_with_logits

from autopeft.errors import ConfigError, DataError
from autopeft.tasks.constant import constant_of
from autopeft.tasks.data import load
from autopeft.tasks.multi_label import MultiLabel
from autopeft.tasks.own_metric import load_own_metric
from autopeft.tasks.spec import METRICS, DataSpec
from autopeft.tasks.splits import Split
from autopeft.tasks.task import make_task

__all__ = ["hub"]

KIND = "multi_label_classification"
NAMES = ("a", "b", "c", "d")
NAN = math.nan


def sets(n_rows, seed, n_labels=4):
    """Labels some of which are rare; the last one is never there in the first draw."""
    shares = np.array([0.6, 0.3, 0.1, 0.0])[:n_labels] + (0.1 if seed else 0.0)
    return np.random.default_rng(seed).random((n_rows, n_labels)) < shares


def sklearns(metric, predictions, truth):
    if metric == "accuracy":
        return accuracy_score(truth, predictions)
    average = metric.removeprefix("f1_")
    # Of labels that nobody has and nobody was given there is no F1.
    zero = NAN if average == "macro" else 0.0
    return f1_score(truth, predictions, average=average, zero_division=zero)


class TestMultiLabel(TaskContract):
    task = MultiLabel(NAMES, "f1_macro")
    names = frozenset({"f1_micro", "f1_macro", "accuracy"})

    def labels(self, n_rows):
        return torch.from_numpy(sets(n_rows, 0)).long()

    def test_loss_is_binary_cross_entropy(self):
        logits = self.logits(2, 9)
        labels = self.labels(9).float()
        expected = [binary_cross_entropy_with_logits(trial, labels) for trial in logits]
        assert torch.allclose(self.task.loss(logits, self.labels(9)), torch.stack(expected))

    def test_labels_are_there_above_one_half(self):
        logits = torch.tensor([[[0.1, -0.1, NAN, 3.0]]])
        assert self.task.predictions(logits).tolist() == [[[True, False, False, True]]]
        assert self.task.named(self.task.predictions(logits)[0].numpy()) == [["a", "d"]]


@pytest.mark.parametrize("metric", METRICS[KIND])
@pytest.mark.parametrize("n_rows", [1, 2, 40])
def test_metrics_are_those_of_scikit_learn_and_rows_their_pseudo_values(metric, n_rows):
    truth, predictions = sets(n_rows, 0), sets(n_rows, 1)
    task = MultiLabel(NAMES, metric)
    found = task.metrics(predictions, truth)
    for name in METRICS[KIND]:
        assert found[name].value == pytest.approx(sklearns(name, predictions, truth))
    rows = task.row_scores(predictions, truth)
    assert rows.mean() == pytest.approx(found[metric].value)
    if n_rows < 40:
        return
    without = np.array(
        [
            sklearns(metric, np.delete(predictions, row, 0), np.delete(truth, row, 0))
            for row in range(n_rows)
        ]
    )
    pseudo = found[metric].value - (n_rows - 1) * (without - without.mean())
    np.testing.assert_allclose(rows, pseudo, atol=1e-12)
    draws = (np.random.default_rng(seed).integers(n_rows, size=n_rows) for seed in range(300))
    spread = np.std([sklearns(metric, predictions[some], truth[some]) for some in draws])
    assert found[metric].stderr == pytest.approx(spread, rel=0.3)


def test_nothing_there_and_nothing_found_is_zero():
    nothing = np.zeros((3, 4), bool)
    found = MultiLabel(NAMES).metrics(nothing, nothing)
    assert [found[name].value for name in METRICS[KIND]] == [0, 0, 1]
    assert found["accuracy"].stderr > 0.1, "three rows tell little"
    with pytest.raises(ConfigError, match="'f1' does not suit multi_label_classification; allowed"):
        MultiLabel(NAMES, "f1")


def split_of(truth):
    labels = tuple(tuple(np.flatnonzero(row).tolist()) for row in truth)
    return Split("validation", tuple(("words",) for _ in labels), labels)


@pytest.mark.parametrize("metric", METRICS[KIND])
@pytest.mark.parametrize("seed", range(6))
def test_no_constant_answer_is_better(metric, seed):
    truth = np.random.default_rng(seed).random((12, 4)) < np.array([0.7, 0.5, 0.2, 0.0])
    task = MultiLabel(NAMES, metric)
    scores = {
        answer: task.metrics(np.tile(np.array(answer, bool), (12, 1)), truth)[metric].value
        for answer in itertools.product((0, 1), repeat=4)
    }
    found = constant_of(task, split_of(truth), NAMES)
    assert found.value == pytest.approx(max(scores.values()))
    answer = tuple(int(f'"{name}"' in found.answer) for name in NAMES)
    assert scores[answer] == pytest.approx(found.value)


def test_no_label_may_be_the_best_answer():
    truth = np.zeros((5, 4), bool)
    truth[0, 1] = True
    found = constant_of(MultiLabel(NAMES, "accuracy"), split_of(truth), NAMES)
    assert (found.answer, found.value) == ("no label", pytest.approx(0.8))
    assert constant_of(MultiLabel(NAMES), split_of(truth), NAMES).answer == '"b"'


def test_of_many_labels_the_first_are_told():
    names = tuple(f"t{number}" for number in range(1_205))
    found = constant_of(MultiLabel(names, "f1_macro"), split_of(np.ones((2, 1_205))), names)
    assert found.answer == '"t0" and "t1" and "t2" and "t3" and "t4" and 1,200 more'


def test_a_function_is_told_lists_of_labels(tmp_path):
    (tmp_path / "own.py").write_text(
        "def jaccard(predictions, references):\n"
        "    pairs = [(set(p), set(r)) for p, r in zip(predictions, references)]\n"
        "    return sum(len(p & r) / max(1, len(p | r)) for p, r in pairs) / len(pairs)\n"
    )
    metric = f"{tmp_path}/own.py:jaccard"
    task = MultiLabel(NAMES, "own.py:jaccard", load_own_metric(metric))
    truth = np.array([[1, 1, 0, 0], [0, 0, 0, 1]])
    found = task.metrics(np.array([[1, 0, 0, 0], [0, 0, 0, 1]], bool), truth)
    assert list(found) == ["own.py:jaccard", *METRICS[KIND]]
    assert found["own.py:jaccard"].value == pytest.approx(0.75)
    dataset = load(DataSpec(train=write(tmp_path / "train.jsonl", ROWS * 5)), KIND, tmp_path, 0)
    assert make_task(KIND, metric, dataset).own.name == "own.py:jaccard"


ROWS = [
    {"text": "good plot", "labels": ["plot", "good"]},
    {"text": "bad cast", "labels": ["cast"]},
    {"text": "nothing", "labels": []},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_of_labels_are_read(tmp_path, suffix):
    train = write(tmp_path / f"train{suffix}", ROWS)
    dataset = load(DataSpec(train=train, validation=train), KIND, tmp_path, seed=0)
    assert dataset.label_names == ("cast", "good", "plot")
    assert dataset.train.labels == ((1, 2), (0,), ())
    task = make_task(KIND, None, dataset)
    assert task == MultiLabel(dataset.label_names, "f1_micro")
    assert task.sets(dataset.train).tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_integers_are_labels_in_their_order(tmp_path):
    rows = [{"text": "x", "labels": [10, 9]}, {"text": "y", "labels": [2]}]
    train = write(tmp_path / "train.jsonl", rows)
    dataset = load(DataSpec(train=train, validation=train), KIND, tmp_path, seed=0)
    assert dataset.label_names == ("2", "9", "10")
    assert dataset.train.labels == ((1, 2), (0,))


FLAGS = "text,rude,loud\nhey,1,0\nHEY,True,1.0\nhm,0,false\n"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_columns_say_of_a_label_each_whether_it_is_there(tmp_path, suffix):
    train = tmp_path / f"train{suffix}"
    if suffix == ".csv":
        train.write_text(FLAGS, encoding="utf-8")
    else:
        rows = [("hey", 1, 0), ("HEY", True, 1.0), ("hm", 0, False)]
        write(train, [{"text": t, "rude": r, "loud": c} for t, r, c in rows])
    spec = DataSpec(train=train, validation=train, label_columns=["rude", "loud"])
    dataset = load(spec, KIND, tmp_path, seed=0)
    assert dataset.label_names == ("rude", "loud")  # as they are told
    assert dataset.train.labels == ((0,), (0, 1), ())


@pytest.mark.parametrize("value", ["", "2", "yes", "-1", "nan"])
def test_what_says_neither_is_refused(tmp_path, value):
    train = tmp_path / "train.csv"
    train.write_text(FLAGS + f"what,{value},0\n", encoding="utf-8")
    spec = DataSpec(train=train, label_columns=["rude", "loud"])
    told = f"train.csv:5: column 'rude' is '{value}'; it says of a label whether it is there, 1 or"
    with pytest.raises(DataError) as caught:
        load(spec, KIND, tmp_path, seed=0)
    assert told in str(caught.value)


@pytest.mark.parametrize("value", [None, math.nan, [1], 2])
def test_what_says_neither_in_json_is_refused(tmp_path, value):
    rows = [{"text": "x", "rude": 1}, {"text": "y", "rude": value}]
    train = write(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match=r"train\.jsonl:2: column 'rude' is .*1 or 0"):
        load(DataSpec(train=train, label_columns="rude"), KIND, tmp_path, seed=0)


def test_csv_without_them_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("text,labels\nhey,rude\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"has no lists of labels; take .* or `data.label_columns` of a study"
    ):
        load(DataSpec(train="train.csv"), KIND, tmp_path, seed=0)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"label": "x"}, "either `label` or `label_columns`"),
        ({"messages": "x"}, "either `messages` or `text` and `label`"),
        ({"text": "rude"}, "column `rude` is named twice by `text` and `label_columns`"),
        ({"label_columns": ["rude", "rude"]}, "column `rude` is named twice"),
        ({"label_columns": []}, "at least 1 item"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(more, told):
    with pytest.raises(ValueError, match=told):
        DataSpec.model_validate({"train": "train.csv", "label_columns": ["rude"], **more})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("plot", "labels 'plot' are no list"),
        (["plot", "plot"], "label 'plot' is there twice"),
        ([True], "label True is neither a string nor an integer"),
        ([1], "label 1 is of type int, the first one of type str"),
        ([" "], "a label is empty"),
        (["plot "], "label 'plot ' differs from 'plot' by blanks around it alone"),
        (None, "column 'labels' is null"),
    ],
)
def test_bad_rows_are_refused(tmp_path, labels, told):
    train = write(tmp_path / "train.jsonl", [*ROWS, {"text": "x", "labels": labels}])
    with pytest.raises(DataError) as caught:
        load(DataSpec(train=train), KIND, tmp_path, seed=0)
    assert f"train.jsonl:4: {told}" in str(caught.value)


def test_labels_that_train_lacks_are_refused(tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS)
    later = write(tmp_path / "later.jsonl", [{"text": "x", "labels": ["plot", "music"]}])
    told = r"later\.jsonl:1: label 'music' is not one of train: 'cast', 'good', 'plot'"
    with pytest.raises(DataError, match=told):
        load(DataSpec(train=train, validation=later), KIND, tmp_path, seed=0)


def test_lists_of_classes_are_told_their_task(tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match="multi_label_classification` lists of classes"):
        load(DataSpec(train=train, label="labels"), "classification", tmp_path, seed=0)


@pytest.mark.parametrize("labels", [[], ["plot"]])
def test_rows_that_are_all_alike_teach_nothing(tmp_path, labels):
    train = write(tmp_path / "train.jsonl", [{"text": t, "labels": labels} for t in "xy"])
    with pytest.raises(DataError, match="all rows have the same label"):
        load(DataSpec(train=train, validation=train), KIND, tmp_path, seed=0)


def test_one_label_that_is_there_or_not_can_be_learnt(tmp_path):
    rows = [{"text": "x", "labels": ["plot"]}, {"text": "y", "labels": []}]
    train = write(tmp_path / "train.jsonl", rows)
    alike = write(tmp_path / "alike.jsonl", rows[:1])
    spec = DataSpec(train=train, validation=train, test=alike)
    dataset = load(spec, KIND, tmp_path, seed=0)
    assert dataset.label_names == ("plot",)
    assert dataset.notes[0] == "test: all rows have the same labels, so scores on it tell little"


def features(column):
    return datasets.Features({"text": datasets.Value("string"), **column})


def test_declared_labels_of_a_hub_keep_their_numbers(hub, tmp_path):
    kind = datasets.Sequence(datasets.ClassLabel(names=["joy", "anger", "awe"]))
    rows = {"text": list("uvwx"), "labels": [[0, 2], [1], [], [2, 1]]}
    there = datasets.Dataset.from_dict(rows, features=features({"labels": kind}))
    hub({"train": there, "validation": there})
    dataset = load(DataSpec(hub="user/name"), KIND, tmp_path, seed=0)
    assert dataset.label_names == ("joy", "anger", "awe")
    assert dataset.train.labels == ((0, 2), (1,), (), (1, 2))


def test_columns_of_a_hub_and_its_secret_labels(hub, tmp_path):
    kind = {name: datasets.Value("int64") for name in ("rude", "loud")}

    def rows(flags):
        values = {"text": [f"t{i}" for i in range(len(flags))]}
        values |= {name: [pair[i] for pair in flags] for i, name in enumerate(kind)}
        return datasets.Dataset.from_dict(values, features=features(kind))

    there = rows([(1, 0), (0, 1), (0, 0)] * 5)
    hub({"train": there, "validation": there, "test": rows([(-1, -1)] * 3)})
    spec = DataSpec(hub="user/name", label_columns=["rude", "loud"])
    dataset = load(spec, KIND, tmp_path, seed=0)
    assert dataset.label_names == ("rude", "loud")
    assert dataset.validation.labels[:3] == ((0,), (1,), ())
    assert "test: its own split has no labels" in dataset.notes[0]
