"""The native format: a normal model on the unmodified backbone; anything else is refused."""

import copy
import hashlib
import json
import pickle
import shutil
import struct

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file, save_file
from study_factory import tree
from tiny import LORA, MAM, lora, op, same, tiny_model
from transformers import AutoConfig, pipeline
from winners import edit_json, make_winner

import autopeft
from autopeft.cli.loading import load_and_tell
from autopeft.errors import ConfigError, DataError
from autopeft.export import reload
from autopeft.export.native import CONFIG, TENSORS, write_native
from autopeft.export.proof import question_of
from autopeft.export.refusal import refuse
from autopeft.export.run import TARGETS
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

MIXED = (
    *LORA.ops,
    *MAM.ops,
    same(Form.SCALE, Tap.FFN_MID),
    op(Form.LOWRANK_FA, Tap.ATTN_IN, Tap.K, 2),
    op(Form.VERA, Tap.ATTN_IN, Tap.K, 3),
    op(Form.DORA, Tap.FFN_MID, Tap.FFN_OUT, 2),
    op(Form.SPARSE, Tap.ATTN_IN, Tap.V, 7),
)
"""Prefixes, adapters, learned factors, and what is random and not stored."""


def write(winner, folder):
    """A native export of a winner, without proof and card."""
    folder.mkdir()
    write_native(folder, winner.description, winner.tensors)
    winner.tokenizer.save_pretrained(folder)
    return folder


