"""Models with attention in some layers: each op of a slot stands where its taps are."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_factory import (
    BY_CONSTRUCTION,
    FILTERABLE,
    MINILM,
    bind_shipped,
    bind_text,
    coordinates,
    draw_uniform,
)

from autopeft.space.encode import encode
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.layout import Layout, LayoutKind, spindle
from autopeft.space.methods import methods
from autopeft.space.shape import BERT_BASE, encoder_shape, spans
from autopeft.space.taps import Tap
from autopeft.space.transfer import transfer

OF_ATTENTION = (Tap.Q, Tap.K, Tap.V, Tap.HEAD)
HYBRID = replace(BERT_BASE, only_in=dict.fromkeys(OF_ATTENTION, (3, 7, 11)))
"""One layer in four has attention, as in Qwen3.5."""
SMALL = replace(encoder_shape(8, 4, 8, 1000), only_in=dict.fromkeys(OF_ATTENTION, (3, 7)))


def one_joint(layout, draw="budget"):
    """A space of one slot, two of whose three ops are at taps of attention."""
    slot = "{name: a, form: lowrank, read: weight, write: [q+v+ffn_up, ffn_up, v], size: [1, 2]"
    return f"""
name: small
description: one slot
draw: {draw}
slots:
  - {slot}, layout: {layout}}}
