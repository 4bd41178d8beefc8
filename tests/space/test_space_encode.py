"""From genotypes back to coordinates, so that a sampler learns from whatever was measured."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from space_factory import (
    BY_CONSTRUCTION,
    FILTERABLE,
    MINILM,
    MODELS,
    NO_LIMIT,
    bind_shipped,
    bind_text,
    coordinates,
    draw_uniform,
    is_inside,
    one_slot,
    two_slots,
)

from autopeft.space.bind import bind
from autopeft.space.encode import encode
from autopeft.space.forms import Activation, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.layout import SHAPES, Layout, LayoutKind
from autopeft.space.methods import methods
from autopeft.space.shape import BERT_BASE
from autopeft.space.shipped import load_space
from autopeft.space.spend import OFF
from autopeft.space.taps import Tap

N_DRAWS = 100
FILTERED = bind_shipped("autopeft", MINILM, 1.0)
UNIFIED = bind(load_space("unified"), BERT_BASE, NO_LIMIT)
LORA = Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (4,) * 12)


def assert_inside(space, params):
    assert list(params) == [dim.name for dim in space.dimensions()]
    for dim in space.dimensions():
        assert is_inside(dim, params[dim.name]), dim


@pytest.mark.parametrize("name", BY_CONSTRUCTION)
@pytest.mark.parametrize("model", MODELS)
def test_totals_come_back_within_a_quarter(name, model):
    space = bind_shipped(name, MODELS[model], 0.01)
    rng = random.Random(0)
    far = []
    for _ in range(N_DRAWS):
        genotype = space.decode(draw_uniform(space, rng))
        params = encode(space, genotype)
        assert_inside(space, params)
        total = genotype.count_params(space.shape)
        again = space.decode(params)
        if abs(again.count_params(space.shape) - total) > total / 4:
            far.append(total)
        assert again.learning_rate == genotype.learning_rate
    # Of a few least ops one or two can be lost to rounding; hardly ever a profile is too steep.
    print(f"{name} on {model}: {len(far)} of {N_DRAWS} are farther: {sorted(far)} parameters")
    assert len(far) <= N_DRAWS / 20
    assert max(sorted(far)[:-1], default=0) <= 50 * space.least_total()


@settings(deadline=None, max_examples=60)
@given(coordinates(FILTERED))
def test_the_filtered_space_comes_back_exactly(params):
    genotype = FILTERED.decode(params)
    back = encode(FILTERED, genotype)
    if genotype.ops:
        assert_inside(FILTERED, back)
        assert FILTERED.decode(back) == genotype
    else:
        assert back is None


@pytest.mark.parametrize(
    ("kind", "draw"),
    [*((kind, "budget") for kind in LayoutKind), *((kind, "filter") for kind in FILTERABLE)],
)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_slot_of_any_layout_comes_back(kind, draw, data):
    space = bind_text(one_slot(kind, draw))
    genotype = space.decode(data.draw(coordinates(space)))
    params = encode(space, genotype)
    if not genotype.ops:
        assert params is None
        return
    assert_inside(space, params)
    assert space.decode(params) == genotype


@pytest.mark.parametrize("kind", ["same", "mask", "top", "groups"])
@pytest.mark.parametrize("draw", ["budget", "filter"])
def test_slots_that_share_a_layout_come_back(kind, draw):
    space = bind_text(two_slots(kind, draw), max_params=500)
    rng = random.Random(0)
    for _ in range(100):
        genotype = space.decode(draw_uniform(space, rng))
        if genotype.ops:
            assert space.decode(encode(space, genotype)) == genotype


@pytest.mark.parametrize("draw", ["budget", "filter"])
def test_different_masks_are_not_of_a_space_with_one_mask(draw):
    space = bind_text(two_slots("mask", draw))
    ops = (
        Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (1, 0)),
        Op(Form.BIAS, Tap.FFN_UP, Tap.FFN_UP, (0, 1)),
    )
    params = encode(space, Genotype(2, ops, 1e-3))
    if draw == "filter":
        assert params is None
    else:
        assert_inside(space, params)


WEIGHTS = bind_shipped("weights", BERT_BASE, 1.0)
PROMPTS = bind_shipped("prompts", BERT_BASE, 1.0)
SPARSE = bind_shipped("sparse", BERT_BASE, 1.0)
ELSEWHERE = {
    **dict.fromkeys(("lora_fa", "dora", "vera", "krona"), WEIGHTS),
    **dict.fromkeys(("prefix_mlp", "prompt_tuning", "p_tuning"), PROMPTS),
    **dict.fromkeys(("sequential", "prefix_long"), bind_shipped("he2022", BERT_BASE, 1.0)),
    "unipelt": bind_shipped("hybrid", BERT_BASE, 1.0),
    **dict.fromkeys(("compacter", "compacter_plus_plus"), bind_shipped("adapters", BERT_BASE, 1.0)),
    **dict.fromkeys(("adalora", "sparse_random", "fish", "lt_sft"), SPARSE),
    **dict.fromkeys(("diff_pruning", "sparse_adapter"), SPARSE),
}


@pytest.mark.parametrize("name", methods())
def test_each_named_method_is_a_point_of_a_shipped_space(name):
    space = ELSEWHERE.get(name, UNIFIED)
    genotype = methods()[name].genotype(BERT_BASE)
    params = encode(space, genotype)
    if name == "head":
        assert params is None
        return
    assert_inside(space, params)
    again = space.decode(params)
    assert {op.kind for op in again.ops} == {op.kind for op in genotype.ops}
    if name != "adapterdrop":  # a profile cannot leave layers out at such a size
        # Weight decay is one number for all of a space, he2022's is that of the paper.
        assert replace(again, weight_decay=genotype.weight_decay) == genotype


@pytest.mark.parametrize("space", [UNIFIED, bind(load_space("autopeft"), BERT_BASE, NO_LIMIT)])
@pytest.mark.parametrize(
    "ops",
    [
        (),
        (LORA,),
        (Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (4,) * 12, None, 3.0),),
        (Op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (4,) * 12, Activation.TANH),),
        (
            Op(Form.PREFIX, Tap.HEAD, Tap.HEAD, (3,) * 12),
            Op(Form.LOWRANK, Tap.ATTN_IN, Tap.ATTN_OUT, (4,) * 12),
        ),
        (
            replace(LORA, write=Tap.V),
            replace(LORA, sizes=(8,) * 12),
        ),
    ],
    ids=["head", "q alone", "scale 3", "tanh", "one foreign of two", "two ranks"],
)
def test_what_is_not_of_the_space_has_no_coordinates(space, ops):
    assert encode(space, Genotype(12, ops, 1e-3)) is None


def test_a_size_that_is_not_of_the_filtered_space_has_no_coordinates():
    space = bind(load_space("autopeft"), BERT_BASE, NO_LIMIT)
    prefix = Op(Form.PREFIX, Tap.HEAD, Tap.HEAD, (12,) * 12)
    assert encode(space, Genotype(12, (prefix,), 1e-3)) is not None
    assert encode(space, Genotype(12, (replace(prefix, sizes=(11,) * 12),), 1e-3)) is None
    assert encode(space, Genotype(12, (replace(prefix, sizes=(12,) * 11 + (6,)),), 1e-3)) is None


def test_numbers_outside_the_ranges_are_clipped():
    genotype = methods()["lora"].genotype(BERT_BASE)
    space = bind_shipped("unified", BERT_BASE, 0.001)
    params = encode(space, replace(genotype, learning_rate=1.0))
    assert_inside(space, params)
    assert params["total"] == space.max_params
    assert params["learning_rate"] == space.training()["learning_rate"].high


def test_equal_layers_are_the_middle_of_a_free_layout():
    params = Layout("x", LayoutKind.FREE).coordinates([3.0] * 4)
    assert params == pytest.approx(dict.fromkeys(params, 0.0))


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=14))
def test_a_free_profile_comes_back_as_it_was(values):
    tilt, bulge, *offsets = values
    layout, n = Layout("x", LayoutKind.FREE), len(offsets)
    params = {"x.tilt": tilt, "x.bulge": bulge}
    params |= {f"x.layer{i}": offset / 3 for i, offset in enumerate(offsets)}
    weights = layout.weights(params, n)
    again = layout.weights(layout.coordinates(weights), n)
    ratios = [a / b for a, b in zip(again, weights, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * n)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_recognised_after_rounding(name):
    layout = Layout("x", LayoutKind.SHAPE)
    weights = [float(int(8 * weight)) for weight in layout.weights({"x.shape": name}, 6)]
    assert layout.coordinates(weights) == {"x.shape": name}


SEVERAL = """
name: several
description: Slots with choices, in layouts of each kind that is told by coordinates.
slots:
  - {name: one, form: lowrank, read: weight, write: [q, k, v], size: [1, 2], layout: free}
  - {name: two, form: [lowrank, bottleneck], read: ffn_in, write: ffn_out, size: [1, 2],
     activation: [relu, gelu, tanh], layout: mask}
  - {name: three, form: bias, read: same, write: ffn_up, layout: shape}
