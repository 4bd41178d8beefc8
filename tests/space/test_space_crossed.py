"""Encoder-decoders: what is at cross-attention stands in the decoder's layers and nowhere else."""

import random
from dataclasses import replace

import pytest
from space_factory import BERT_BASE, NO_LIMIT, bind_text, draw_uniform

from autopeft.errors import ConfigError
from autopeft.space.bind import bind
from autopeft.space.encode import encode
from autopeft.space.forms import Form, misplaced
from autopeft.space.genotype import Genotype, Op
from autopeft.space.methods import method, methods
from autopeft.space.shape import ANSWERED, NO_GATES, OF_POSITIONS, ModelShape
from autopeft.space.shipped import load_space, shipped_spaces
from autopeft.space.taps import CROSS, LINEAR_INPUT, Tap
from autopeft.space.transfer import transfer
from autopeft.space.words import describe

N_ENCODING, N_LAYERS = 2, 5
WIDTHS = {tap: 8 for tap in Tap if tap is not Tap.FFN_GATE}
BIASED = frozenset({*LINEAR_INPUT, Tap.CROSS_NORM} & set(WIDTHS))
BART = ModelShape(N_LAYERS, WIDTHS, 100_000, biased=BIASED, n_encoder_layers=N_ENCODING)
TEXT = """
name: small
description: cross-attention alone, and with the rest
draw: {draw}
slots:
  - {{name: a, form: lowrank, read: weight, write: [cross_q, cross_k+cross_v], size: [1, 2, 4],
     layout: {layout}}}
  - {{name: b, form: lowrank, read: weight, write: q+cross_out, size: [1, 2], layout: {layout}}}
  - {{name: c, form: bias, read: same, write: ffn_out, layout: {layout}}}
training: {{learning_rate: 1e-3}}
"""


def crossing(genotype):
    return [op for op in genotype.ops if CROSS & {op.read, op.write}]


@pytest.mark.parametrize("layout", ["same", "mask", "top", "groups", "shape", "free"])
def test_every_draw_fits_the_model_and_the_budget(layout):
    space = bind_text(TEXT.format(draw="budget", layout=layout), BART, 150)
    rng, seen = random.Random(0), set()
    for _ in range(150):
        genotype = space.decode(draw_uniform(space, rng))
        genotype.check_fits(BART)
        assert genotype.count_params(BART) <= 150
        for op in crossing(genotype):
            assert not any(op.sizes[:N_ENCODING])
            seen |= {(op.write, i) for i, size in enumerate(op.sizes) if size}
    assert {tap for tap, _ in seen} == {Tap.CROSS_Q, Tap.CROSS_K, Tap.CROSS_V, Tap.CROSS_OUT}
    assert {i for _, i in seen} == set(range(N_ENCODING, N_LAYERS))
    # What is in all layers is paid for in the decoder's alone.
    assert space.slots[0].least == 16 * (3 if layout == "same" else 1)


@pytest.mark.parametrize("layout", ["same", "mask", "top", "free"])
@pytest.mark.parametrize("draw", ["budget", "filter"])
def test_coordinates_come_back(draw, layout):
    space = bind_text(TEXT.format(draw=draw, layout=layout), BART, NO_LIMIT)
    rng, alike = random.Random(0), 0
    drawn = [space.decode(draw_uniform(space, rng)) for _ in range(60)]
    some = [genotype for genotype in drawn if genotype.ops]
    for genotype in some:
        params = encode(space, genotype)
        assert params is not None
        again = space.decode(params)
        again.check_fits(BART)
        alike += again.ops == genotype.ops
    # Totals and shares are rounded anew; sizes that are drawn as they are come back as they were.
    assert alike == len(some) if draw == "filter" else alike > len(some) / 3


def test_the_unified_space_reaches_cross_attention_and_says_nothing_of_it_to_others():
    space = bind(load_space("unified"), BART, 2000)
    assert {"cross_lowrank", "cross_prefix"} <= {slot.name for slot in space.slots}
    rng = random.Random(0)
    assert any(crossing(space.decode(draw_uniform(space, rng))) for _ in range(40))
    other = bind(load_space("unified"), BERT_BASE, 10**6)
    assert not any("cross" in slot.name for slot in other.slots)
    assert not any("cross" in note for note in other.notes)


@pytest.mark.parametrize(
    "name", ["lora", "lora_all", "dora", "vera", "prefix", "mam", "ia3", "bitfit"]
)
def test_methods_are_at_cross_attention_where_there_is_some(name):
    genotype = method(name).genotype(BART, 2)
    assert crossing(genotype)
    assert all(not any(op.sizes[:N_ENCODING]) for op in crossing(genotype))
    assert all(all(op.sizes) for op in genotype.ops if op not in crossing(genotype))
    assert not crossing(method(name).genotype(BERT_BASE))