training: {{learning_rate: 1e-3}}
"""


@pytest.mark.parametrize(
    "fraction", [0.001, *(pytest.param(f, marks=pytest.mark.slow) for f in (0.0002, 0.02))]
)
@pytest.mark.parametrize("name", BY_CONSTRUCTION)
def test_draws_are_within_the_budget_and_come_back(name, fraction):
    """As often as those of a model whose layers are alike."""
    far = {}
    for shape in (HYBRID, BERT_BASE):
        space = bind_shipped(name, shape, fraction)
        rng, far[shape is HYBRID] = random.Random(0), 0
        for _ in range(40):
            one = space.decode(draw_uniform(space, rng))
            one.check_fits(shape)
            total = one.count_params(shape)
            assert 0 < total <= space.max_params
            again = space.decode(encode(space, one)).count_params(shape)
            far[shape is HYBRID] += abs(again - total) > total / 4
    assert far[True] <= far[False] + 2


COUPLED = ("same", "mask", "top", "groups")


@pytest.mark.parametrize(
    ("kind", "draw"),
    [*((kind, "budget") for kind in COUPLED), *((kind, "filter") for kind in FILTERABLE)],
)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_slot_of_any_layout_comes_back(kind, draw, data):
    """Though its coordinates say of more layers than there are whether an op is there."""
    space = bind_text(one_joint(kind, draw), SMALL)
    genotype = space.decode(data.draw(coordinates(space)))
    genotype.check_fits(SMALL)
    params = encode(space, genotype)
    if genotype.ops:
        assert space.decode(params) == genotype
    else:
        assert params is None


@pytest.mark.parametrize("kind", LayoutKind)
def test_what_is_paid_for_is_where_each_op_stands(kind):
    """Of a dear layer and a cheap one the cheap one remains where there is no more to spend."""
    for limit in range(16, 280, 8):  # from `v` where it can be to all there can be
        space = bind_text(one_joint(kind), SMALL, limit)
        rng = random.Random(0)
        for _ in range(30):
            params = draw_uniform(space, rng)
            one = space.decode(params)
            one.check_fits(SMALL)
            assert one.count_params(SMALL) <= limit
            (slot,) = space.slots
            weights = slot.layout.weights(params, 8)
            drawn = [i for i in slot.layers(slot.variant(params)) if weights[i] > 0]
            pays = slot.layout.alone(slot.layout.parts(drawn, 8))
            if any(slot.price(slot.variant(params), part) <= limit for part in pays):
                assert one.ops


def test_a_cost_is_that_of_the_ops_that_stand_in_a_layer():
    (slot,) = bind_text(one_joint("free"), SMALL).slots
    every, ffn, v = slot.variants
    up, of_attention = 4 + 8, 4 + 4
    assert slot.layers(every) == slot.layers(ffn) == [*range(8)]
    assert slot.layers(v) == [3, 7]
    assert slot.costs(every, 2)[0] == 2 * up
    assert slot.costs(every, 1)[3] == up + 2 * of_attention
    assert sum(slot.costs(every, 1)) == 8 * up + 2 * 2 * of_attention
    assert slot.costs(every, 0) == [0] * 8
    assert slot.prices == {every: up, ffn: up, v: of_attention}


@pytest.mark.parametrize("name", BY_CONSTRUCTION)
def test_what_is_absent_costs_nothing(name):
    for slot in bind_shipped(name, MINILM, 0.01).slots:
        for variant in slot.variants:
            assert not any(slot.costs(variant, 0)), (slot.name, variant)


def test_the_top_layers_are_there_first():
    """Or nothing: what is cheaper below a layer that is too dear does not stand alone."""
    space = bind_text(one_joint("top"), SMALL)
    (slot,) = space.slots
    up, of_attention = 4 + 8, 4 + 4
    every, ffn, v = slot.variants
    dear = up + 2 * of_attention
    assert slot.prices == {every: dear, ffn: up, v: of_attention}
    params = {"a.top": 8, "a.write": "q+v+ffn_up"}
    for n, total in ((1, dear), (4, dear + 3 * up), (4, 2 * dear + 3 * up - 1)):
        (one,) = [
            op.sizes
            for op in space.decode(params | {"total": float(total)}).ops
            if op.write is Tap.FFN_UP
        ]
        assert one == (0,) * (8 - n) + (1,) * n


def test_which_layer_speaks_for_those_without_a_tap():
    assert Layout("a", LayoutKind.FREE).nearest([3, 7], 8) == [3, 3, 3, 3, 3, 3, 7, 7]
    assert spindle(8) == [1, 3, 3, 1]
    assert Layout("a", LayoutKind.GROUPS).nearest([3, 7], 8) == [3, 3, 3, 3, 3, 3, 3, 7]
    assert Layout("a", LayoutKind.GROUPS).nearest([2, 3, 7], 8) == [2, 2, 2, 3, 2, 2, 2, 7]


def test_every_method_stands_in_a_hybrid():
    for one in methods().values():
        if one.misfit(HYBRID) is None:
            genotype = one.genotype(HYBRID)
            genotype.check_fits(HYBRID)
            plain = one.genotype(BERT_BASE)
            assert {op.kind for op in genotype.ops} == {op.kind for op in plain.ops}
            for op, whole in zip(genotype.ops, plain.ops, strict=True):
                places = HYBRID.layers_with((op.read, op.write))
                cut = [size if i in places else 0 for i, size in enumerate(whole.sizes)]
                assert op.sizes == tuple(cut)


def test_a_genotype_of_another_model_goes_where_there_is_a_tap():
    lora = [
        Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (4,) * 6),
        Op(Form.LOWRANK, Tap.FFN_IN, Tap.FFN_UP, (2,) * 6),
    ]
    moved, changes = transfer(Genotype(6, tuple(lora), 1e-3), HYBRID, 10**9)
    sizes = {op.write: op.sizes for op in moved.ops}
    assert sizes[Tap.FFN_UP] == (2,) * 12
    assert [i for i, size in enumerate(sizes[Tap.Q]) if size] == [3, 7, 11]
    assert changes == ["from 6 layers to 12"]
    back, _ = transfer(moved, MINILM, 10**9)
    assert {op.write for op in back.ops} == {Tap.Q, Tap.FFN_UP}


def test_layers_in_words():
    assert spans([0]) == "layer 0"
    assert spans([0, 1]) == "layers 0-1"
    assert spans([0, 2, 3, 5]) == "layers 0,2-3,5"


def test_layers_of_plain_models_are_ranges():
    for taps in itertools.combinations(Tap, 2):
        if Tap.EMBED not in taps and not any(tap.startswith("cross") for tap in taps):
            assert BERT_BASE.layers_with(taps) == range(12)
