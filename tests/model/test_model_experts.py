"""Mixtures of experts: an FFN that is known as a whole."""

import copy

import pytest
import torch
from test_model_kin import EXPERTS, KIN, LLAMA, MIXTURES, SPECIAL, tiny
from tiny import D_FFN, N_LAYERS, genotype, lora, op, same, tiny_batch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from autopeft.errors import ConfigError, DataError
from autopeft.export.refusal import refuse
from autopeft.model.anatomy import Anatomy
from autopeft.model.backbone import to_dtype
from autopeft.model.check import check
from autopeft.model.experts import has_experts
from autopeft.model.inject import Injection
from autopeft.model.outline import kept_bytes
from autopeft.model.unknown import told
from autopeft.space.forms import Form
from autopeft.space.merge import obstacles
from autopeft.space.methods import method
from autopeft.space.taps import Tap

OF_WEIGHTS = {Tap.FFN_GATE, Tap.FFN_UP, Tap.FFN_MID}


def unknown(kind, monkeypatch, **more):
    """A decoder of a type that no row of the table is for."""
    routed = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
    monkeypatch.setitem(KIN, kind, EXPERTS | routed | more)
    return tiny(kind, AutoModelForCausalLM)


@pytest.mark.parametrize("family", MIXTURES)
@torch.no_grad()
def test_an_ffn_of_experts_is_read_and_written_as_a_whole(family):
    model = tiny(family)
    batch, anatomy = tiny_batch(model), Anatomy(model)
    shape = anatomy.shape()
    assert not {Tap.FFN_GATE, Tap.FFN_UP, Tap.FFN_MID, Tap.FFN_NORM} & set(shape.widths)
    assert shape.ffn_activation is None
    ops = [op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 2), same(Form.SCALE, Tap.FFN_OUT)]
    injection = Injection(model, [genotype(*ops)], [0], "eager")
    own = {name: tensor.normal_(std=0.3).clone() for name, tensor in injection.tensors(0).items()}
    found = model(**batch).last_hidden_state
    injection.remove()
    assert not torch.allclose(found, model(**batch).last_hidden_state, atol=1e-2)
    for i in range(N_LAYERS):
        mine = {name.rpartition(".")[2]: t for name, t in own.items() if f".{i}." in name}

        def by_hand(_, args, out, mine=mine):
            whole, *rest = out if isinstance(out, tuple) else (out,)
            inner = torch.relu(args[0] @ mine["down"].T + mine["down_bias"].flatten())
            added = inner @ mine["up"] + mine["up_bias"].flatten()
            whole = (whole + added) * mine["factors"].flatten()
            return (whole, *rest) if rest else whole

        anatomy.module(i, "ffn").register_forward_hook(by_hand)
    torch.testing.assert_close(found, model(**batch).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("n_dense", [0, 1])
def test_it_is_read_from_names_also_behind_dense_layers(monkeypatch, n_dense):
    model = unknown("glm4_moe", monkeypatch, first_k_dense_replace=n_dense)
    family = Anatomy(model).family
    assert (family.layers.ffn, family.layers.up, family.layers.gate) == ("mlp", None, None)
    assert "o self_attn.o_proj, ffn mlp; LayerNorms were not looked for" in told("glm4_moe", family)
    check(model, (), pools=False)
    assert not OF_WEIGHTS & set(Anatomy(model).shape().widths)


def test_weights_beside_it_are_refused(monkeypatch):
    """They would read what it reads, and not what is written there."""
    model = unknown("granitemoeshared", monkeypatch, shared_intermediate_size=D_FFN)
    with pytest.raises(DataError, match=r"has shared_mlp.* beside self_attn and block_sparse_moe$"):
        Anatomy(model)


def test_what_attention_has_is_no_expert(monkeypatch):
    model = unknown("glm4_moe", monkeypatch)
    for layer in model.model.layers:
        layer.self_attn.more = nn.Bilinear(2, 2, 2)
    assert Anatomy(model).family.layers.ffn == "mlp"
    assert not has_experts(nn.Conv1d(2, 2, 2))


def test_two_such_modules_are_not_taken_for_one(monkeypatch):
    model = unknown("glm4_moe", monkeypatch)
    for layer in model.model.layers:
        layer.other = nn.Bilinear(2, 2, 2)
    with pytest.raises(DataError, match=r"nothing like|not alike"):
        Anatomy(model)


def test_what_experts_are_chosen_by_is_not_rounded(monkeypatch):
    """As `from_pretrained` in bf16 leaves it; the buffer of it is still a part of a checkpoint."""
    exact = unknown("glm4_moe", monkeypatch, first_k_dense_replace=0)
    half = copy.deepcopy(exact)
    to_dtype(half, torch.bfloat16)
    before, after = exact.state_dict(), half.state_dict()
    assert before.keys() == after.keys()
    # Newer versions of transformers say so of the router's weights, too.
    ends = tuple(exact._keep_in_fp32_modules_strict)
    chosen_by = {name for name in before if name.endswith(ends)}
    assert {n for n in before if n.endswith("e_score_correction_bias")} <= chosen_by
    assert len(chosen_by) == len(ends) * N_LAYERS
    assert {name for name in after if after[name].dtype is torch.float32} == chosen_by
    assert all(torch.equal(before[name], after[name]) for name in chosen_by)
    assert half(**tiny_batch(half)).logits.isfinite().all()
    to_dtype(half.bfloat16(), torch.float32)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "one",
    [
        op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 2),
        same(Form.LOWRANK, Tap.FFN_OUT, 2),
        *(same(form, tap) for form in (Form.SCALE, Form.BIAS) for tap in (Tap.FFN_IN, Tap.FFN_OUT)),
    ],
)
def test_what_is_at_the_whole_ffn_merges_into_no_weight(one):
    shape = Anatomy(tiny("mixtral")).shape()
    (reason,) = obstacles(
        genotype(one, lora(Tap.ATTN_OUT, 2), same(Form.SCALE, Tap.ATTN_OUT)), shape
    )
    assert f"no weight matrix alone reads or puts out `{one.write}`" in reason
    with pytest.raises(ConfigError, match="--to peft cannot hold this"):
        refuse("peft", genotype(one), shape)
    refuse("native", genotype(one), shape)