def exported_as(target, winner, folder):
    folder.mkdir()
    TARGETS[target](winner, folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("native")


@pytest.fixture(scope="module")
def winner(home):
    return make_winner(home, "bert", *MIXED)


@pytest.fixture(scope="module")
def exported(winner, home):
    return write(winner, home / "exported")


def test_what_is_loaded_is_what_was_trained(exported, winner):
    """Of one family; test_export_families.py has the others."""
    found, _ = reload.answer(question_of("native", exported, winner))
    torch.testing.assert_close(found, winner.logits, rtol=1e-5, atol=1e-5)
    assert (found - found[0]).abs().max() > 1e-2, "the rows differ"


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
@pytest.mark.parametrize("form", [Form.PROMPT, Form.PROMPT_MLP])
def test_a_loaded_prompt_is_the_trained_one(home, tmp_path, family, form):
    prompt = op(form, Tap.EMBED, Tap.EMBED, (4, 0, 0))
    one = make_winner(home, family, prompt, lora(Tap.Q, 2))
    assert {op.form for op in one.genotype.ops} == {Form.PROMPT, Form.LOWRANK}
    found, _ = reload.answer(question_of("native", write(one, tmp_path / "out"), one))
    torch.testing.assert_close(found, one.logits, rtol=1e-5, atol=1e-5)
    for target, reason in {"peft": "read the prompt", "merged": "are no weights"}.items():
        with pytest.raises(ConfigError, match=f"prompt embed->embed: .* {reason}"):
            refuse(target, one.genotype, one.backbone.shape)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_regression_puts_out_its_label_if_the_head_has_a_bias(home, tmp_path, family):
    one = make_winner(home, family, lora(Tap.Q, 2), task="regression")
    found, _ = reload.answer(question_of("native", write(one, tmp_path / "out"), one))
    torch.testing.assert_close(found, one.logits, rtol=1e-5, atol=1e-5)
    model, _ = autopeft.load(tmp_path / "out")
    assert model.config.problem_type == "regression"
    folded = (one.outputs.mean, one.outputs.std) == (0.0, 1.0)
    assert folded is (family == "bert")  # Llama's has none
    merged = exported_as("merged", one, tmp_path / "merged")
    for config in (model.config, AutoConfig.from_pretrained(merged)):
        assert (config.label_mean, config.label_std) == (one.outputs.mean, one.outputs.std)
    assert found.mean() > 1 or not folded


def test_backbone_whose_configuration_has_changed_is_refused(home, winner, exported, tmp_path):
    """The weights are the same; exports of before do not tell, other versions tell otherwise."""
    changed = shutil.copytree(home / "bert", tmp_path / "bert")
    edit_json(
        changed / "config.json", lambda config: config.update(architectures=["BertForMaskedLM"])
    )
    autopeft.load(exported, backbone=changed)
    edit_json(changed / "config.json", lambda config: config.update(num_attention_heads=1))
    with pytest.raises(DataError, match=r"bert has another configuration \(sha256 "):
        autopeft.load(exported, backbone=changed)
    older = shutil.copytree(exported, tmp_path / "older")
    for change in (
        lambda told: told["configuration"].update(transformers="5.0.0"),
        lambda told: told.pop("configuration"),
    ):
        edit_json(older / CONFIG, lambda data, change=change: change(data["backbone"]))
        autopeft.load(older, backbone=changed)


def test_it_tells_the_parameters_that_count(exported, winner):
    counted = winner.genotype.count_params(winner.backbone.shape)
    assert load_and_tell(exported, None, [])["parameters"] == counted


def some_rows(model):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 19, (6, 7), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def test_it_is_a_normal_model(exported, winner, tmp_path):
    model, tokenizer = autopeft.load(exported)
    assert type(model) is type(tiny_model("bert"))
    rows = some_rows(model)
    logits = model(**rows).logits
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert classify("a great film")[0]["label"] in ("good", "bad")
    assert model.config.id2label == {0: "bad", 1: "good"}
    torch.testing.assert_close(copy.deepcopy(model)(**rows).logits, logits)
    model.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / TENSORS).read_bytes() == (exported / TENSORS).read_bytes()
    again, _ = autopeft.load(tmp_path / "again")
    torch.testing.assert_close(again(**rows).logits, logits, rtol=0, atol=0)
    moved = model.to("meta")
    assert all(p.device.type == "meta" for p in moved.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_it_computes_in_other_precisions(exported, dtype):
    exact, _ = autopeft.load(exported)
    model, _ = autopeft.load(exported, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    rows = some_rows(model)
    found = model(**rows).logits
    assert found.dtype == dtype
    scale = exact(**rows).logits.abs().max()
    assert (found.float() - exact(**rows).logits).abs().max() < 0.1 * scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_what_torch_makes_by_default_does_not_matter(exported, dtype):
    model, _ = autopeft.load(exported)
    rows = some_rows(model)
    expected = model(**rows).logits
    torch.set_default_dtype(dtype)
    try:
        again, _ = autopeft.load(exported)
        torch.testing.assert_close(again(**rows).logits, expected, rtol=0, atol=0)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@torch.no_grad()
def test_it_compiles(exported, monkeypatch):
    """By dynamo alone; the shape checks of these tests are nothing that it could follow."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model, _ = autopeft.load(exported)
    rows = some_rows(model)
    expected = model(**rows).logits
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(**rows).logits, expected)


def test_a_change_goes_into_what_is_saved(exported, tmp_path):
    model, _ = autopeft.load(exported)
    with torch.no_grad():
        model.classifier.bias += 1
        next(model.autopeft_ops.parameters()).add_(1)
    model.save_pretrained(tmp_path)
    old, new = load_file(exported / TENSORS), load_file(tmp_path / TENSORS)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert "classifier.bias" in changed
    assert len(changed) == 2


def test_a_state_that_is_given_is_what_is_saved(exported, tmp_path):
    """As averaged weights, or those that accelerate has gathered."""
    model, _ = autopeft.load(exported)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    model.save_pretrained(tmp_path / "other", state_dict=state, safe_serialization=True)
    old, new = load_file(exported / TENSORS), load_file(tmp_path / "other" / TENSORS)
    for name, tensor in old.items():
        expected = tensor + 1 if tensor.is_floating_point() else tensor
        assert torch.equal(new[name], expected), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.save_pretrained(tmp_path / "own", state_dict=before, max_shard_size="5GB")
    assert (tmp_path / "own" / TENSORS).read_bytes() == (exported / TENSORS).read_bytes()


def test_what_save_pretrained_cannot_do_is_refused(exported, tmp_path):
    model, _ = autopeft.load(exported)
    state = model.state_dict()
    ops = next(name for name in state if name.startswith("autopeft_ops"))
    for arguments, told in (
        (
            {"push_to_hub": True, "repo_id": "u/x"},
            r"no push_to_hub, repo_id; `model\.push_to_hub\(",
        ),
        ({"variant": "fp16"}, "no variant"),
        ({"state_dict": {}}, "lacks autopeft_ops"),
        ({"state_dict": {n: t for n, t in state.items() if n != ops}}, f"lacks {ops}$"),
        ({"state_dict": state | {"classifier.bias": torch.zeros(3)}}, r"shape \[3\], not \[2\]"),
        ({"state_dict": state | {ops: torch.zeros(1, 1, 1)}}, r"of shape \[1, 1\], not \["),
    ):
        with pytest.raises((ConfigError, DataError), match=told):
            model.save_pretrained(tmp_path / "out", **arguments)
    model.save_pretrained(tmp_path / "out", is_main_process=False)
    assert not list(tmp_path.rglob("*.*"))


def test_another_backbone_is_refused(exported, home, tmp_path):
    shutil.copytree(home / "bert", tmp_path / "other")
    state = load_file(tmp_path / "other" / "model.safetensors")
    name = next(iter(state))
    save_file(
        state | {name: state[name] + 1e-6},
        tmp_path / "other" / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(DataError, match="other weights"):
        autopeft.load(exported, backbone=tmp_path / "other")
    assert autopeft.load(exported, backbone=home / "bert")


# Every way to tamper with a folder: takes its path, changes it.


def in_config(change):
    return lambda folder: edit_json(folder / CONFIG, change)


def resealed(folder):
    """Let the configuration say the hash that the tensor file has now."""
    sha256 = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
    edit_json(folder / CONFIG, lambda data: data["tensors"].update(sha256=sha256))


def in_tensors(change, *, seal=True):
    def tamper(folder):
        tensors = load_file(folder / TENSORS)
        change(tensors)
        save_file(tensors, folder / TENSORS, {"format": "pt"})
        if seal:
            resealed(folder)

    return tamper


def in_bytes(change):
    def tamper(folder):
        path = folder / TENSORS
        path.write_bytes(change(path.read_bytes()))
        resealed(folder)

    return tamper


def header(change):
    """Rewrite the header of a tensor file as text."""

    def rewrite(data):
        (length,) = struct.unpack("<Q", data[:8])
        text = change(data[8 : 8 + length].decode()).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return in_bytes(rewrite)


def put(key, value):
    """Set a key of the configuration, dots for levels."""

    def change(data):
        *parents, last = key.split(".")
        for parent in parents:
            data = data[parent]
        data[last] = value

    return in_config(change)


def drop(key):
    def change(data):
        *parents, last = key.split(".")
        for parent in parents:
            data = data[parent]
        del data[last]

    return in_config(change)


def text_of_config(change):
    def tamper(folder):
        path = folder / CONFIG
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return tamper


class Harm:
    """Would write a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def a_pickle(folder):
    (folder / TENSORS).write_bytes(pickle.dumps(Harm()))
    resealed(folder)


OP = "layers.0.prefix.head.head.keys"
Q = "layers.1.lowrank.attn_in.q.a"
PLACES = "layers.2.sparse.attn_in.v.entries"
TAMPERED = {
    "no configuration": lambda folder: (folder / CONFIG).unlink(),
    "configuration is no JSON": text_of_config(lambda text: text[:-9]),
    "configuration is a list": text_of_config(lambda _: "[]"),
    "key given twice": text_of_config(lambda text: text.replace("{", '{"seed": 1,', 1)),
    "NaN in the configuration": text_of_config(lambda t: t.replace('"seed": 5', '"seed": NaN')),
    "nested a thousand deep": text_of_config(lambda _: "[" * 100_000),
    "later version": put("version", 2),
    "unknown key": put("extra", 1),
    "unknown key inside": put("backbone.extra", 1),
    "missing key": drop("genotype"),
    "missing key inside": drop("backbone.sha256"),
    "configuration is no hash": put("backbone.configuration.sha256", "abc"),
    "seed is a text": put("seed", "5"),
    "seed below 0": put("seed", -1),
    "rows of no token": put("max_length", 0),
    "rows that no tokenizer can cut": put("max_length", 2**63),
    "name leaves its folder": put("backbone.name", "../../etc"),
    "name with a zero byte": put("backbone.name", "a\0b"),
    "name with a revision": put("backbone.name", "a@b"),
    "revision is a path": put("backbone.revision", "../x"),
    "hash is no hash": put("tensors.sha256", "abc"),
    "another hash of the backbone": put("backbone.sha256", "0" * 64),
    "unknown kind": put("outputs.kind", "exec"),
    "no classes": put("outputs.labels", []),
    "more classes": put("outputs.labels", ["a", "b", "c"]),
    "unknown form": in_config(lambda d: d["genotype"]["ops"][0].update(form="os.system")),
    "unknown tap": in_config(lambda d: d["genotype"]["ops"][0].update(read="../x")),
    "other depth": put("genotype.n_layers", 2),
    "huge rank": in_config(lambda d: d["genotype"]["ops"][0].update(sizes=[65536] * 3)),
    "another rank": in_config(lambda d: d["genotype"]["ops"][0].update(sizes=[1, 1, 1])),
    "op left out": in_config(lambda d: d["genotype"]["ops"].pop()),
    "no tensors": lambda folder: (folder / TENSORS).unlink(),
    "tensors changed by a bit": lambda folder: (folder / TENSORS).write_bytes(
        (folder / TENSORS).read_bytes()[:-1] + b"\1"
    ),
    "another value": in_tensors(lambda tensors: tensors[Q].view(-1)[0].add_(1), seal=False),
    "tensors cut short": in_bytes(lambda data: data[:-5]),
    "tensors and more": in_bytes(lambda data: data + b"more"),
    "empty tensor file": in_bytes(lambda _: b""),
    "header longer than the file": in_bytes(lambda data: struct.pack("<Q", 2**40) + data[8:]),
    "header is no JSON": header(lambda text: text.replace(":", ";", 1)),
    "name twice in the header": header(lambda t: t.replace("layers.0.prefix.head.head.values", OP)),
    "name in the header leaves its folder": header(
        lambda t: t.replace(OP, "../../../../../../../x/y/head.keys")
    ),
    "overlapping tensors": header(lambda t: t.replace('"data_offsets":[0,', '"data_offsets":[4,')),
    "a pickle": a_pickle,
    "a pickle beside": lambda folder: (folder / "pytorch_model.bin").write_bytes(b"\x80"),
    "code beside": lambda folder: (folder / "modeling.py").write_text("print(1)"),
    "NaN": in_tensors(lambda tensors: tensors[Q].view(-1)[0].fill_(float("nan"))),
    "infinity": in_tensors(lambda tensors: tensors["classifier.bias"][0].fill_(float("inf"))),
    "half precision": in_tensors(lambda tensors: tensors.update({Q: tensors[Q].half()})),
    "integers": in_tensors(lambda tensors: tensors.update({Q: tensors[Q].int()})),
    "place beside the table": in_tensors(lambda tensors: tensors[PLACES][0].fill_(32 * 32)),
    "place below the table": in_tensors(lambda tensors: tensors[PLACES][0].fill_(-1)),
    "one place twice": in_tensors(lambda tensors: tensors[PLACES].fill_(3)),
    "places as numbers": in_tensors(lambda t: t.update({PLACES: t[PLACES].float()})),
    "tensor left out": in_tensors(lambda tensors: tensors.pop(Q)),
    "head left out": in_tensors(lambda tensors: tensors.pop("classifier.bias")),
    "tensor in addition": in_tensors(lambda tensors: tensors.update(x=torch.zeros(1))),
    "name of another tensor": in_tensors(lambda tensors: tensors.update(x=tensors.pop(Q))),
    "other shape": in_tensors(lambda tensors: tensors.update({Q: tensors[Q].T.contiguous()})),
    "another dimension": in_tensors(lambda tensors: tensors.update({Q: tensors[Q][None]})),
    "tokenizer is no JSON": lambda folder: (folder / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("way", TAMPERED)
def test_a_tampered_folder_is_refused_with_one_message(exported, tmp_path, monkeypatch, way):
    shutil.copytree(exported, tmp_path / "adapter")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    TAMPERED[way](tmp_path / "adapter")
    before = tree(tmp_path)
    with pytest.raises(DataError) as refusal:
        autopeft.load(tmp_path / "adapter")
    assert str(refusal.value).count("\n") == 0
    assert str(tmp_path) in str(refusal.value) or "has other weights" in str(refusal.value)
    assert tree(tmp_path) == before


def test_there_are_forty_ways_and_more():
    assert len(TAMPERED) >= 40


def test_what_was_not_tampered_with_loads(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "adapter")
    in_tensors(lambda _: None)(tmp_path / "adapter")
    header(lambda text: text)(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text(encoding="utf-8"))["version"] == 1
    assert autopeft.load(tmp_path / "adapter")
