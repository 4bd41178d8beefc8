"""Several adapters on one backbone, and rows of one batch that go to different ones."""

import random

import pytest
import torch
from model.test_model_kin import standing
from safetensors.torch import load_file, save_file
from tiny import HOULSBY, LORA, MAM, PFEIFFER, VECTORS, genotype, lora, op, same
from transformers import pipeline
from winners import edit_json, forget_pad, make_winner, save_family, write

import autopeft
from autopeft.errors import ConfigError, DataError
from autopeft.export.bank import AdapterBank
from autopeft.space.forms import Form
from autopeft.space.genotype import Op
from autopeft.space.taps import Tap

GENOTYPES = {
    "lora": LORA.ops,
    "mam": MAM.ops,
    "houlsby": HOULSBY.ops,
    "vectors": VECTORS.ops,
    "head": (),
    "top": (lora(Tap.V, (0, 0, 4)),),
    "cross": (
        lora(Tap.Q, 2),
        lora(Tap.CROSS_Q, (0, 2, 3)),
        lora(Tap.CROSS_V, (0, 4, 1)),
        same(Form.PREFIX, Tap.CROSS_HEAD, (0, 3, 3)),
        same(Form.BOTTLENECK, Tap.CROSS_OUT, (0, 2, 2)),
    ),
}
END = 3
"""The token that an encoder-decoder's head reads."""
ENCODERS = {"pfeiffer": PFEIFFER.ops}


FAMILIES = ["bert", "llama", "gpt2", "deberta-v2", "t5", "bart", "qwen3_5_text"]


def is_there(one: Op, shape):
    return {one.read, one.write} <= set(shape.widths)


@pytest.fixture(scope="module", params=FAMILIES)
def folders(request, tmp_path_factory):
    """Adapters of every kind on one model; one has a single output."""
    home = tmp_path_factory.mktemp(request.param)
    out = {}
    more = ENCODERS if request.param == "bert" else {}
    shape = make_winner(home, request.param).backbone.shape
    for name, ops in (GENOTYPES | more).items():
        kept = standing(genotype(*(one for one in ops if is_there(one, shape))), shape).ops
        task = "regression" if name == "top" else "classification"
        winner = make_winner(home, request.param, *kept, task=task, seed=len(out))
        out[name] = write(home / f"adapter-{name}", winner)
    return out


