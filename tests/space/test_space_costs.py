"""Predicted costs are linear in what a genotype does, and a limit on memory is kept."""

from dataclasses import replace

import pytest
from space_factory import TINY

from autopeft.space.costs import (
    CostModel,
    Linear,
    MemoryLimit,
    held_bytes,
    n_trained_layers,
    products,
    states,
    unmerged,
)
from autopeft.space.forms import Activation, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.search_space import within
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap

MODEL = CostModel(
    start_bytes=1000,
    overhead=2.0,
    memory=Linear(100.0, 10.0, {Form.LOWRANK: (1.0, 5.0), Form.PREFIX: (0.0, 7.0)}),
    step=Linear(5.0, 1.0, {Form.LOWRANK: (0.5, 0.01)}),
    latency=Linear(3.0, 0.0, {Form.LOWRANK: (0.25, 0.0), Form.PREFIX: (2.0, 0.0)}),
)


def genotype(*ops):
    return Genotype(2, ops, 1e-3)


LORA = genotype(Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (0, 3)))
PREFIX = Op(Form.PREFIX, Tap.HEAD, Tap.HEAD, (4, 1))
WIDTHS = TINY.widths[Tap.ATTN_IN] + TINY.widths[Tap.Q]


def test_memory_is_linear_in_layers_states_and_parameters():
    (op,) = LORA.ops
    held = 4 * 7 * op.params_in_layer(3, TINY)
    assert held_bytes(LORA, TINY) == held
    assert states(LORA, TINY) == {Form.LOWRANK: (WIDTHS, 3)}
    kept = 100 + 10 * 1 + WIDTHS + 5 * 3 + held
    assert MODEL.memory_bytes(LORA, TINY) == pytest.approx(1000 + 2 * kept)
    assert MODEL.memory_bytes(genotype(), TINY) == 1200


def test_gradients_pass_through_layers_from_the_lowest_op_up():
    assert [n_trained_layers(g, TINY) for g in (genotype(), LORA, genotype(PREFIX))] == [0, 1, 2]


def test_gradients_pass_through_all_layers_where_rows_are_apart():
    for apart in (replace(TINY, masks_count_rows=True), replace(TINY, n_encoder_layers=1)):
        assert [n_trained_layers(g, apart) for g in (genotype(), LORA)] == [0, 2]
        assert ModelShape.from_dict(apart.to_dict()) == apart


def test_what_merges_answers_as_the_backbone_does():
    both = genotype(*LORA.ops, PREFIX)
    assert unmerged(LORA, TINY) == {}
    assert MODEL.latency_ms(LORA, TINY) == MODEL.latency_ms(genotype(), TINY) == 3.0
    assert unmerged(both, TINY) == products(both, TINY)
    assert MODEL.latency_ms(both, TINY) == pytest.approx(3.0 + 0.25 + 2 * 2.0)
    assert MODEL.step_ms(LORA, TINY) == pytest.approx(5 + 1 + 0.5 + 0.01 * 3 * WIDTHS)


@pytest.mark.parametrize(
    ("trained", "read", "write"),
    [(Form.PREFIX_MLP, Tap.HEAD, Tap.HEAD), (Form.LT_SFT, Tap.ATTN_IN, Tap.Q)],
)
def test_latency_is_that_of_what_is_stored(trained, read, write):
    """Whatever is trained for it; an adapter keeps all from merging."""
    one = Op(trained, read, write, (2, 0))
    other = Op(Form.BOTTLENECK, Tap.FFN_OUT, Tap.FFN_OUT, (0, 3), Activation.RELU)
    both, stored = genotype(one, other), genotype(one.stored, other)
    assert both.stored == stored
    assert unmerged(both, TINY) == unmerged(stored, TINY) == products(stored, TINY)
    assert products(both, TINY) != products(stored, TINY), "a step pays for what is trained"


def test_a_form_that_was_not_measured_counts_as_the_dearest_one():
    adapter = Op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (0, 2), Activation.RELU)
    widths = TINY.widths[Tap.FFN_IN] + TINY.widths[Tap.FFN_OUT]
    kept = MODEL.memory.of(1, states(genotype(adapter), TINY))
    assert kept == pytest.approx(100 + 10 + 1.0 * widths + 7.0 * 2)


def test_what_was_not_measured_is_not_predicted():
    plain = CostModel(0, 1.0, MODEL.memory)
    assert plain.step_ms(LORA, TINY) is plain.latency_ms(LORA, TINY) is None


def test_limit_is_hard():
    taken = MODEL.memory_bytes(LORA, TINY)
    assert within(LORA, TINY, 10**6, None, MemoryLimit(int(taken) + 1, MODEL))
    assert not within(LORA, TINY, 10**6, None, MemoryLimit(int(taken) - 1, MODEL))
