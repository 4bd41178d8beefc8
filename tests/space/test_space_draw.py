"""Draws: within the budget by construction, never empty, and spread over the budget."""

import math
import random
from functools import cache

import hypothesis.strategies as st
import optuna
import pytest
from hypothesis import example, given, settings
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from space_factory import (
    BY_CONSTRUCTION,
    MINILM,
    MODELS,
    NO_LIMIT,
    bind_shipped,
    bind_text,
    coordinates,
    draw_uniform,
    one_slot,
    op_set,
    two_slots,
)

from autopeft.errors import NoFeasibleTrialError
from autopeft.space.allocate import Cell, allocate
from autopeft.space.bind import bind
from autopeft.space.dimension import Categorical
from autopeft.space.encode import encode
from autopeft.space.forms import Form
from autopeft.space.layout import SHAPES, Layout, LayoutKind, spindle
from autopeft.space.shape import BERT_BASE
from autopeft.space.shipped import load_space
from autopeft.study.distributions import distributions_of

BUDGETS = (0.001, 0.01, 0.05)
N_BINS = 10
N_DRAWS = 100

SPENDS_AT_MOST = {"s3delta": 0.002}
"""All of S3Delta's modules have rank one: on every model they are less than the larger budgets."""

SPACES = {
    f"{name}-{model}-{fraction:g}": bind_shipped(name, shape, fraction)
    for name in BY_CONSTRUCTION
    for model, shape in MODELS.items()
    for fraction in BUDGETS
    if fraction <= SPENDS_AT_MOST.get(name, 1)
}


def totals_of(space, n_draws, seed=0):
    rng = random.Random(seed)
    draws = (space.decode(draw_uniform(space, rng)) for _ in range(n_draws))
    return [genotype.count_params(space.shape) for genotype in draws]


def histogram(totals, space):
    """Counts in log-spaced bins from the least total to the budget; less is in the first."""
    low, span = space.least_total(), math.log(space.max_params / space.least_total())
    counts = [0] * N_BINS
    for total in totals:
        at = N_BINS * math.log(max(total, low) / low) / span
        counts[min(int(at), N_BINS - 1)] += 1
    return counts


@pytest.mark.parametrize("key", SPACES)
def test_every_uniform_draw_is_feasible_and_totals_are_spread_over_the_budget(key):
    space = SPACES[key]
    totals = totals_of(space, N_DRAWS)
    counts = histogram(totals, space)
    edges = f"{space.least_total():,} to {space.max_params:,} parameters"
    print(f"{key}: {edges}, {N_BINS} log-spaced bins")
    for count in counts:
        print(f"  {count:3d} {'#' * count}")
    assert all(0 < total <= space.max_params for total in totals)
    # At 0.1 % of MiniLM a bin can be narrower than the step from one least op to two.
    assert sum(count > 0 for count in counts) >= 9
    assert max(counts) <= N_DRAWS / 3
    assert max(totals) > space.max_params / 2


def most_of(space, params):
    """What a draw may have at most: its total, or the cheapest of its ops in at most all layers."""
    tied = {LayoutKind.SAME, LayoutKind.GROUPS}
    least = [
        slot.price(variant, slot.layers(variant)[: None if slot.layout.kind in tied else 1])
        for slot in space.slots
        for variant in [slot.variant(params)]
    ]
    return min(space.max_params, max(params["total"], min(least)))


@pytest.mark.parametrize("name", BY_CONSTRUCTION)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_coordinates_decode_within_the_budget(name, data):
    space = SPACES[data.draw(st.sampled_from([key for key in SPACES if key.startswith(name)]))]
    params = data.draw(coordinates(space))
    genotype = space.decode(params)
    assert genotype.ops
    assert genotype.count_params(space.shape) <= most_of(space, params)
    genotype.check_fits(space.shape)
    assert space.decode(params) == genotype