def some_rows(n_rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 19, (n_rows, 9), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(torch.randint(3, 10, (n_rows,), generator=generator)):
        mask[row, length:] = 0
        ids[row, length - 1] = END
    return {"input_ids": ids * mask, "attention_mask": mask}


@torch.no_grad()
def test_rows_in_any_order_go_to_their_adapters(folders):
    bank = AdapterBank(folders)
    names = [*folders, *folders, "lora", "mam", "lora"]
    random.Random(0).shuffle(names)
    rows = some_rows(len(names))
    found = bank.outputs(rows, names)
    for name, folder in folders.items():
        model, _ = autopeft.load(folder)
        model.config.pad_token_id = bank.model.config.pad_token_id
        alone = model(**rows).logits
        own = [i for i, other in enumerate(names) if other == name]
        assert own
        for i in own:
            torch.testing.assert_close(found[i], alone[i], rtol=1e-5, atol=1e-5)
        bank.use(name)
        torch.testing.assert_close(bank.model(**rows).logits, alone, rtol=1e-5, atol=1e-5)
    assert len({len(row) for row in found}) == 2


@torch.no_grad()
def test_outputs_mean_what_the_adapter_in_use_says(tmp_path):
    tasks = {"two": "classification", "three": "three", "number": "regression"}
    folders = {
        name: write(tmp_path / f"adapter-{name}", make_winner(tmp_path, "bert", task=task))
        for name, task in tasks.items()
    }
    bank, rows = AdapterBank(folders), some_rows(2)

    def check(labels, problem):
        config = bank.model.config
        assert config.id2label == dict(enumerate(labels))
        assert config.label2id == {label: i for i, label in enumerate(labels)}
        assert (config.num_labels, config.problem_type) == (len(labels), problem)
        assert hasattr(config, "label_mean") == (problem == "regression")
        truth = torch.zeros(2) if problem == "regression" else torch.tensor([0, len(labels) - 1])
        assert bank.model(**rows, labels=truth).loss > 0

    check(["bad", "good"], "single_label_classification")
    said = pipeline("text-classification", model=bank.model, tokenizer=bank.tokenizer)("good")
    assert said[0]["label"] in ("bad", "good")
    bank.use("three")
    check(["x", "y", "z"], "single_label_classification")
    bank.use("number")
    check(["LABEL_0"], "regression")
    bank.use("two")
    check(["bad", "good"], "single_label_classification")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_batches_where_the_backbone_has_no_token_to_pad_with(tmp_path, family):
    forget_pad(save_family(tmp_path / family, family))
    winner = make_winner(tmp_path, family, lora(Tap.Q, 3))
    bank = AdapterBank({"a": write(tmp_path / "adapter", winner)})
    texts = ["good film", "a bad plot today"]

    def put_out(model, tokenizer):
        batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
        return model(**batch).logits

    model, tokenizer = autopeft.load(tmp_path / "adapter")
    expected = put_out(model, tokenizer)
    torch.testing.assert_close(put_out(bank.model, bank.tokenizer), expected)
    model.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(put_out(*autopeft.load(tmp_path / "again")), expected)
    for path in (tmp_path / "again").glob("*token*"):
        path.unlink()
    torch.testing.assert_close(put_out(*autopeft.load(tmp_path / "again")), expected)


def test_the_tokenizer_is_saved_with_the_model_but_not_written_over(tmp_path):
    folder = write(tmp_path / "adapter", make_winner(tmp_path, "bert", lora(Tap.Q, 2)))
    edit_json(folder / "tokenizer_config.json", lambda config: config.update(model_max_length=7))
    model, tokenizer = autopeft.load(folder)
    model.save_pretrained(tmp_path / "again")
    assert autopeft.load(tmp_path / "again")[1].model_max_length == 7
    tokenizer.model_max_length = 9
    model.save_pretrained(tmp_path / "again")
    assert autopeft.load(tmp_path / "again")[1].model_max_length == 7


@torch.no_grad()
def test_another_attention_is_refused_where_an_adapter_acts_inside(tmp_path):
    """At once in a bank, which has not run; and each time in one that has."""
    folders = {
        name: write(tmp_path / name, make_winner(tmp_path, "bert", *GENOTYPES[name]))
        for name in ("mam", "lora")
    }
    rows = some_rows(2)
    bank = AdapterBank(folders)
    model, _ = autopeft.load(folders["mam"])
    expected = model(**rows).logits
    for one in (bank.model, model):
        one.set_attn_implementation("sdpa")
        for _ in range(2):
            with pytest.raises(DataError, match="`sdpa` now, which would ignore them"):
                one(**rows)
        one.set_attn_implementation("autopeft_sdpa")
        torch.testing.assert_close(one(**rows).logits, expected)
    plain, _ = autopeft.load(folders["lora"])
    expected = plain(**rows).logits
    plain.set_attn_implementation("eager")
    torch.testing.assert_close(plain(**rows).logits, expected)


def test_a_bank_is_in_fp32_whatever_torch_makes_by_default(tmp_path):
    (tmp_path / "home").mkdir()
    tasks = {"two": "classification", "three": "three"}
    folders = {
        name: write(
            tmp_path / name, make_winner(tmp_path / "home", "bert", lora(Tap.Q, 2), task=task)
        )
        for name, task in tasks.items()
    }
    rows, names = some_rows(2), list(tasks)
    expected = AdapterBank(folders).outputs(rows, names)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = AdapterBank(folders).outputs(rows, names)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_a_bank_refuses(folders, tmp_path):
    bank = AdapterBank(dict(list(folders.items())[:2]))
    with pytest.raises(ConfigError, match="no adapter `x`; there are: lora, mam"):
        bank.use("x")
    with pytest.raises(ConfigError, match="3 names for another number of rows"):
        bank.outputs(some_rows(4), ["lora"] * 3)
    with pytest.raises(ConfigError, match="needs an adapter"):
        AdapterBank({})
    with pytest.raises(ConfigError, match="device 'nowhere' cannot be used"):
        AdapterBank(folders, device="nowhere")


def test_adapters_of_different_backbones_are_refused(tmp_path):
    one = make_winner(tmp_path, "bert", lora(Tap.Q, 2))
    first = write(tmp_path / "first", one)
    config = tmp_path / "bert" / "config.json"
    edit_json(config, lambda told: told.update(hidden_act="relu"))
    other = write(tmp_path / "other", make_winner(tmp_path, "bert", lora(Tap.Q, 2)))
    with pytest.raises(DataError, match="a and b were trained on different backbones"):
        AdapterBank({"a": first, "b": other})
    edit_json(config, lambda told: told.update(hidden_act="gelu"))
    path = tmp_path / "bert" / "model.safetensors"
    state = load_file(path)
    name = next(iter(state))
    save_file(state | {name: state[name] + 1}, path, {"format": "pt"})
    second = write(tmp_path / "second", make_winner(tmp_path, "bert", lora(Tap.Q, 2)))
    with pytest.raises(DataError, match="a and b were trained on different backbones"):
        AdapterBank({"a": first, "b": second})


def test_prompts_are_refused(tmp_path):
    prompt = op(Form.PROMPT, Tap.EMBED, Tap.EMBED, (2, 0, 0))
    folder = write(tmp_path / "prompt", make_winner(tmp_path, "bert", prompt))
    with pytest.raises(ConfigError, match="adapter a has a prompt"):
        AdapterBank({"a": folder})


def test_gates_are_refused(tmp_path):
    gated = op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 2, scale="gated")
    folder = write(tmp_path / "gated", make_winner(tmp_path, "bert", gated))
    with pytest.raises(ConfigError, match="adapter a has gated ops"):
        AdapterBank({"a": folder})
