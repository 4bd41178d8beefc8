"""What was attached to a model of one's own is saved as an adapter, or refused."""

import pytest
import torch
from tiny import EVERY, N_POSITIONS, as_params, genotype, lora, op, same, tiny_batch, tiny_model
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from winners import save_family

import autopeft
from autopeft.cli.loading import load_and_tell
from autopeft.errors import ConfigError, DataError
from autopeft.export.native import CONFIG, TENSORS, read_description
from autopeft.model.checkpoint import CLASSES
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

OPS = (
    lora(Tap.Q, (2, 0, 3), scale=2.0),
    op(Form.VERA, Tap.ATTN_IN, Tap.V, 3),
    op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (0, 3, 4)),
)
INSIDE = same(Form.PREFIX_MLP, Tap.HEAD, 3)
LORA = genotype(lora(Tap.Q, 2))
AUTO = AutoModelForSequenceClassification


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("attached")


@pytest.fixture(scope="module")
def checkpoint(home):
    def of(family):
        return home / family if (home / family).exists() else save_family(home / family, family)

    return of


def trained(model, one, seed=3):
    """What `attach` gives, its parameters and those of the head moved by a loop of one's own."""
    ops = autopeft.attach(model, one, seed=seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            rows = parameter if parameter.dim() < 3 else parameter[:, :1]  # no padding
            rows.add_(0.2 * torch.randn(rows.shape, generator=generator))
    return ops


@torch.no_grad()
def assert_loads(folder, model, batch):
    again, tokenizer = autopeft.load(folder)
    expected = model.eval()(**batch).logits
    torch.testing.assert_close(again(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    return again, tokenizer


@pytest.mark.parametrize("family", as_params(EVERY))
def test_what_was_attached_is_loaded_again(checkpoint, tmp_path, family):
    labels = {"num_labels": 3, "id2label": {0: "x", 1: "y", 2: "z"}}
    model = AUTO.from_pretrained(checkpoint(family), **labels)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(family))
    model.config.pad_token_id = tokenizer.pad_token_id
    one = genotype(*OPS, *(() if family == "deberta-v2" else (INSIDE,)))
    ops = trained(model, one)
    batch = tiny_batch(model)
    batch["input_ids"] = batch["input_ids"].clamp(max=18)  # words of the tokenizer
    with torch.no_grad():
        changed = model(**batch).logits
        ops.save(tmp_path / "adapter", tokenizer)
        assert torch.equal(model(**batch).logits, changed), "it can be trained on"
    again, _ = assert_loads(tmp_path / "adapter", model, batch)
    assert type(again) is type(model)
    assert again.config.id2label == labels["id2label"]
    assert not [path for path in (tmp_path / "adapter").iterdir() if path.name.startswith(".")]
    ops.remove()
    with torch.no_grad():
        assert not torch.allclose(model(**batch).logits, changed, atol=1e-2)


def test_a_model_in_few_digits_is_of_its_backbone_and_may_be_saved_twice(checkpoint, tmp_path):
    model = AUTO.from_pretrained(checkpoint("bert"), dtype=torch.bfloat16, num_labels=1)
    ops = trained(model, LORA)
    ops.save(tmp_path)
    with torch.no_grad():
        model.classifier.bias.add_(1)
    ops.save(tmp_path)
    again, _ = autopeft.load(tmp_path, dtype=torch.bfloat16)
    assert again.config.problem_type == "regression"
    batch = tiny_batch(model)
    with torch.no_grad():
        found, expected = again(**batch).logits, model(**batch).logits
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("family", "auto"),
    [
        ("bert", AutoModelForTokenClassification),
        ("gpt2", AutoModelForCausalLM),
        ("t5", AutoModelForSeq2SeqLM),
    ],
)
def test_models_that_write(checkpoint, tmp_path, family, auto):
    model = auto.from_pretrained(checkpoint(family))
    generation = {"beams": 3, "max_new_tokens": 7} if family != "bert" else None
    trained(model, LORA).save(tmp_path, generation=generation)
    again, _ = assert_loads(tmp_path, model, tiny_batch(model))
    if generation:
        told = again.generation_config
        assert (told.num_beams, told.max_new_tokens) == (3, 7)


def refused_save(model, one=LORA, **arguments):
    return lambda folder: trained(model, one).save(folder, **arguments)


def changed(model):
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[5] += 1e-4
    return model


def not_finite(model):
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    return model


REFUSED = {
    "other weights": (
        lambda at: refused_save(changed(AUTO.from_pretrained(at))),
        "embeddings.weig",
    ),
    "other configuration": (
        lambda at: refused_save(AUTO.from_pretrained(at, layer_norm_eps=0.1)),
        "again: config.layer_norm_eps; give the one that it is as backbone=",
    ),
    "more words": (
        lambda at: refused_save(resized(AUTO.from_pretrained(at))),
        "embeddings.word_embeddings.weight, config.vocab_size;",
    ),
    "from nowhere": (lambda _: refused_save(tiny_model("bert")), "does not say where its backbone"),
    "no such backbone": (
        lambda at: refused_save(AUTO.from_pretrained(at), backbone="/none"),
        "model `/none` cannot be loaded",
    ),
    "no head that is known": (
        lambda at: refused_save(AutoModelForQuestionAnswering.from_pretrained(at)),
        "a BertForQuestionAnswering cannot be saved as an adapter: what can be classifies rows, ",
    ),
    "several numbers at once": (
        lambda at: refused_save(AUTO.from_pretrained(at, problem_type="regression", num_labels=3)),
        "says what regression of 3 labels is",
    ),
    "not finite": (
        lambda at: refused_save(not_finite(AUTO.from_pretrained(at))),
        "classifier.bias has values that are not finite",
    ),
}


@pytest.mark.parametrize(
    ("family", "auto"),
    [
        ("modernbert", AutoModelForMaskedLM),
        ("distilbert", AutoModelForMaskedLM),
        ("bart", AutoModelForQuestionAnswering),
        ("gpt2", AutoModel),
    ],
)
def test_a_model_for_something_else_is_refused_with_what_can_be_saved(
    checkpoint, tmp_path, family, auto
):
    model = auto.from_pretrained(checkpoint(family))
    ops = autopeft.attach(model, LORA, seed=0)
    with pytest.raises(ConfigError) as refusal:
        ops.save(tmp_path)
    told = str(refusal.value)
    assert told.startswith(f"a {type(model).__name__} cannot be saved as an adapter: ")
    assert all(loads.__name__ in told for loads in CLASSES.values())
    assert not list(tmp_path.iterdir())


def resized(model):
    model.resize_token_embeddings(70)
    return model


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_not_be_loaded_again_is_refused_and_not_there(checkpoint, tmp_path, what):
    build, told = REFUSED[what]
    save = build(checkpoint("bert"))
    with pytest.raises((ConfigError, DataError)) as refusal:
        save(tmp_path / "out")
    assert told in str(refusal.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_how_texts_are_written_is_checked(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint("gpt2"))
    with pytest.raises(ConfigError, match=r"generation\.beams: "):
        autopeft.attach(model, LORA, seed=0).save(tmp_path, generation={"beams": 0})


def test_an_answer_to_messages_is_asked_for_by_the_chat_template(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint("gpt2"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("gpt2"), padding_side="left")
    tokenizer.eos_token = "[SEP]"
    ops, how = trained(model, LORA), {"max_target_length": 5}
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        ops.save(tmp_path / "out", tokenizer, generation=how, chat=True)
    tokenizer.chat_template = "{% for m in messages %}it {{ m.content }} bad {% endfor %}"
    ops.save(tmp_path / "out", tokenizer, generation=how, chat=True)
    asked = [{"role": "user", "content": "good"}]
    ids = tokenizer.apply_chat_template(asked, return_tensors="pt")["input_ids"]
    told = autopeft.load(tmp_path / "out")[0].generation_config
    written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=told)
    expected = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    (said,) = load_and_tell(tmp_path / "out", None, ["good"])["texts"]
    assert said["says"] == expected.strip() != ""
    ops.save(tmp_path / "plain", tokenizer, generation=how)
    (plain,) = load_and_tell(tmp_path / "plain", None, ["good"])["texts"]
    assert plain["says"] != said["says"]


def test_rows_are_cut_so_that_a_prompt_has_positions_before_them(checkpoint, tmp_path):
    model = AUTO.from_pretrained(checkpoint("bert"))
    trained(model, genotype(same(Form.PROMPT, Tap.EMBED, (3, 0, 0)))).save(tmp_path)
    assert read_description(tmp_path)[0].max_length == N_POSITIONS - 3
    assert len(load_and_tell(tmp_path, None, ["good " * 50])["texts"]) == 1


def test_a_model_that_writes_nothing_answers_no_messages(checkpoint, tmp_path):
    ops = trained(AUTO.from_pretrained(checkpoint("bert")), LORA)
    with pytest.raises(ConfigError, match="BertForSequenceClassification writes no texts"):
        ops.save(tmp_path, chat=True)


def test_what_transformers_saves_of_it_is_told_from_an_adapter(checkpoint, tmp_path):
    model = AUTO.from_pretrained(checkpoint("bert"))
    ops = trained(model, LORA)
    model.save_pretrained(tmp_path / "whole")
    with pytest.raises(DataError, match=f"no {CONFIG}, .* `save` of what `autopeft.attach` ret"):
        autopeft.load(tmp_path / "whole")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file cannot be written: "):
        ops.save(tmp_path / "file")
    ops.save(tmp_path / "adapter")
    assert (tmp_path / "adapter" / TENSORS).is_file()
    assert isinstance(model.classifier, nn.Linear)
