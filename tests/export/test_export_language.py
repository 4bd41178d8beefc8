"""Exports of models that write: loaded again they put out and write what was trained."""

import functools
import json

import pytest
import torch
from export.winners import LORA, MIXED, edit_json, winner_of
from model.test_model_kin import standing
from tiny import genotype, lora
from tiny_language import CONFIGS, HYBRIDS, kind_of, texts, writing_backbone

import autopeft
from autopeft.cli.loading import load_and_tell
from autopeft.errors import ConfigError, DataError
from autopeft.export import proof, reload
from autopeft.export.bank import AdapterBank
from autopeft.export.card import model_card
from autopeft.export.native import CONFIG
from autopeft.export.proof import TOLERANCE, _same_texts, prove, question_of
from autopeft.export.run import TARGETS
from autopeft.space.taps import Tap
from autopeft.study.spec import StudySpec

GATED = (lora(Tap.V, 4, scale="gated"),)
GENERATION = "generation_config.json"
OPS = {"native": MIXED, "peft": LORA, "merged": LORA, "gated": GATED}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("language")


@functools.cache
def checkpoint(home, family):
    """The folder of a family's model."""
    backbone = writing_backbone(family)
    backbone.model.save_pretrained(home / family)
    backbone.tokenizer.save_pretrained(home / family)
    return home / family


@functools.cache
def winner(home, family, target):
    """A winner of a family with what a target can hold."""
    model, kind = checkpoint(home, family), kind_of(family)
    for seed, (name, n_rows) in enumerate({"train": 30, "validation": 20}.items()):
        split = texts(n_rows, seed=seed)
        rows = [
            {"source": text, "target": answer}
            for (text,), answer in zip(split.texts, split.labels, strict=True)
        ]
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = {
        "model": str(model),
        "task": kind,
        "data": {name: str(home / f"{name}.jsonl") for name in ("train", "validation")},
        "metric": "exact_match",
        "generation": {"max_target_length": 12, "separator": " "},
        "training": {"max_length": 16, "precision": "fp32", "attention": "eager"},
    }
    folder = home / f"{family}-{target}"
    folder.mkdir()
    ops = standing(genotype(*OPS[target]), writing_backbone(family).shape).ops
    return winner_of(StudySpec.model_validate(spec), folder, *ops)


@functools.cache
def exported(home, family, target):
    folder = home / f"{family}-{target}-export"
    folder.mkdir()
    TARGETS[target](winner(home, family, target), folder)
    return folder


