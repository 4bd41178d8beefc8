"""Numbers of a genotype: as many for all, and closer for what is alike."""

import math

from autopeft.space.features import features
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.shape import encoder_shape
from autopeft.space.taps import Tap

SHAPE = encoder_shape(4, 32, 64, 40_000)


def lora(*sizes, rate=1e-3, write=Tap.Q):
    return Genotype(4, (Op(Form.LOWRANK, Tap.ATTN_IN, write, sizes),), rate)


def adapter(*sizes):
    op = Op(Form.LOWRANK, Tap.FFN_IN, Tap.FFN_UP, sizes)
    return Genotype(4, (op,), 1e-3)


def apart(one, other):
    return math.dist(features(one, SHAPE), features(other, SHAPE))


def test_every_genotype_has_as_many():
    every = [Genotype(4, (), 1e-3), lora(1, 1, 1, 1), adapter(0, 0, 1, 9)]
    assert len({len(features(one, SHAPE)) for one in every}) == 1


def test_what_is_alike_is_closer():
    one = lora(4, 4, 4, 4)
    assert 0 < apart(one, lora(4, 4, 4, 5)) < apart(one, lora(1, 1, 1, 1))
    assert apart(one, lora(4, 4, 4, 4, write=Tap.V)) < apart(one, adapter(3, 3, 3, 3))
    assert 0 < apart(one, lora(8, 4, 4, 0)) < apart(one, lora(16, 0, 0, 0))
    assert 0 < apart(one, lora(4, 4, 4, 4, rate=2e-3)) < apart(one, lora(4, 4, 4, 4, rate=1e-2))


def test_height_is_that_of_the_parameters():
    heights = {features(one, SHAPE)[-2] for one in (lora(1, 0, 0, 0), lora(0, 0, 0, 3))}
    assert heights == {0.0, 1.0}
