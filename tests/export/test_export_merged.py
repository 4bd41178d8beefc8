"""A merged model computes without ops what the model computes with them."""

from dataclasses import replace

import pytest
import torch
from tiny import (
    FAMILIES,
    GATED,
    HEADED,
    N_LAYERS,
    as_params,
    genotype,
    lora,
    op,
    same,
    same_bits,
    state,
    tiny_batch,
    tiny_model,
)
from transformers import AutoModelForSequenceClassification

from autopeft.errors import ConfigError
from autopeft.export.merged import merge
from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.space.bind import bind
from autopeft.space.forms import FORMS, Activation, Form
from autopeft.space.merge import ELEMENTWISE, LINEAR, NEVER, is_mergeable, obstacles
from autopeft.space.shipped import load_space
from autopeft.space.taps import Tap
from autopeft.study.propose import propose

GELU = {"activation": Activation.GELU}
WEIGHTS = (
    lora(Tap.Q, (1, 0, 9), scale=2.0),
    lora(Tap.Q, 2, scale="learned"),
    lora(Tap.FFN_OUT, 3),
    same(Form.LOWRANK, Tap.V, 2),
    same(Form.LOWRANK, Tap.ATTN_IN, (0, 3, 0)),
    op(Form.LOWRANK_FA, Tap.FFN_IN, Tap.FFN_UP, 4, scale=0.5),
    op(Form.DORA, Tap.FFN_MID, Tap.FFN_OUT, (3, 0, 2)),
    op(Form.DORA, Tap.ATTN_IN, Tap.K, 2, scale=3.0),
    op(Form.VERA, Tap.PRE_O, Tap.ATTN_OUT, 5),
    *(same(Form.SCALE, tap) for tap in (Tap.K, Tap.FFN_UP, Tap.ATTN_OUT)),
    *(same(Form.SCALE, tap) for tap in (Tap.ATTN_IN, Tap.PRE_O, Tap.FFN_IN, Tap.FFN_MID)),
)
"""What has no bias."""
VECTORS = tuple(
    same(Form.BIAS, tap)
    for tap in (Tap.ATTN_IN, Tap.Q, Tap.PRE_O, Tap.ATTN_OUT, Tap.FFN_IN, Tap.FFN_UP, Tap.FFN_MID)
)
NORMS = tuple(
    same(form, tap)
    for form in (Form.SCALE, Form.BIAS)
    for tap in (Tap.ATTN_NORM, Tap.FFN_NORM, Tap.BLOCK_OUT)
)
WIDER = (
    op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (5, 0, 9), scale=4.0, **GELU),
    op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (2, 0, 1), scale="learned", **GELU),
)


def merged(family, *ops):
    """A model, the same with random ops merged, and what it computes with them."""
    model = tiny_model(family)
    one = genotype(*ops)
    injection = Injection(model, [one], [3], "eager")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in injection.tensors(0).values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        tensors = {name: tensor.clone() for name, tensor in injection.tensors(0).items()}
        expected = model(**tiny_batch(model)).logits
    injection.remove()
    before = state(model)
    plain = merge(model, one, 3, tensors)
    assert same_bits(state(model), before)
    return model, plain, expected


def assert_same(model, plain, expected):
    batch = tiny_batch(model)
    with torch.no_grad():
        found, without = plain(**batch).logits, model(**batch).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected - without).abs().max() > 1e-2


@pytest.mark.parametrize("family", as_params(FAMILIES))
def test_everything_at_once_is_a_plain_model(family, tmp_path):
    model, plain, expected = merged(family, *WEIGHTS, *VECTORS, *NORMS, *WIDER)
    assert_same(model, plain, expected)
    assert type(plain) is type(model)
    # Two adapters in a layer have their widths together; all layers have the largest.
    assert Anatomy(plain).shape().widths[Tap.FFN_MID] == 48 + 10
    plain.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert_same(model, again, expected)


@pytest.mark.parametrize("family", [*GATED, "modernbert"])
def test_everything_without_a_bias_merges_into_a_gated_model(family):
    assert_same(*merged(family, *WEIGHTS, lora(Tap.FFN_GATE, 2), same(Form.SCALE, Tap.FFN_GATE)))


def test_gpt2_takes_everything_into_fused_modules_and_a_wider_ffn():
    """Its FFN has GELU by tanh, and its weight matrices are stored the other way round."""
    one = replace(WIDER[0], activation=Activation.GELU_NEW)
    model, plain, expected = merged("gpt2", *WEIGHTS, *VECTORS, one)
    assert_same(model, plain, expected)
    assert plain.config.n_inner == 48 + 9
    shape = Anatomy(model).shape()
    assert "is gelu, that of the FFN is gelu_new" in obstacles(genotype(WIDER[0]), shape)[0]