ALL_WEIGHTS = ("adalora", "sparse_random", "fish", "lt_sft", "diff_pruning")
GATED = replace(BART, widths=dict.fromkeys(Tap, 8))
LLAMA = ModelShape(3, dict.fromkeys((tap for tap in Tap if tap not in CROSS), 8), 100_000)


@pytest.mark.parametrize("shape", [BART, GATED, BERT_BASE, LLAMA])
def test_lora_is_tuned_at_every_weight_matrix_that_there_is(shape):
    """The verdict compares with it; what a model has no place for is not worth a note."""
    space = bind(load_space("lora"), shape, NO_LIMIT)
    there = set(LINEAR_INPUT) & set(shape.widths)
    assert {tap for slot in space.slots for tap in slot.spec.write} == there
    assert space.notes == ()
    assert {op.write for op in method("lora_all").genotype(shape).ops} == there


def points(name, shape):
    """The named methods that the sampler of a space learns from."""
    space = bind(load_space(name), shape, NO_LIMIT)
    fitting = (each for each in methods() if method(each).misfit(shape) is None)
    return {each for each in fitting if encode(space, method(each).genotype(shape)) is not None}


OF_ENCODERS = BERT_BASE.widths | dict.fromkeys(CROSS, 768)
WITH_GATES = {Tap.FFN_GATE: 3072}
BOTH = {"n_encoder_layers": 6, "biased": BERT_BASE.biased | CROSS}


@pytest.mark.parametrize("name", shipped_spaces())
@pytest.mark.parametrize(
    "more",
    [
        {"widths": OF_ENCODERS, **BOTH},
        {"widths": OF_ENCODERS | WITH_GATES, **BOTH},
        {"widths": BERT_BASE.widths | WITH_GATES},
    ],
    ids=["encoder-decoder", "gated encoder-decoder", "gated"],
)
def test_a_method_that_is_a_point_of_a_space_is_one_whatever_the_model(name, more):
    shape = replace(BERT_BASE, **more)
    lost = points(name, BERT_BASE) - points(name, shape)
    assert all(method(each).misfit(shape) for each in lost)  # gates, and prompts


@pytest.mark.parametrize("name", ["lora_all", *ALL_WEIGHTS])
def test_what_is_said_to_change_all_weights_does(name):
    for shape in (BART, GATED, BERT_BASE, LLAMA):
        writes = {op.write for op in method(name).genotype(shape, 5).ops}
        assert writes == set(LINEAR_INPUT) & set(shape.widths)


def test_gates_are_left_out_with_a_note():
    space = bind(load_space("hybrid"), BART, 3000)
    gated = {slot.name for slot in space.spec.slots if "gated" in slot.scale}
    assert gated == {"prefix", "adapter", "lora"}
    assert {slot.name for slot in space.slots} == gated | {"cross_prefix", "cross_lora"}
    assert space.notes == tuple(
        f"slot {name} goes ungated: {NO_GATES}" for name in ("prefix", "adapter", "lora")
    )
    rng = random.Random(0)
    for _ in range(40):
        space.decode(draw_uniform(space, rng)).check_fits(BART)
    gated = TEXT.format(draw="budget", layout="free").replace("lowrank", "lowrank, scale: gated")
    left = bind_text(gated, BART)
    assert [slot.name for slot in left.slots] == ["c"]
    assert left.notes == tuple(f"slot {name} is left out: {NO_GATES}" for name in "ab")
    assert method("unipelt").misfit(BART) == NO_GATES


def test_gates_that_would_see_the_answers_are_left_out():
    shape = replace(BERT_BASE, answered=True)
    space = bind(load_space("hybrid"), shape, NO_LIMIT)
    assert {f"slot {slot.name} goes ungated: {ANSWERED}" for slot in space.slots} <= {*space.notes}
    assert method("unipelt").misfit(shape) == ANSWERED
    with pytest.raises(ConfigError, match=ANSWERED):
        method("unipelt").genotype(BERT_BASE).check_fits(shape)
    assert ModelShape.from_dict(shape.to_dict()) == shape