@pytest.mark.parametrize("key", SPACES)
@pytest.mark.parametrize("end", ["low", "high"])
def test_the_corners_of_a_space_decode_within_the_budget(key, end):
    space = SPACES[key]
    params = {
        dim.name: dim.choices[0 if end == "low" else -1]
        if isinstance(dim, Categorical)
        else getattr(dim, end)
        for dim in space.dimensions()
    }
    total = space.decode(params).count_params(space.shape)
    if not any(space.decode(params).ops):  # an empty mask, and nothing else
        assert all(slot.layout.kind is LayoutKind.MASK for slot in space.slots)
    assert total <= most_of(space, params)


@pytest.mark.parametrize("kind", LayoutKind)
@pytest.mark.parametrize("text", [one_slot, two_slots])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_every_layout_decodes_within_the_budget(kind, text, data):
    space = bind_text(text(kind), max_params=data.draw(st.integers(16, 200)))
    params = data.draw(coordinates(space))
    genotype = space.decode(params)
    assert genotype.count_params(space.shape) <= most_of(space, params)
    masked = [value for name, value in params.items() if name.startswith(("a.layer", "both.layer"))]
    assert genotype.ops or (kind is LayoutKind.MASK and not any(masked))


def test_draws_by_construction_reach_every_set_of_ops_but_the_empty_one():
    everything = 2 * 2 * 8  # rank 2 in both layers
    space = bind_text(one_slot("free"), max_params=2 * everything)
    rng = random.Random(0)
    draws = [space.decode(draw_uniform(space, rng)).ops for _ in range(1000)]
    assert len({op_set(ops) for ops in draws}) == space.cardinality() - 1


def test_a_total_that_pays_for_nothing_becomes_what_the_cheapest_slot_takes():
    space = SPACES["unified-bert-base-0.01"]
    rng = random.Random(0)
    for _ in range(100):
        params = {**draw_uniform(space, rng), "total": space.least_total()}
        cheapest = min(slot.prices[slot.variant(params)] for slot in space.slots)
        assert space.decode(params).count_params(space.shape) == cheapest


ON_EVERY_LAYER = """
name: small
description: LoRA at one tap or at four, over all layers of a kind
slots:
  - {name: a, form: lowrank, read: weight, write: [v, q+k+v+attn_out], size: [1, 2, 4],
     layout: LAYOUT}
training: {learning_rate: 1e-3}
"""


def drawn_from(space, n_draws=600):
    rng = random.Random(0)
    return [space.decode(draw_uniform(space, rng)) for _ in range(n_draws)]


def test_a_dear_variant_keeps_no_cheap_one_out():
    """Rank 1 at v of BERT-base has 18,432 parameters, at four taps four times as many."""
    text = ON_EVERY_LAYER.replace("LAYOUT", "same")
    with pytest.raises(NoFeasibleTrialError, match="its smallest op has 18,432"):
        bind_text(text, BERT_BASE, 18_431)
    tight = bind_text(text, BERT_BASE, 40_000)
    assert tight.notes == (
        "slot a goes without q+k+v+attn_out (73,728 parameters): the budget is 40,000",
    )
    assert {(len(g.ops), g.ops[0].sizes[0]) for g in drawn_from(tight)} == {(1, 1), (1, 2)}
    wide = bind_text(text, BERT_BASE, 100_000)
    assert wide.notes == ()
    assert wide.least_total() == 18_432
    drawn = {(len(g.ops), g.ops[0].sizes[0]) for g in drawn_from(wide)}
    assert drawn == {(1, 1), (1, 2), (1, 4), (4, 1)}


@pytest.mark.parametrize(("layout", "least"), [("mask", 1), ("top", 1), ("groups", 2)])
def test_what_is_tied_stands_in_as_many_layers_as_can_be_paid_for(layout, least):
    text = ON_EVERY_LAYER.replace("LAYOUT", layout)
    space = bind_text(text, BERT_BASE, 4 * 1536 + 768)
    assert space.least_total() == least * 1536
    seen = [0] * 12
    for genotype in drawn_from(space):
        assert genotype.ops
        assert genotype.count_params(BERT_BASE) <= space.max_params
        assert space.decode(encode(space, genotype)) == genotype
        seen = [n + bool(size) for n, size in zip(seen, genotype.ops[0].sizes, strict=True)]
    there = range(8, 12) if layout == "top" else range(12)
    assert {i for i, count in enumerate(seen) if count} == set(there)
    if layout == "mask":  # no layer is preferred
        assert max(seen) < 2 * min(seen)