FAMILIES = [
    pytest.param(family, marks=[pytest.mark.slow] * (family in ("mbart", "llama")))
    for family in CONFIGS | HYBRIDS
    if family != "qwen2"
]
"""transformers would load the tokenizer of the folder as one of Qwen's."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["native", "peft", "merged"])
def test_what_is_loaded_writes_what_was_trained(home, family, target):
    one, folder = winner(home, family, target), exported(home, family, target)
    found, written = reload.answer(question_of(target, folder, one))
    allowed = TOLERANCE[target]
    torch.testing.assert_close(found, one.logits, rtol=allowed, atol=allowed)
    assert len(found) == int(one.ground.validation.labels.sum())
    assert written == one.answers
    assert len(set(written)) > 1


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_loaded_model_writes_for_texts(home, family):
    one, folder = winner(home, family, "native"), exported(home, family, "native")
    asked = [row[0] for row in one.ground.dataset.validation.texts[:3]]
    told = load_and_tell(folder, None, asked)
    assert [row["says"] for row in told["texts"]] == one.answers[:3]
    model, _ = autopeft.load(folder)
    assert model.config.use_cache
    assert type(model).__name__.endswith(("ForConditionalGeneration", "ForCausalLM"))


@pytest.mark.parametrize("family", ["mbart", "gpt2", "t5"])
@pytest.mark.parametrize("target", ["native", "merged"])
def test_it_generates_as_it_was_scored_unless_it_is_told_otherwise(home, family, target):
    one, folder = winner(home, family, target), exported(home, family, target)
    question = question_of(target, folder, one)
    model, tokenizer = reload.load(question)
    ids = torch.tensor([question["answers"]["input_ids"][0]])
    if family == "gpt2":
        ids = ids[:, : question["answers"]["targets"][0].count(-100)]
    (found,) = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
    text = tokenizer.decode(found[ids.shape[1] if family == "gpt2" else 0 :], True)
    assert text.strip() == one.answers[0]


def test_gates_write_without_kept_keys(home, tmp_path):
    one = winner(home, "gpt2", "gated")
    TARGETS["native"](one, tmp_path)
    _, written = reload.answer(question_of("native", tmp_path, one))
    assert written == one.answers
    (text, *_) = one.ground.dataset.validation.texts[0]
    (told,) = load_and_tell(tmp_path, None, [text])["texts"]
    assert told["says"] == one.answers[0]
    assert not autopeft.load(tmp_path)[0].config.use_cache


@pytest.mark.parametrize(("family", "auto"), [("t5", "Seq2SeqLM"), ("gpt2", "CausalLM")])
def test_card_says_how_to_load_and_how_it_wrote(home, family, auto):
    text = model_card(winner(home, family, "peft"), "peft", "out", "autopeft export", None, [])
    assert f"base = AutoModelFor{auto}.from_pretrained(" in text
    assert "num_labels" not in text
    assert "Texts were written greedily, 12 tokens at most." in text
    assert ("stands ' '" in text) == (family == "gpt2")
    assert ("Of what is asked, the last" in text) == (family == "gpt2")
    assert ("tokens was cut there" in text) == (family != "gpt2")


@pytest.fixture
def own_settings(home):
    """A place for models whose checkpoints say how they write."""
    place = home / "own"
    place.mkdir(exist_ok=True)
    for family in ("gpt2", "bart"):
        path = checkpoint(place, family) / GENERATION
        edit_json(path, lambda own: own.update(min_length=11, repetition_penalty=9.0))
    return place


@pytest.mark.parametrize("target", ["native", "peft", "merged"])
@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_settings_of_the_checkpoint_are_told_and_used_by_nobody(home, own_settings, family, target):
    one, folder = winner(own_settings, family, target), exported(own_settings, family, target)
    (note,) = [note for note in one.ground.notes if GENERATION in note]
    assert "nobody uses min_length 11, repetition_penalty 9.0: " in note
    assert one.answers == winner(home, family, target).answers
    _, written = reload.answer(question_of(target, folder, one))
    assert written == one.answers


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning")  # peft asks
def test_code_of_the_card_for_peft_writes_as_was_scored(own_settings):
    one, folder = winner(own_settings, "bart", "peft"), exported(own_settings, "bart", "peft")
    card = model_card(one, "peft", str(folder), "autopeft export", None, [])
    code, found = card.split("```")[1].removeprefix("python\n"), {}
    exec(code, found)
    asked = found["tokenizer"](*one.ground.dataset.validation.texts[0], return_tensors="pt")
    (ids,) = found["model"].generate(**asked)
    assert found["tokenizer"].decode(ids, skip_special_tokens=True).strip() == one.answers[0]


def test_bank_refuses_what_writes(home):
    with pytest.raises(ConfigError, match="adapter one writes texts"):
        AdapterBank({"one": exported(home, "t5", "native")})


def test_description_with_a_wrong_generation_is_refused(home, tmp_path):
    folder = exported(home, "gpt2", "native")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit_json(tmp_path / CONFIG, lambda data: data["outputs"]["generation"].update(beams=0))
    with pytest.raises(DataError, match=r"outputs.generation.beams: .*greater than or equal to 1"):
        autopeft.load(tmp_path)


def test_other_texts_are_no_proof(home, monkeypatch):
    one = winner(home, "gpt2", "native")
    monkeypatch.setattr(proof, "ask", lambda _: (one.logits, one.answers))
    assert prove("native", home, one).texts == len(one.answers)
    monkeypatch.setattr(proof, "ask", lambda _: (one.logits, ["nothing"] * len(one.answers)))
    with pytest.raises(DataError, match="it writes 'nothing', not"):
        prove("native", home, one)


def test_too_many_different_texts_are_another_model():
    assert _same_texts(["a", "b", "c", "d"], ["a", "b", "c", "x"]) == 3
    with pytest.raises(DataError, match="for validation row 3 it writes 'c', not 'y'"):
        _same_texts(["a", "b", "c", "d"], ["a", "b", "y", "x"])
