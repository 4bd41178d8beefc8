"""What is loaded reads the token that was trained on, whatever pads and on whichever side."""

import json
import runpy

import pytest
import torch
import transformers
from tiny import lora, same, tiny_model
from winners import LORA, MIXED, edit_json, make_winner, save_family

import autopeft
from autopeft.export import reload
from autopeft.export.bank import AdapterBank
from autopeft.export.card import model_card
from autopeft.export.proof import TOLERANCE, question_of
from autopeft.export.run import TARGETS
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.study.prepare import prepare
from autopeft.study.spec import load_study_spec

HEADED = [("gpt2", "native"), ("llama", "merged"), ("llama", "peft")]


def save_told(folder, family, config=None, **tokens):
    """A family's checkpoint whose files say something else of padding; None takes a key out."""
    save_family(folder / family, family)
    for name, told in (("config", config or {}), ("tokenizer_config", tokens)):
        path = folder / family / f"{name}.json"
        kept = json.loads(path.read_text(encoding="utf-8")) | told
        path.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def exported(winner, target, folder):
    folder.mkdir()
    TARGETS[target](winner, folder)
    return folder


def assert_reads_as_trained(winner, target, folder):
    found, _ = reload.answer(question_of(target, exported(winner, target, folder), winner))
    allowed = TOLERANCE[target] * max(1.0, float(winner.logits.abs().max()))
    assert float((found - winner.logits).abs().max()) <= allowed


@pytest.mark.parametrize(("family", "target"), HEADED)
def test_rows_may_end_with_what_pads(family, target, tmp_path):
    save_told(tmp_path, family, {"pad_token_id": None}, pad_token="[SEP]")
    assert_reads_as_trained(make_winner(tmp_path, family, *LORA), target, tmp_path / "out")


@pytest.mark.parametrize(("family", "target"), HEADED)
def test_configuration_may_know_of_another_token_to_pad_with(family, target, tmp_path):
    save_told(tmp_path, family, {"pad_token_id": 4})
    assert_reads_as_trained(make_winner(tmp_path, family, *LORA), target, tmp_path / "out")


@pytest.mark.parametrize(("family", "target"), HEADED)
def test_rows_begin_where_they_began_while_a_head_was_trained(family, target, tmp_path):
    save_told(tmp_path, family, padding_side="left")
    assert_reads_as_trained(make_winner(tmp_path, family, *LORA), target, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.padding_side == "right"


def test_exports_of_before_pad_as_well(tmp_path):
    winner = make_winner(tmp_path, "gpt2", *LORA)
    folder = exported(winner, "native", tmp_path / "out")
    edit_json(folder / "tokenizer_config.json", lambda told: told.update(padding_side="left"))
    model, tokenizer = autopeft.load(folder)
    texts = [row[0] for row in winner.ground.dataset.validation.texts[:6]]
    with torch.no_grad():
        found = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(found, winner.logits[:6], rtol=1e-5, atol=1e-4)


LEFT = [
    *((family, LORA) for family in ("gpt2", "llama", "gpt_neo")),
    *((family, MIXED) for family in ("gpt2", "llama", "gemma3_text")),
    *((family, (same(Form.PROMPT, Tap.EMBED, (4, 0, 0)),)) for family in ("gpt2", "llama")),
]


@pytest.mark.parametrize(("family", "ops"), LEFT)
def test_rows_may_be_padded_on_the_left(family, ops, tmp_path):
    winner = make_winner(tmp_path, family, *ops)
    folder = exported(winner, "native", tmp_path / "out")
    model, tokenizer = autopeft.load(folder)
    assert_reads_left(model, tokenizer, winner)
    if ops[0].form is not Form.PROMPT:  # which banks refuse
        bank = AdapterBank({"one": folder})
        assert_reads_left(bank.model, tokenizer, winner)


def assert_reads_left(model, tokenizer, winner):
    texts = [row[0] for row in winner.ground.dataset.validation.texts[:6]]
    batch = tokenizer(texts, padding=True, return_tensors="pt", padding_side="left")
    assert not batch["attention_mask"][:, 0].all()
    with torch.no_grad():
        found = model(**batch).logits
    torch.testing.assert_close(found, winner.logits[:6], rtol=1e-5, atol=1e-5)


def test_without_a_token_to_pad_with_rows_are_read_alone(tmp_path):
    save_told(tmp_path, "bert", pad_token=None)
    winner = make_winner(tmp_path, "bert", *LORA)
    assert winner.tokenizer.pad_token is None
    assert_reads_as_trained(winner, "native", tmp_path / "out")


@pytest.mark.parametrize(("family", "longest"), [("bert", 40 - 6), ("llama", 40)])
def test_cut_rows_leave_room_for_a_prompt(family, longest, tmp_path):
    winner = make_winner(tmp_path, family, same(Form.PROMPT, Tap.EMBED, (6, 0, 0)))
    folder = exported(winner, "native", tmp_path / "out")
    model, tokenizer = autopeft.load(folder)
    batch = tokenizer(["good film plot today " * 20], return_tensors="pt", truncation=True)
    assert batch["input_ids"].shape == (1, longest)
    assert model(**batch).logits.isfinite().all()


@pytest.fixture
def other_head(tmp_path):
    """A decoder whose checkpoint has a head of three classes, and whose tokenizer cannot pad."""
    save_told(tmp_path, "llama", {"pad_token_id": None}, pad_token=None, eos_token="[MASK]")
    model = tiny_model("llama", n_outputs=3)
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path / "llama")
    return make_winner(tmp_path, "llama", *LORA)


def rows_of(winner, loaded):
    """What loaded code puts out for the first rows of validation."""
    texts = [row[0] for row in winner.ground.dataset.validation.texts[:6]]
    with torch.no_grad():
        batch = loaded["tokenizer"](texts, padding=True, return_tensors="pt")
        return loaded["model"](**batch).logits


# peft asks a model for a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_code_of_the_card_loads_what_was_proven(other_head, tmp_path, monkeypatch):
    exported(other_head, "peft", tmp_path / "out")
    card = model_card(other_head, "peft", "out", "autopeft export", None, [])
    monkeypatch.chdir(tmp_path)
    loaded = {}
    exec(card.split("```python\n")[1].split("```")[0], loaded)
    found = rows_of(other_head, loaded)
    torch.testing.assert_close(found, other_head.logits[:6], rtol=1e-5, atol=1e-4)


def test_script_trains_what_was_searched(other_head, tmp_path):
    loaded = runpy.run_path(str(exported(other_head, "yaml", tmp_path / "out") / "finetune.py"))
    assert rows_of(other_head, loaded).shape == (6, 2)
    assert loaded["model"].config.pad_token_id == other_head.tokenizer.pad_token_id
    assert loaded["tokenizer"].padding_side == "right"


@pytest.mark.parametrize(("family", "told"), [("llama", True), ("bert", False)])
def test_what_a_head_reads_of_rows_that_end_so_is_part_of_a_study(family, told, tmp_path):
    plain = make_winner(tmp_path, family, lora(Tap.Q, 2))
    edit_json(
        tmp_path / family / "tokenizer_config.json", lambda told: told.update(pad_token="[SEP]")
    )
    other = prepare(load_study_spec(plain.study.spec_file), tmp_path)
    assert other.train.input_ids == plain.ground.train.input_ids
    assert (other.facts.reading_hash != plain.ground.facts.reading_hash) == told
