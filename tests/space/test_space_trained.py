"""Forms that train more than they store: two counts, two limits, and what they become."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_factory import MINILM, TINY, bind_text, coordinates, parse_space

from autopeft.errors import ConfigError, NoFeasibleTrialError
from autopeft.space.bind import bind
from autopeft.space.forms import FORMS, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.methods import method
from autopeft.space.shipped import load_space
from autopeft.space.taps import Tap

EXTRA = 40
"""Parameters that the form below trains in a layer and does not store."""

TWO_FORMS = """
name: two
description: one form that stores what it trains, and one that does not
slots:
  - {name: a, form: lowrank, read: weight, write: q, size: [1, 2, 4, 8], layout: free}
  - {name: b, form: lowrank_fa, read: weight, write: v, size: [1, 2, 4, 8], layout: free}
training: {learning_rate: 1e-3}
"""


@pytest.fixture(autouse=True)
def lora_fa_trains_more():
    """LoRA-FA as if it trained more than it stores and became a LoRA."""
    plain = FORMS[Form.LOWRANK_FA]
    FORMS[Form.LOWRANK_FA] = replace(
        plain, trained=lambda r, m, n: r * (m + n) + EXTRA, becomes=Form.LOWRANK
    )
    yield
    FORMS[Form.LOWRANK_FA] = plain


def op(form, tap=Tap.Q, sizes=(2, 0), **more):
    return Op(form, Tap.ATTN_IN, tap, sizes, **more)


def test_both_counts_are_in_closed_form():
    fa = op(Form.LOWRANK_FA, sizes=(2, 3), scale="learned")
    both = Genotype(2, (op(Form.LOWRANK), fa), 1e-3)
    lora, stored, trained = 2 * 8, 5 * 4 + 2, 5 * 8 + 2 * EXTRA + 2
    assert both.count_params(TINY) == lora + stored
    assert both.count_trained(TINY) == lora + trained


def test_what_an_op_becomes():
    fa = op(Form.LOWRANK_FA, scale=2.0)
    assert fa.stored == op(Form.LOWRANK, scale=2.0)
    assert op(Form.LOWRANK).stored == op(Form.LOWRANK)


def test_ops_that_could_not_be_told_apart_once_trained_are_refused():
    with pytest.raises(ConfigError, match="once it is trained it is a lowrank, as lowrank attn_in"):
        Genotype(2, (op(Form.LOWRANK, sizes=(0, 1)), op(Form.LOWRANK_FA)), 1e-3)
    Genotype(2, (op(Form.LOWRANK, Tap.V), op(Form.LOWRANK_FA), op(Form.LOWRANK, scale=2.0)), 1e-3)
    with pytest.raises(ConfigError, match="slots a and b both put a lowrank at attn_in->q"):
        parse_space(TWO_FORMS.replace("write: v", "write: q"))


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_every_draw_is_within_both_limits(data):
    max_params, max_trained = data.draw(st.integers(8, 200)), data.draw(st.integers(8, 400))
    space = bind(parse_space(TWO_FORMS), TINY, max_params, max_trained)
    genotype = space.decode(data.draw(coordinates(space)))
    assert genotype.ops
    assert genotype.count_params(TINY) <= max_params
    assert genotype.count_trained(TINY) <= max_trained
    assert space.admits(genotype)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_what_layers_share_while_training_counts_against_the_limit(data):
    max_trained = data.draw(st.integers(2_000_000, 20_000_000))
    space = bind(load_space("prompts"), MINILM, 300_000, max_trained)
    genotype = space.decode(data.draw(coordinates(space)))
    assert genotype.ops
    assert genotype.count_params(MINILM) <= 300_000
    assert genotype.count_trained(MINILM) <= max_trained


def test_a_limit_on_what_is_trained_that_does_not_bind_changes_nothing():
    plain = bind_text(TWO_FORMS, max_params=50)
    assert plain.max_trained is None
    loose = bind(parse_space(TWO_FORMS), TINY, 50, 10**6)
    assert loose.dimensions() == plain.dimensions()
    assert loose.notes == plain.notes == ()


def test_slots_that_train_too_much_are_left_out():
    space = bind(parse_space(TWO_FORMS), TINY, 100, 8 + EXTRA - 1)
    assert [slot.name for slot in space.slots] == ["a"]
    (note,) = space.notes
    assert note.startswith("slot b is left out: its smallest op has 48 parameters, the budget")
    assert note.endswith("is 47, 47 of them trained")
    with pytest.raises(NoFeasibleTrialError):
        bind(parse_space(TWO_FORMS), TINY, 100, 7)


def test_a_space_that_is_filtered_admits_what_is_within_both_limits():
    space = bind(parse_space(TWO_FORMS + "draw: filter\n"), TINY, 100, 60)
    fa = Genotype(2, (op(Form.LOWRANK_FA, Tap.V),), 1e-3)
    assert (fa.count_params(TINY), fa.count_trained(TINY)) == (8, 56)
    assert space.admits(fa)
    assert not space.admits(replace(fa, ops=(op(Form.LOWRANK_FA, Tap.V, (2, 2)),)))
    assert not space.admits(replace(fa, ops=(op(Form.LOWRANK, Tap.V, (8, 8)),)))


def test_a_method_is_as_large_as_both_limits_allow():
    def size(*limits):
        genotype = method("lora_fa").largest(TINY, *limits)
        return None if genotype is None else genotype.ops[0].sizes[0]

    assert size(10**6) == size(10**6, 10**6) == 16
    assert size(10**6, 4 * (4 * 8 + EXTRA)) == 4
    assert size(4 * 2 * 4, 10**6) == 2
    assert size(10**6, 4 * EXTRA) is None
