"""The space whose every point becomes part of the weights."""

import random
from dataclasses import replace

import pytest
from space_factory import MINILM, bind_shipped, draw_uniform

from autopeft.space.forms import Activation, Form
from autopeft.space.merge import obstacles
from autopeft.space.taps import Tap

RELU = replace(MINILM, ffn_activation=Activation.RELU)
WIDTHS = {**MINILM.widths, Tap.FFN_GATE: MINILM.widths[Tap.FFN_UP]}
GATED = replace(MINILM, widths=WIDTHS, ffn_activation=None, biased=frozenset())


@pytest.mark.parametrize("shape", [MINILM, RELU, GATED])
def test_every_draw_merges(shape):
    rng = random.Random(0)
    space = bind_shipped("mergeable", shape, 0.01)
    found = [space.decode(draw_uniform(space, rng)) for _ in range(60)]
    assert not [reason for one in found for reason in obstacles(one, shape)]
    wider = {op.activation for one in found for op in one.ops if op.form is Form.BOTTLENECK}
    assert wider == ({shape.ffn_activation} if shape.ffn_activation else set())
    left_out = [
        note for note in space.notes if note.startswith("slot neurons is left out: the FFN")
    ]
    assert len(left_out) == (shape is GATED)


def test_other_spaces_have_points_that_do_not_merge():
    rng = random.Random(0)
    space = bind_shipped("unified", MINILM, 0.01)
    assert any(obstacles(space.decode(draw_uniform(space, rng)), MINILM) for _ in range(20))
