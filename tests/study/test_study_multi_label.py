"""A study of rows with any number of labels, from rows to the test split."""

import json
import random

import pytest
from study_factory import BAD, FILLER, GOOD, write_jsonl
from tiny import lora

from autopeft.space.genotype import Genotype
from autopeft.space.taps import Tap
from autopeft.study.prepare import prepare
from autopeft.study.search import run_search
from autopeft.study.unseen import open_test
from autopeft.training.train import train_cohort

KIND = "multi_label_classification"
SIZES = {"train": 64, "validation": 24, "test": 20}


def rows_of(n_rows, seed):
    """Rows of a good word, a bad one, both or neither."""
    draw = random.Random(seed)
    rows = []
    for i in range(n_rows):
        there = {"good": i % 2 == 0, "bad": i % 4 < 2}
        words = draw.choices(FILLER, k=draw.randint(1, 4))
        words += [draw.choice({"good": GOOD, "bad": BAD}[name]) for name in there if there[name]]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "labels": [name for name in there if there[name]]})
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return {
        name: str(write_jsonl(folder / f"{name}.jsonl", rows_of(n_rows, seed)))
        for seed, (name, n_rows) in enumerate(SIZES.items())
    }


def test_labels_are_searched_from_rows_to_the_test_split(spec_of, data, tmp_path):
    study = run_search(spec_of(task=KIND, data=data, trials=3), tmp_path / "study")
    assert study.front().metric == "f1_micro"
    for record in study.records():
        assert list(record.metrics) == ["f1_micro", "f1_macro", "accuracy"]
        scores = record.row_scores.values()
        assert len(scores) == SIZES["validation"]
        assert scores.mean() == pytest.approx(record.metrics["f1_micro"].value)
    told = json.loads((study.folder / "manifest.json").read_text(encoding="utf-8"))["data"]
    assert told["labels"] == ["bad", "good"]
    assert told["constant"]["answer"] == '"bad" and "good"'
    assert told["constant"]["value"] == pytest.approx(2 / 3)
    opening = open_test(study)
    assert (opening.metric, opening.rows) == ("f1_micro", SIZES["test"])


def test_labels_are_learnt(spec_of, data, tmp_path):
    ground = prepare(
        spec_of(task=KIND, data=data, training={"epochs": 40, "batch_size": 8}), tmp_path
    )
    taps = (Tap.Q, Tap.V, Tap.FFN_UP, Tap.FFN_OUT)
    one = Genotype(2, tuple(lora(tap, (8, 8)) for tap in taps), 0.01, 0.0)
    (trained,), _ = train_cohort(
        ground.backbone,
        [one],
        [0],
        task=ground.task,
        settings=ground.settings,
        train=ground.train,
        validation=ground.train,  # so small a model learns its rows by heart
        order_seed=0,
    )
    measured = ground.task.metrics(trained.predictions, ground.train.truth)
    assert measured["accuracy"].value > 0.95


def test_columns_of_flags_are_of_this_task_alone(spec_of, data):
    with pytest.raises(ValueError, match="is for multi_label_classification alone"):
        spec_of(data={**data, "label_columns": ["bad"]})