def test_gates_that_would_see_positions_are_left_out():
    """In DeBERTa, where states alone are projected they stay."""
    shape = replace(BERT_BASE, shared_inputs=frozenset({Tap.ATTN_IN}))
    space = bind(load_space("hybrid"), shape, NO_LIMIT)
    assert {note for note in space.notes if "ungated" in note} == {
        f"slot lora goes ungated: {OF_POSITIONS}"
    }
    rng = random.Random(0)
    drawn = [op for _ in range(40) for op in space.decode(draw_uniform(space, rng)).ops]
    assert {op.scale == "gated" for op in drawn if op.write is Tap.FFN_OUT} == {True, False}
    assert not any(op.scale == "gated" for op in drawn if op.write in (Tap.Q, Tap.K))
    assert method("unipelt").misfit(shape) == OF_POSITIONS


@pytest.mark.parametrize(("n_encoding", "there"), [(6, 6), (8, 4), (4, 6)])
def test_ops_at_cross_attention_go_along_where_a_model_of_that_depth_has_it(n_encoding, there):
    even = replace(BART, n_layers=12, n_encoder_layers=6)
    shape = replace(even, n_encoder_layers=n_encoding)
    genotype = method("lora").genotype(even)
    found, changes = transfer(genotype, shape, NO_LIMIT)
    found.check_fits(shape)
    assert [sum(map(bool, op.sizes)) for op in crossing(found)] == [there] * 2
    cut = "lowrank cross_memory->cross_v only where the model has cross_v"
    assert (cut in changes) == (there < 6)
    assert (found == genotype) == (there == 6)


def test_gated_ops_do_not_go_along_to_another_model():
    gated = Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (2,) * 12, scale="gated")
    plain = Op(Form.LOWRANK, Tap.ATTN_IN, Tap.V, (2,) * 12)
    found, changes = transfer(Genotype(12, (gated, plain), 1e-3), BART, NO_LIMIT)
    assert [(op.write, op.scale) for op in found.ops] == [(Tap.V, 1.0)]
    assert f"without lowrank attn_in->q (op lowrank attn_in->q: {NO_GATES})" in changes
    assert transfer(method("unipelt").genotype(BERT_BASE), BART, NO_LIMIT)[0] is None


def test_an_op_in_the_encoder_is_refused_with_the_layers_that_there_are():
    op = Op(Form.BIAS, Tap.CROSS_V, Tap.CROSS_V, (0, 1, 1, 0, 0))
    with pytest.raises(ConfigError, match=r"in layer 1, where there is no tap cross_v; layers 2-4"):
        Genotype(N_LAYERS, (op,), 1e-3).check_fits(BART)


@pytest.mark.parametrize(
    ("form", "read", "write", "reason"),
    [
        (Form.LOWRANK, Tap.CROSS_IN, Tap.CROSS_K, "the encoder's tokens"),
        (Form.LOWRANK, Tap.CROSS_MEMORY, Tap.CROSS_OUT, "the encoder's tokens"),
        (Form.LOWRANK, Tap.CROSS_V, Tap.CROSS_OUT, "the encoder's tokens"),
        (Form.LOWRANK, Tap.CROSS_K, Tap.CROSS_V, "side by side"),
        (Form.BIAS, Tap.CROSS_MEMORY, Tap.CROSS_MEMORY, "only reads"),
        (Form.LOWRANK, Tap.CROSS_MEMORY, Tap.CROSS_MEMORY, "only reads"),
        (Form.MULTIHEAD, Tap.Q, Tap.CROSS_HEAD, "reads the queries, `cross_q`"),
        (Form.LOWRANK, Tap.CROSS_Q, Tap.ATTN_OUT, "computed after"),
    ],
)
def test_what_cannot_be_computed_is_refused(form, read, write, reason):
    assert reason in misplaced(form, read, write)


@pytest.mark.parametrize(
    ("read", "write"),
    [
        (Tap.CROSS_MEMORY, Tap.CROSS_K),
        (Tap.CROSS_V, Tap.CROSS_V),
        (Tap.ATTN_IN, Tap.CROSS_OUT),
        (Tap.CROSS_NORM, Tap.CROSS_OUT),
        (Tap.CROSS_IN, Tap.FFN_OUT),
    ],
)
def test_what_can_be_computed_is_not(read, write):
    assert misplaced(Form.LOWRANK, read, write) is None


def test_words():
    prefix = Op(Form.PREFIX, Tap.CROSS_HEAD, Tap.CROSS_HEAD, (0, 0, 3, 3, 3))
    lora = Op(Form.LOWRANK, Tap.CROSS_PRE_O, Tap.CROSS_OUT, (0, 0, 2, 2, 2))
    told = describe(Genotype(N_LAYERS, (prefix, lora), 1e-3))
    assert told == "LoRA cross_o r2 in layers 2-4 + cross prefix l3 in layers 2-4"