def test_neurons_in_addition_do_nothing_where_a_layer_has_no_adapter():
    _, plain, _ = merged("bert", WIDER[0])
    anatomy = Anatomy(plain)
    assert N_LAYERS == 3
    for layer, size in enumerate((5, 0, 9)):
        up, down = anatomy.module(layer, "up"), anatomy.module(layer, "down")
        assert up.weight[48 + size :].count_nonzero() == 0
        assert up.bias[48 + size :].count_nonzero() == 0
        assert down.weight[:, 48 + size :].count_nonzero() == 0
        assert down.weight[:, 48 : 48 + size].count_nonzero() == 32 * size


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (same(Form.PREFIX, Tap.HEAD, 3), "prefix head->head: trained keys and values"),
        (same(Form.BOTTLENECK, Tap.FFN_OUT, 3), "bottleneck ffn_out->ffn_out: only a bottleneck"),
        (op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 3), "activation is relu, that of the FFN is"),
        (op(Form.BOTTLENECK, Tap.FFN_NORM, Tap.FFN_OUT, 3, **GELU), "only a bottleneck from"),
        (op(Form.LOWRANK, Tap.FFN_IN, Tap.FFN_OUT, 3), "no single weight matrix leads from"),
        (op(Form.LOWRANK, Tap.FFN_NORM, Tap.FFN_OUT, 3), "reads through a LayerNorm"),
        (same(Form.LOWRANK, Tap.FFN_NORM, 3), "a LayerNorm has no matrix"),
    ],
)
def test_what_does_not_merge_is_refused_by_name(one, reason):
    shape = Anatomy(tiny_model("bert")).shape()
    company = genotype(lora(Tap.Q, 2), one)
    (found,) = obstacles(company, shape)
    assert reason in found
    with pytest.raises(ConfigError, match="cannot be merged") as refusal:
        merge(tiny_model("bert"), company, 0, {})
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 3), "the FFN has a gate"),
        (same(Form.BIAS, Tap.Q), "q has no bias"),
        (same(Form.BIAS, Tap.FFN_IN), "ffn_gate, ffn_up have no bias"),
        (same(Form.SCALE, Tap.BLOCK_OUT), "is a sum, no output of a module"),
    ],
)
def test_what_a_gated_model_without_biases_cannot_take_in(one, reason):
    shape = Anatomy(tiny_model("llama")).shape()
    assert not is_mergeable(genotype(one), shape)
    assert reason in obstacles(genotype(one), shape)[0]


DEBERTA = (
    *(lora(tap, 2) for tap in (Tap.Q, Tap.K, Tap.V, Tap.FFN_OUT)),
    *(same(form, tap) for form in (Form.SCALE, Form.BIAS) for tap in (Tap.K, Tap.FFN_MID)),
)


def test_deberta_projects_positions_too():
    """By the weights of queries and keys; so what is written to their input does not merge."""
    assert_same(*merged("deberta-v2", *DEBERTA))
    shape = Anatomy(tiny_model("deberta-v2")).shape()
    (reason,) = obstacles(genotype(*DEBERTA, same(Form.SCALE, Tap.ATTN_IN)), shape)
    assert "read something else, too" in reason


def test_a_bias_merges_where_the_model_has_one():
    """Qwen2 has biases at q, k and v alone."""
    assert_same(*merged("qwen2", same(Form.BIAS, Tap.V), same(Form.BIAS, Tap.ATTN_IN)))
    shape = Anatomy(tiny_model("qwen2")).shape()
    assert not is_mergeable(genotype(same(Form.BIAS, Tap.ATTN_OUT)), shape)


def test_every_form_says_whether_it_merges():
    """A form that nobody has thought of would be refused, which is safe and a pity."""
    stored = {form for form in Form if FORMS[form].becomes is None}
    assert {*LINEAR, *ELEMENTWISE, *NEVER, Form.BOTTLENECK, Form.DORA} == stored


@pytest.mark.parametrize("family", as_params(HEADED))
def test_whatever_is_drawn_from_the_mergeable_space_merges(family):
    shape = Anatomy(tiny_model(family)).shape()
    space = bind(load_space("mergeable"), shape, shape.backbone_params)
    missing = {slot.name for slot in space.slots}
    for number in range(60):
        drawn = propose(space, "random", seed=0, slot=number, history=[], taken=()).genotype
        assert is_mergeable(drawn, shape)
        kinds = {op.kind for op in drawn.ops}
        new = {slot.name for slot in space.slots if kinds & of_slot(slot)} & missing
        if new:
            assert_same(*merged(family, *drawn.ops))
        missing -= new
    assert not missing


def of_slot(slot):
    return {op.kind for variant in slot.variants for op in variant.ops([0])}