training: {learning_rate: {low: 1e-4, high: 1e-2}}
"""


def several():
    """Coordinates of many genotypes that have one slot each, by the slot that they have."""
    space = bind_text(SEVERAL, max_params=4000)
    rng, found = random.Random(0), {"one": [], "two": [], "three": []}
    for _ in range(3000):
        genotype = space.decode(draw_uniform(space, rng))
        params = encode(space, genotype)
        present = [name for name in found if params[f"{name}.share"] > OFF]
        if len(present) == 1:
            found[present[0]].append((genotype, params))
    return found


def test_coordinates_that_do_not_matter_are_as_chance_would_have_them():
    found = several()
    without = [params for _, params in found["three"]]
    lora = [p for g, p in found["two"] if g.ops[0].form is Form.LOWRANK]
    assert min(len(without), len(lora)) > 100

    for params, name, choices in (
        (without, "one.write", ("q", "k", "v")),
        (without, "two.form", ("lowrank", "bottleneck")),
        (without, "two.layer0", (0, 1)),
        (lora, "two.activation", ("relu", "gelu", "tanh")),
        (lora, "three.shape", SHAPES),
    ):
        counts = [[p[name] for p in params].count(choice) for choice in choices]
        assert chisquare(counts).pvalue > 1e-4, (name, counts)
    for name, low, high in (("one.share", 0, OFF), ("one.tilt", -1, 1)):
        values = [(p[name] - low) / (high - low) for p in without]
        assert kstest(values, "uniform").pvalue > 1e-4, name


def test_a_genotype_has_the_same_coordinates_for_ever():
    for genotype, params in several()["two"][:20]:
        assert encode(bind_text(SEVERAL, max_params=4000), genotype) == params