TIGHT = (0.0001, 0.0003, 0.001, 0.01)


@pytest.mark.parametrize("name", [*BY_CONSTRUCTION, "he2022"])
@pytest.mark.parametrize("model", MODELS)
def test_whatever_fits_can_be_drawn_at_its_cheapest(name, model):
    for fraction in TIGHT[name == "he2022" :]:  # its smallest op is in all layers
        space = bind_shipped(name, MODELS[model], fraction)
        assert {slot.name for slot in space.slots} == {
            slot.name for slot in _unlimited(name, model).slots if slot.least <= space.max_params
        }
        for slot in _unlimited(name, model).slots:
            for variant, price in slot.prices.items():
                if price <= space.max_params:
                    assert_drawable(space, slot, variant, price)


@cache
def _unlimited(name, model):
    return bind(load_space(name), MODELS[model], NO_LIMIT)


def assert_drawable(space, slot, variant, price):
    """A draw that pays for a variant at its cheapest has it, in as few layers as can be."""
    one = next(kept for kept in space.slots if kept.name == slot.name)
    params = {**draw_uniform(space, random.Random(0)), **one.variants[variant][0], "total": price}
    params |= {f"{other.name}.share": float(other is one) for other in space.slots}
    for dim in one.layout.dimensions(space.shape.n_layers):
        if not isinstance(dim, Categorical):
            params[dim.name] = int(dim.name.endswith(("layer0", "group0", "top")))
    genotype = space.decode(params)
    assert {op.kind for op in genotype.ops} == {op.kind for op in variant.ops([1])}
    assert genotype.count_params(space.shape) == price


@pytest.mark.parametrize("name", BY_CONSTRUCTION)
@pytest.mark.parametrize("fraction", TIGHT)
def test_draws_are_hardly_ever_empty(name, fraction):
    space = bind_shipped(name, MINILM, fraction)
    empty = sum(not genotype.ops for genotype in drawn_from(space, 200))
    print(f"{name} at {fraction:.2%}: {empty} of 200 draws are empty")
    assert empty <= 2


@pytest.mark.parametrize("fraction", [0.01, 0.05])
@pytest.mark.parametrize("shape", [BERT_BASE, MINILM])
def test_some_draws_of_the_filtered_space_are_feasible(fraction, shape):
    space = bind_shipped("autopeft", shape, fraction)
    feasible = sum(0 < total <= space.max_params for total in totals_of(space, 300))
    print(f"autopeft at {fraction:.0%} of {shape.backbone_params:,}: {feasible / 300:.0%} feasible")
    assert feasible >= 300 * fraction


SAMPLERS = {
    "tpe": lambda: TPESampler(seed=0),
    "nsga2": lambda: NSGAIISampler(population_size=10, seed=0),
    "random": lambda: RandomSampler(seed=0),
}


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        # a fifth of a second for each trial of TPE
        pytest.param(
            name, sampler, marks=[pytest.mark.slow] * (sampler == "tpe" and name != "unified")
        )
        for name in BY_CONSTRUCTION
        for sampler in SAMPLERS
    ],
)
def test_at_least_half_of_the_draws_of_each_sampler_are_feasible(name, sampler):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = bind_shipped(name, MINILM, 0.01)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=SAMPLERS[sampler]())
    totals = []
    for _ in range(30):
        trial = study.ask(distributions_of(space))
        genotype = space.decode(trial.params)
        totals.append(genotype.count_params(space.shape))
        n_layers_used = sum(bool(size) for op in genotype.ops for size in op.sizes)
        study.tell(
            trial, [n_layers_used - abs(math.log(genotype.learning_rate / 2e-3)), totals[-1]]
        )
    feasible = sum(0 < total <= space.max_params for total in totals)
    counts = histogram(totals, space)
    print(f"{name} by {sampler}: {feasible} of 30 feasible, {counts} over the budget")
    assert feasible >= 15
    assert sum(count > 0 for count in counts) >= 4