def test_methods_stand_where_there_are_taps():
    shape = Anatomy(tiny("mixtral")).shape()
    assert {op.write for op in method("lora_all").genotype(shape).ops} == {
        *(Tap.Q, Tap.K, Tap.V, Tap.ATTN_OUT)
    }
    assert "goes without the FFN: the FFN is a mixture of" in method("lora_all").shortened(shape)
    assert "whose weights are no taps" in method("lora_ffn").misfit(shape)
    for name in ("lora", "scaled_parallel", "mam"):
        assert method(name).misfit(shape) is method(name).shortened(shape) is None
    dense = Anatomy(tiny("glm")).shape()
    assert method("lora_all").shortened(dense) is method("lora_ffn").misfit(dense) is None


def kept(kind, config, n_rows, dtype=torch.float32):
    config = AutoConfig.for_model(kind, **config, **SPECIAL)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    model.eval().requires_grad_(requires_grad=False)
    found = kept_bytes(model, n_rows, 8, 0)
    assert model.dtype is dtype
    return found


def test_what_a_step_keeps_is_known_without_weights():
    """In fp32, though on meta tensors products of experts are known in bf16 alone."""
    few, more = (kept("mixtral", MIXTURES["mixtral"], n_rows) for n_rows in (4, 8))
    assert more == pytest.approx(2 * few, rel=0.1)
    exact, doubled = (kept("llama", LLAMA, 8, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert 1 < doubled / exact < 1.25, "what is there in fp32, too, counts once more"
