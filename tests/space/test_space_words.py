"""A genotype in words."""

import pytest
from hypothesis import given, settings
from space_factory import MINILM, bind_shipped, coordinates

from autopeft.space.forms import Activation, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.methods import method
from autopeft.space.shape import BERT_BASE
from autopeft.space.taps import Tap
from autopeft.space.words import describe

UNIFIED = bind_shipped("unified", MINILM, 0.01)


def words(*ops):
    return describe(Genotype(6, ops, 1e-3))


def lora(write, sizes, scale=1.0, read=Tap.ATTN_IN):
    return Op(Form.LOWRANK, read, write, sizes, None, scale)


def adapter(read, write, sizes, activation=Activation.RELU, scale=1.0):
    return Op(Form.BOTTLENECK, read, write, sizes, activation, scale)


TOP = (0, 0, 0, 4, 4, 4)
ALL = (16,) * 6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("head", "head only"),
        ("lora", "LoRA q,v r8 x2"),
        ("lora_ffn", "LoRA up,down r102 x4"),
        ("houlsby", "sequential attention r48 + sequential FFN r48"),
        ("pfeiffer", "Pfeiffer FFN r48"),
        ("parallel", "parallel FFN r384"),
        ("scaled_parallel", "parallel FFN r512 x4"),
        ("prefix", "prefix l30"),
        ("bitfit", "BitFit q,k,v,o,attn LN,up,down,ffn LN"),
        ("ia3", "IA3 k,v,ffn"),
        ("mam", "parallel FFN r512 x4 + prefix l30"),
    ],
)
def test_methods_in_words(name, said):
    assert describe(method(name).genotype(BERT_BASE)) == said


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        (
            (lora(Tap.Q, TOP), lora(Tap.V, TOP), adapter(Tap.FFN_IN, Tap.FFN_OUT, ALL, scale=2.0)),
            "parallel FFN r16 x2 + LoRA q,v r4 in layers 3-5",
        ),
        (
            (lora(Tap.Q, TOP), lora(Tap.V, (4,) * 6)),
            "LoRA q r4 in layers 3-5 + LoRA v r4",
        ),
        ((lora(Tap.Q, (1, 2, 0, 8, 0, 4)),), "LoRA q r1-8 in layers 0-1,3,5"),
        ((lora(Tap.Q, (0, 0, 3, 0, 0, 0), "learned"),), "LoRA q r3 x learned in layer 2"),
        ((lora(Tap.Q, ALL, 0.5),), "LoRA q r16 x0.5"),
        ((Op(Form.KRONECKER, Tap.ATTN_IN, Tap.Q, ALL),), "KronA q f16"),
        ((Op(Form.KRONECKER, Tap.FFN_IN, Tap.FFN_OUT, ALL),), "parallel KronA FFN f16"),
        ((lora(Tap.FFN_OUT, ALL, read=Tap.FFN_IN),), "parallel linear FFN r16"),
        ((adapter(Tap.FFN_OUT, Tap.FFN_OUT, ALL, Activation.GELU),), "sequential FFN gelu r16"),
        ((adapter(Tap.ATTN_NORM, Tap.ATTN_OUT, ALL),), "Pfeiffer attention r16"),
        ((Op(Form.BIAS, Tap.Q, Tap.Q, (1, 0, 0, 0, 0, 1)),), "BitFit q in layers 0,5"),
    ],
)
def test_ops_in_words(ops, said):
    assert words(*ops) == said


@settings(deadline=None, max_examples=50)
@given(coordinates(UNIFIED))
def test_any_genotype_is_one_line(params):
    said = describe(UNIFIED.decode(params))
    assert said == said.strip() != ""
    assert "\n" not in said
    assert "  " not in said