cells = st.lists(
    st.builds(
        lambda weight, sizes, price, flat, pool: Cell(
            weight, list(sizes), lambda n: price * (n + 100 // n) + flat, 500 * len(pool), pool
        ),
        st.just(0.0) | st.floats(1e-6, 1e6),
        st.sets(st.integers(1, 100), min_size=1, max_size=5),
        st.integers(1, 10_000),
        st.integers(0, 10_000),
        st.sampled_from(["", "a", "bb"]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(cells, st.floats(0, 1e7))
@example([Cell(1.0, (1,), lambda n: n * 10**9)], 10**9 - 0.5)  # just too little
def test_allocation_never_exceeds_the_total(cells, total):
    sizes = allocate(cells, total)
    assert len(sizes) == len(cells)
    present = [(cell, size) for cell, size in zip(cells, sizes, strict=True) if size]
    shared = {cell.pool: cell.entry for cell, _ in present}
    assert sum(cell.cost(size) for cell, size in present) + sum(shared.values()) <= total
    for cell, size in zip(cells, sizes, strict=True):
        assert size in ((0, *cell.sizes) if cell.weight else (0,))


@settings(deadline=None, max_examples=50)
@given(cells.filter(lambda cells: any(cell.weight for cell in cells)), st.floats(0, 1e6))
def test_allocation_that_can_pay_for_the_heaviest_cell_is_not_empty(cells, extra):
    heaviest = max(cells, key=lambda cell: cell.weight)
    dearest = max(c.least for c in cells if c.weight == heaviest.weight)
    assert any(allocate(cells, dearest + extra))


def test_what_cells_share_is_paid_for_once():
    cells = [Cell(1.0, (1,), lambda n: 10 * n, 64, "rule") for _ in range(3)]
    assert allocate(cells, 64 + 30) == [1, 1, 1]
    assert sum(allocate(cells, 64 + 29)) == 2
    assert allocate(cells, 64 + 9) == [0, 0, 0]


def test_what_is_spent_counts_and_not_the_size():
    """A Kronecker product of 24 x 24 and 32 x 32 is cheaper than one of 2 x 2 and 384 x 384."""
    cell = Cell(1.0, (2, 24), lambda n: n**2 + (768 // n) ** 2)
    assert allocate([cell], 2000) == [24]
    assert allocate([cell], 150_000) == [2]
    assert allocate([cell], 1500) == [0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 10_000))
def test_parts_that_pay_exactly_are_spent_exactly(sizes, price):
    cells = [Cell(float(size), range(1, 1001), lambda n: n * price) for size in sizes]
    assert allocate(cells, price * sum(sizes)) == sizes


def test_what_a_small_part_leaves_over_goes_to_the_next_larger():
    cells = [Cell(weight, (10,), lambda n: n) for weight in (1.0, 2.0, 3.0)]
    assert allocate(cells, 12.0) == [0, 0, 10]
    assert allocate(cells, 20.0) == [0, 10, 10]


def weights_of(name):
    return Layout("x", LayoutKind.SHAPE).weights({"x.shape": name}, 5)


def test_shapes_are_what_their_names_say():
    uniform, up, down, spindle, hourglass = (weights_of(name) for name in SHAPES)
    assert len(set(uniform)) == 1
    assert up == sorted(up)
    assert down == up[::-1]
    assert spindle == spindle[::-1]
    assert max(spindle) == spindle[2] > spindle[1] > spindle[0]
    assert min(hourglass) == hourglass[2] < hourglass[1] < hourglass[0]


@pytest.mark.parametrize(
    ("kind", "params", "weights"),
    [
        ("same", {}, [1, 1, 1]),
        ("mask", {"x.layer0": 1, "x.layer1": 0, "x.layer2": 1}, [1, 0, 1]),
        ("top", {"x.top": 2}, [0, 1, 1]),
        ("groups", {"x.group0": 1, "x.group1": 0, "x.group2": 1}, [1, 0, 1]),
        ("groups", {"x.group0": 0, "x.group1": 0, "x.group2": 0}, [1, 1, 1]),
    ],
)
def test_coupled_layouts_select_layers(kind, params, weights):
    assert Layout("x", LayoutKind(kind)).weights(params, 3) == weights


@pytest.mark.parametrize("n_layers", range(1, 40))
def test_groups_are_a_spindle_of_all_layers(n_layers):
    """Chen et al. (2023): two groups of few layers at the ends, two of more in the middle."""
    sizes = spindle(n_layers)
    assert sum(sizes) == n_layers
    assert len(sizes) == min(n_layers, 4)
    assert min(sizes) >= 1
    if n_layers >= 4:
        bottom, low, high, top = sizes
        assert max(bottom, top) <= min(low, high)
        assert abs(bottom - top) <= 1
    if n_layers >= 6:
        assert max(bottom, top) < max(low, high)


def test_groups_follow_their_sizes():
    on = {f"x.group{i}": int(i in (0, 2)) for i in range(4)}
    assert Layout("x", LayoutKind.GROUPS).weights(on, 12) == [1] * 2 + [0] * 4 + [1] * 4 + [0] * 2


def test_the_published_s4_is_a_point_of_its_space():
    """(A, L), (A, P), (A, P, B), (P, B, L) from the bottom group up."""
    space = bind_shipped("s4", BERT_BASE, 0.05)
    groups = {"adapter": (0, 1, 2), "prefix": (1, 2, 3), "bitfit": (2, 3), "lora": (0, 3)}
    params = {"total": space.max_params, "learning_rate": 1e-3, "lora.scale": 1.0}
    for name, present in groups.items():
        params |= {f"{name}.group{i}": int(i in present) for i in range(4)}
        params[f"{name}.share"] = 1.0
    genotype = space.decode(params)
    in_layer = [{op.form for op in genotype.ops if op.sizes[i]} for i in range(12)]
    assert in_layer == [
        *[{Form.BOTTLENECK, Form.LOWRANK}] * 2,
        *[{Form.BOTTLENECK, Form.PREFIX}] * 4,
        *[{Form.BOTTLENECK, Form.PREFIX, Form.BIAS}] * 4,
        *[{Form.PREFIX, Form.BIAS, Form.LOWRANK}] * 2,
    ]


def test_a_coupled_slot_has_one_size_and_an_uncoupled_one_its_own():
    coupled = bind_text(one_slot("top"), max_params=24)
    sizes = coupled.decode({"total": 24, "a.top": 1, "a.scale": 1.0, "learning_rate": 1e-3})
    assert sizes.ops[0].sizes == (0, 2)
    free = bind_text(one_slot("free"), max_params=24)
    tilted = {"a.tilt": 1.0, "a.bulge": 0.0, "a.layer0": 0.5, "a.layer1": 0.0}
    common = {"total": 24, "a.scale": 1.0, "learning_rate": 1e-3}
    assert free.decode({**common, **tilted}).ops[0].sizes == (0, 2)
    assert free.decode({**common, **tilted, "a.tilt": 0.3}).ops[0].sizes == (1, 2)


def test_slots_that_share_a_layout_share_its_layers():
    space = bind_text(two_slots("mask", "filter"))
    params = {"a.size": 2, "b.size": 1, "both.layer0": 0, "both.layer1": 1, "a.write": "q+v"}
    genotype = space.decode(params)
    assert {op.write.value: op.sizes for op in genotype.ops} == {
        "q": (0, 2),
        "v": (0, 2),
        "ffn_up": (0, 1),
    }


def test_a_learning_rate_has_three_digits():
    space = bind_text(one_slot("same"))
    params = {"total": 100, "a.scale": 1.0, "learning_rate": 0.00123456}
    assert space.decode(params).learning_rate == 0.00123
