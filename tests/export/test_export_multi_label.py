"""Exports of models that give a text any number of labels."""

import functools

import pytest
import torch
from export.winners import LORA, MIXED, save_family, winner_of, write
from study_factory import ROWS, rows_of, write_jsonl
from transformers import AutoModelForSequenceClassification, pipeline

import autopeft
from autopeft.cli.loading import UNLABELLED, load_and_tell
from autopeft.export import reload
from autopeft.export.adapter import Outputs
from autopeft.export.card import model_card
from autopeft.export.proof import TOLERANCE, compare, question_of
from autopeft.export.run import TARGETS
from autopeft.study.spec import StudySpec

KIND = "multi_label_classification"
NAMES = ("long", "short", "z")
OPS = {"native": MIXED, "peft": LORA, "merged": LORA}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


@functools.cache
def winner(home, target):
    model, data = home / "bert", {}
    if not model.exists():
        save_family(model, "bert")
    for name in ROWS:
        rows = [
            {"text": row["text"], "labels": NAMES[i % 2 :: 2]}
            for i, row in enumerate(rows_of(24, 0))
        ]
        data[name] = str(write_jsonl(home / f"{name}.jsonl", rows))
    spec = {
        "model": str(model),
        "task": KIND,
        "data": data,
        "training": {"max_length": 16, "precision": "fp32", "attention": "eager"},
    }
    folder = home / target
    folder.mkdir()
    return winner_of(StudySpec.model_validate(spec), folder, *OPS[target])


@functools.cache
def exported(home, target):
    folder = home / f"{target}-export"
    folder.mkdir()
    TARGETS[target](winner(home, target), folder)
    return folder


@pytest.mark.parametrize("target", OPS)
def test_what_is_loaded_puts_out_what_was_trained(home, target):
    one, folder = winner(home, target), exported(home, target)
    found, _ = reload.answer(question_of(target, folder, one))
    proof = compare(found, one.logits, one.outputs, TOLERANCE[target])
    assert proof.changed == 0
    assert one.logits.std(0).min() > 0.1
    card = model_card(one, target, "out", "autopeft export", None, [])
    assert "- text-classification" in card
    assert "Labels, each there where its output is above 0 (its sigmoid above 1/2): long" in card


@pytest.mark.parametrize("target", ["native", "merged"])
def test_a_pipeline_gives_each_label_its_own_share(home, target):
    one, folder = winner(home, target), exported(home, target)
    if target == "native":
        model, tokenizer = autopeft.load(folder)
    else:
        one.tokenizer.save_pretrained(folder)
        model, tokenizer = str(folder), None
    ask = pipeline("text-classification", model, tokenizer=tokenizer, top_k=None)
    assert ask.model.config.problem_type == KIND
    texts = [texts[0] for texts in one.ground.dataset.validation.texts[:4]]
    for said, logits in zip(ask(texts), one.logits, strict=False):
        shares = {answer["label"]: answer["score"] for answer in said}
        expected = dict(zip(NAMES, logits.sigmoid().tolist(), strict=True))
        assert shares == pytest.approx(expected, abs=1e-4)


def test_load_tells_the_labels_of_texts(home, tmp_path):
    one = winner(home, "native")
    folder = write(tmp_path / "out", one)
    texts = [texts[0] for texts in one.ground.dataset.validation.texts]
    told = load_and_tell(folder, None, texts)["texts"]
    kinds = set()
    for said, logits in zip(told, one.logits, strict=True):
        shares = logits.sigmoid().tolist()
        assert said["values"] == pytest.approx(dict(zip(NAMES, shares, strict=True)), abs=1e-4)
        pairs = zip(NAMES, shares, strict=True)
        there = [f"{name} ({share:.3f})" for name, share in pairs if share > 0.5]
        assert said["says"] == (", ".join(there) or UNLABELLED)
        kinds.add(len(there))
    assert len(kinds) > 1, "they differ in how many they have"


def test_score_is_the_metric_of_the_outputs(home):
    one = winner(home, "native")
    perfect = torch.from_numpy(one.ground.validation.truth).float() - 0.5
    assert one.score(perfect) == 1
    assert one.score(-perfect) == 0


def test_rows_whose_labels_are_others_are_counted():
    expected = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, 2.0]])
    found = torch.tensor([[1.0, 3.0], [-1.0, 2.0], [1.0, -2.0]])
    outputs = Outputs(KIND, ("bad", "good"))
    assert compare(found, expected, outputs, tolerance=1e3).changed == 2


@pytest.mark.parametrize("names", [NAMES, ("only",)])
def test_what_was_attached_keeps_its_labels(home, tmp_path, names):
    winner(home, "native")
    labels = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    model = AutoModelForSequenceClassification.from_pretrained(
        home / "bert", problem_type=KIND, **labels
    )
    ops = autopeft.attach(model, winner(home, "peft").genotype, seed=0)
    ops.save(tmp_path / "adapter")
    again, _ = autopeft.load(tmp_path / "adapter")
    assert again.config.problem_type == KIND
    assert tuple(again.config.id2label.values()) == names
    batch = {"input_ids": torch.tensor([[2, 5, 9, 3]]), "attention_mask": torch.ones(1, 4).long()}
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        torch.testing.assert_close(again(**batch).logits, expected, rtol=1e-4, atol=1e-4)
