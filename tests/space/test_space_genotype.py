"""Genotypes: equal ones have one JSON and one hash, others do not, and bad files are refused."""

import dataclasses
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_factory import (
    MINILM,
    TINY,
    bind_shipped,
    coordinates,
    draw_uniform,
)

from autopeft.errors import ConfigError
from autopeft.space.forms import FORMS, Activation, Form, is_sequential, misplaced
from autopeft.space.genotype import Genotype, Op
from autopeft.space.genotype_file import genotype_from_dict, load_genotype
from autopeft.space.shape import ModelShape, encoder_shape
from autopeft.space.taps import CROSS, ORDER, Tap

LORA_Q = Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (4, 0, 2), scale=2.0)
LORA_V = Op(Form.LOWRANK, Tap.ATTN_IN, Tap.V, (4, 0, 2), scale=2.0)
ADAPTER = Op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (0, 16, 0), Activation.RELU, "learned")
GENOTYPE = Genotype(3, (LORA_Q, ADAPTER), 1e-3, 0.01)
CANONICAL = (
    '{"n_layers":3,"ops":['
    '{"activation":"relu","form":"bottleneck","read":"ffn_in","scale":"learned",'
    '"sizes":[0,16,0],"write":"ffn_out"},'
    '{"form":"lowrank","read":"attn_in","scale":2.0,"sizes":[4,0,2],"write":"q"}],'
    '"training":{"learning_rate":0.001,"weight_decay":0.01},"version":1}'
)

UNIFIED = bind_shipped("unified", MINILM, 0.01)


def resized(op, *sizes):
    return dataclasses.replace(op, sizes=sizes)


def test_canonical_json_and_hash_never_change():
    assert GENOTYPE.to_json() == CANONICAL
    assert GENOTYPE.hash == "27dfc343c897bf79"


@pytest.mark.parametrize(
    "same",
    [
        Genotype(3, (ADAPTER, LORA_Q), 1e-3, 0.01),
        Genotype(3, (resized(LORA_Q, 4, 0, 0), ADAPTER, resized(LORA_Q, 0, 0, 2)), 1e-3, 0.01),
        Genotype(3, (LORA_Q, ADAPTER, resized(LORA_V, 0, 0, 0)), 1e-3, 0.01),
        Genotype(3, (dataclasses.replace(LORA_Q, scale=2), ADAPTER), 0.001, 0.01),
    ],
)
def test_the_same_modification_is_the_same_genotype(same):
    assert same == GENOTYPE
    assert hash(same) == hash(GENOTYPE)
    assert same.to_json() == CANONICAL


def test_numbers_of_one_value_are_one_genotype():
    a, b = Genotype(3, (), 1, 0), Genotype(3, (), 1.0, -0.0)
    assert a == b
    assert a.to_json() == b.to_json()


@pytest.mark.parametrize(
    "other",
    [
        Genotype(3, (LORA_Q,), 1e-3, 0.01),
        Genotype(3, (LORA_V, ADAPTER), 1e-3, 0.01),
        Genotype(3, (resized(LORA_Q, 4, 2, 0), ADAPTER), 1e-3, 0.01),
        Genotype(3, (dataclasses.replace(LORA_Q, scale=1.0), ADAPTER), 1e-3, 0.01),
        Genotype(3, (dataclasses.replace(LORA_Q, scale="learned"), ADAPTER), 1e-3, 0.01),
        Genotype(3, (LORA_Q, dataclasses.replace(ADAPTER, scale=1.0)), 1e-3, 0.01),
        Genotype(3, (LORA_Q, dataclasses.replace(ADAPTER, read=Tap.FFN_OUT)), 1e-3, 0.01),
        Genotype(3, (LORA_Q, dataclasses.replace(ADAPTER, activation=Activation.GELU)), 1e-3, 0.01),
        Genotype(4, (resized(LORA_Q, 4, 0, 2, 0), resized(ADAPTER, 0, 16, 0, 0)), 1e-3, 0.01),
        Genotype(3, (LORA_Q, ADAPTER), 2e-3, 0.01),
        Genotype(3, (LORA_Q, ADAPTER), 1e-3),
    ],
)
def test_whatever_differs_has_another_hash(other):
    assert other != GENOTYPE
    assert other.hash != GENOTYPE.hash


def test_ops_of_one_kind_but_another_scale_stand_side_by_side():
    other = dataclasses.replace(LORA_Q, scale=1.0)
    assert len(Genotype(3, (LORA_Q, other), 1e-3).ops) == 2


@pytest.mark.parametrize("form", ["prefix", "prefix_mlp"])
def test_prefixes_at_one_place_are_refused_whatever_their_scale(form):
    gated = Op("prefix", "head", "head", (0, 4, 4), scale="gated")
    plain = Op(form, "head", "head", (0, 0, 2))
    with pytest.raises(ConfigError, match=r"head->head is given twice in one layer"):
        Genotype(3, (gated, plain), 1e-3)
    assert len(Genotype(3, (gated, resized(plain, 1, 0, 0)), 1e-3).ops) == 2


def test_the_same_op_twice_in_a_layer_is_refused():
    with pytest.raises(ConfigError, match="op lowrank attn_in->q is given twice in one layer"):
        Genotype(3, (LORA_Q, resized(LORA_Q, 0, 1, 1)), 1e-3)


def test_sizes_for_another_depth_are_refused():
    with pytest.raises(ConfigError, match="op lowrank attn_in->q has 3 sizes for 2 layers"):
        Genotype(2, (LORA_Q,), 1e-3)


@pytest.mark.parametrize("sizes", [(True,), (1.0,), ("1",), (-1,), (), (None,)])
def test_sizes_that_are_not_whole_numbers_are_refused(sizes):
    with pytest.raises(ConfigError, match="are not one non-negative integer per layer"):
        Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, sizes)


@pytest.mark.parametrize(
    ("op", "what"),
    [
        ((Form.LOWRANK, Tap.FFN_OUT, Tap.Q, (1,)), "`ffn_out` is computed after `q`"),
        ((Form.LOWRANK, Tap.ATTN_IN, Tap.HEAD, (1,)), "a prefix acts at `head`"),
        ((Form.LOWRANK, Tap.HEAD, Tap.PRE_O, (1,)), "only a prefix reads at `head`"),
        ((Form.MULTIHEAD, Tap.HEAD, Tap.HEAD, (1,)), "a multihead reads the queries"),
        ((Form.LOWRANK, Tap.Q, Tap.K, (1,)), "q, k and v are computed side by side"),
        ((Form.PREFIX, Tap.Q, Tap.Q, (1,)), "a prefix acts at `head`"),
        ((Form.BIAS, Tap.ATTN_IN, Tap.Q, (1,)), "a bias reads where it writes"),
        ((Form.BIAS, Tap.Q, Tap.Q, (2,)), r"a bias is present \(1\) or absent \(0\)"),
        ((Form.SCALE, Tap.V, Tap.V, (1,), None, 2.0), "a scale has no scale"),
        ((Form.PREFIX, Tap.HEAD, Tap.HEAD, (1,), None, "learned"), "a prefix has no scale"),
        ((Form.DORA, Tap.ATTN_IN, Tap.Q, (1,), None, "gated"), "a dora has no gate"),
        ((Form.BIAS, Tap.Q, Tap.Q, (1,), None, "gated"), "a bias has no gate"),
        ((Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (1,)), "a bottleneck needs an activation"),
        ((Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (1,), Activation.RELU), "a lowrank has no activation"),
        ((Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (1,), None, 0.0), "scale 0.0 is not a positive number"),
        ((Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (1,), None, float("inf")), "scale inf is not a positi"),
        ((Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (1,), None, float("nan")), "scale nan is not a positi"),
    ],
)
def test_an_op_that_means_nothing_is_refused(op, what):
    with pytest.raises(ConfigError, match=what):
        Op(*op)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"form": "lora"}, "op: form is 'lora', allowed: lowrank, lowrank_fa,"),
        ({"read": "attention"}, "op: read is 'attention', allowed: embed, attn_in,"),
        ({"write": None}, "op: write is None, allowed: embed, attn_in,"),
        ({"activation": "swoosh"}, "op: activation is 'swoosh', allowed: relu, gelu,"),
        ({"activation": []}, r"op: activation is \[\], allowed: relu, gelu,"),
        ({"sizes": 3}, "op: sizes are 3, allowed: one per layer"),
        ({"scale": "lerned"}, "op: scale is 'lerned', allowed: a positive number, learned, gated"),
        ({"scale": "2"}, "op: scale is '2', allowed: a positive number, learned, gated"),
        ({"scale": True}, "op: scale is True, allowed: a positive number, learned, gated"),
        ({"scale": None}, "op: scale is None, allowed: a positive number, learned, gated"),
    ],
)
def test_what_no_op_is_made_of_is_refused(change, told):
    values = {"form": "bottleneck", "read": "ffn_in", "write": "ffn_out", "sizes": (1,)}
    with pytest.raises(ConfigError, match=told):
        Op(**values | {"activation": "relu"} | change)


def test_an_op_made_of_texts_is_that_made_of_members():
    texts = Op("bottleneck", "ffn_in", "ffn_out", [0, 16, 0], "relu", "learned")
    assert texts == ADAPTER
    assert hash(texts) == hash(ADAPTER)
    assert Genotype(3, [Op("lowrank", "attn_in", "q", [1, 1, 1])], 1e-3).is_lora
    assert Genotype(3, [Op("prompt", "embed", "embed", [1, 0, 0])], 1e-3).needs_whole_rows


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ops": None}, "ops are None, allowed: `Op`s"),
        ({"ops": ADAPTER}, "ops are Op.*, allowed: `Op`s"),
        ({"ops": ["lora"]}, "ops are .*, allowed: `Op`s"),
        ({"learning_rate": "0.1"}, "learning_rate is '0.1', allowed: a number"),
        ({"weight_decay": None}, "weight_decay is None, allowed: a number"),
    ],
)
def test_what_no_genotype_is_made_of_is_refused(change, told):
    with pytest.raises(ConfigError, match=told):
        Genotype(**{"n_layers": 3, "ops": (), "learning_rate": 1e-3} | change)


@pytest.mark.parametrize(("rate", "decay"), [(0, 0), (-1, 0), (float("nan"), 0), (1, -1)])
def test_training_numbers_that_mean_nothing_are_refused(rate, decay):
    with pytest.raises(ConfigError, match=r"(learning_rate|weight_decay) .* is not a"):
        Genotype(1, (), rate, decay)


@pytest.mark.parametrize(
    ("read", "write", "sequential"),
    [
        (Tap.FFN_OUT, Tap.FFN_OUT, True),
        (Tap.FFN_NORM, Tap.FFN_OUT, True),
        (Tap.FFN_IN, Tap.FFN_OUT, False),
        (Tap.ATTN_IN, Tap.ATTN_OUT, False),
    ],
)
def test_sequential_is_derived_from_the_taps(read, write, sequential):
    assert is_sequential(read, write) is sequential


WIDE = ModelShape(
    1,
    {
        tap: 10 + 7 * i
        for i, tap in enumerate(sorted(set(Tap) - CROSS - {Tap.EMBED}, key=ORDER.get))
    },
    1,
)
"""Each tap of another width, so that none can stand for another."""


@pytest.mark.parametrize(
    ("op", "params"),
    [
        (Op(Form.LOWRANK, Tap.ATTN_IN, Tap.V, (3,)), 3 * (10 + 31)),
        (Op(Form.LOWRANK, Tap.FFN_MID, Tap.FFN_OUT, (3,)), 3 * (87 + 94)),
        (Op(Form.LOWRANK, Tap.ATTN_IN, Tap.V, (3,), None, "learned"), 3 * (10 + 31) + 1),
        (Op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (3,), Activation.RELU), 3 * (66 + 94) + 97),
        (
            Op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (3,), Activation.RELU, "learned"),
            3 * (66 + 94) + 98,
        ),
        (Op(Form.KRONECKER, Tap.PRE_O, Tap.FFN_IN, (3,)), 3 * 3 + 15 * 22),
        (Op(Form.PREFIX, Tap.HEAD, Tap.HEAD, (3,)), 2 * 3 * 38),
        (Op(Form.PREFIX, Tap.HEAD, Tap.HEAD, (3,), None, "gated"), 2 * 3 * 38 + 10 + 1),
        (Op(Form.LOWRANK, Tap.FFN_MID, Tap.FFN_OUT, (3,), None, "gated"), 3 * (87 + 94) + 87 + 1),
        (Op(Form.BIAS, Tap.FFN_UP, Tap.FFN_UP, (1,)), 80),
        (Op(Form.SCALE, Tap.K, Tap.K, (1,)), 24),
        (Op(Form.SCALE, Tap.K, Tap.K, (0,)), 0),
    ],
)
def test_parameters_in_closed_form(op, params):
    assert Genotype(1, (op,), 1e-3).count_params(WIDE) == params


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.KRONECKER])
def test_parameters_grow_with_the_size_and_absent_ones_cost_nothing(form):
    read, write = next((r, w) for r in Tap for w in Tap if misplaced(form, r, w) is None)
    activation = Activation.RELU if FORMS[form].activated else None
    costs = [
        Op(form, read, write, (1,), activation).params_in_layer(size, TINY) for size in range(4)
    ]
    assert costs[0] == 0
    assert costs == sorted(set(costs))


def test_a_model_that_does_not_fit_is_refused_with_what_it_has():
    with pytest.raises(ConfigError, match="the genotype is for 3 layers, the model has 2"):
        GENOTYPE.check_fits(TINY)
    with pytest.raises(ConfigError, match="the model has no tap ffn_in, ffn_out; it has: q, attn"):
        GENOTYPE.check_fits(ModelShape(3, {Tap.Q: 4, Tap.ATTN_IN: 4}, 1))
    GENOTYPE.check_fits(encoder_shape(3, 4, 8, 1))


def test_a_size_that_does_not_divide_the_widths_is_refused():
    kronecker = Genotype(2, (Op(Form.KRONECKER, Tap.FFN_IN, Tap.FFN_UP, (4, 3)),), 1e-3)
    kronecker.check_fits(encoder_shape(2, 12, 24, 1))
    with pytest.raises(ConfigError, match=r"ffn_in->ffn_up cannot be of size 3 between widths 4 "):
        kronecker.check_fits(TINY)


@settings(deadline=None, max_examples=50)
@given(coordinates(UNIFIED))
def test_a_genotype_survives_a_dict_and_json(params):
    genotype = UNIFIED.decode(params)
    again = genotype_from_dict(json.loads(genotype.to_json()))
    assert again == genotype
    assert again.to_json() == genotype.to_json()
    assert genotype_from_dict(genotype.to_dict()) == genotype


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_hash_does_not_depend_on_the_order_of_the_ops(rng):
    genotype = UNIFIED.decode(draw_uniform(UNIFIED, random.Random(rng.random())))
    halves = []
    for op in genotype.ops:
        cut = rng.randrange(genotype.n_layers)
        head = tuple(size if i < cut else 0 for i, size in enumerate(op.sizes))
        tail = tuple(size if i >= cut else 0 for i, size in enumerate(op.sizes))
        halves += [resized(op, *head), resized(op, *tail)]
    rng.shuffle(halves)
    shuffled = dataclasses.replace(genotype, ops=tuple(halves))
    assert shuffled == genotype
    assert shuffled.hash == genotype.hash


FILE = """\
version: 1
n_layers: 3
ops:
  - {form: lowrank, read: attn_in, write: q, sizes: [4, 0, 2], scale: 2}
  - form: bottleneck
    read: ffn_in
    write: ffn_out
    sizes: [0, 16, 0]
    activation: relu
    scale: learned
training:
  learning_rate: 1e-3
  weight_decay: 0.01
"""


@pytest.mark.parametrize("text", [FILE, CANONICAL, FILE.replace("version: 1\n", "")])
def test_a_genotype_is_read_from_yaml_and_from_its_own_json(tmp_path, text):
    path = tmp_path / "g.yaml"
    path.write_text(text)
    assert load_genotype(path) == load_genotype(str(path)) == GENOTYPE


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("version: 1", "version: 2", "1: version: 2: has to be less than or equal to 1"),
        ("version: 1", "version: true", "1: version: True: has to be a whole number"),
        ("n_layers: 3", "n_layers: '3'", "2: n_layers: '3': has to be a whole number"),
        ("n_layers: 3", "n_layers: 2", "3: ops: op lowrank attn_in->q has 3 sizes for 2 layers"),
        ("[4, 0, 2]", "[4, 0, true]", "4: ops.0.sizes.2: True: has to be a whole number"),
        ("[4, 0, 2]", "[4, 0, 2.0]", "4: ops.0.sizes.2: 2.0: has to be a whole number"),
        ("[4, 0, 2]", "[4, 0, '2']", "4: ops.0.sizes.2: '2': has to be a whole number"),
        ("[4, 0, 2]", "[4, 0, -2]", "4: ops.0.sizes.2: -2: has to be greater than or equal to 0"),
        ("[4, 0, 2]", "4", "4: ops.0.sizes: 4: has to be a list"),
        ("lowrank", "lora", "4: ops.0.form: 'lora': has to be 'lowrank', 'lowrank_fa', 'dora', "),
        (
            "write: q",
            "write: qq",
            "4: ops.0.write: 'qq': has to be 'embed', 'attn_in', 'q', 'k'",
        ),
        ("write: q", "write: head", "4: ops.0: op lowrank attn_in->head: a prefix acts at `head`"),
        (
            "    activation: relu\n",
            "",
            "5: ops.1: op bottleneck ffn_in->ffn_out: a bottleneck needs",
        ),
        (
            "scale: learned",
            "scale: 0",
            "10: ops.1.scale: 0: has to be greater than 0 or has to be ",
        ),
        ("scale: learned", "rank: 1", "10: ops.1.rank: unknown key; allowed: activation, form, re"),
        ("  learning_rate: 1e-3\n", "", "11: training.learning_rate: is missing"),
        ("1e-3", "0", "12: training.learning_rate: 0: has to be greater than 0"),
        ("0.01", ".nan", "13: .nan: only finite numbers are allowed"),
        (
            "  - form: bott",
            f"  - {json.dumps(LORA_Q.to_dict())}\n  - form: bott",
            "3: ops: op lowr",
        ),
        (FILE, "[]", "1: the file: has to be a mapping"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_line(tmp_path, old, new, told):
    assert old in FILE
    path = tmp_path / "g.yaml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_genotype(path)
    assert str(caught.value).startswith(f"{path}:{told}")
    assert "\n" not in str(caught.value)


def test_every_bad_op_is_told(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(FILE.replace("write: q", "write: head").replace("    activation: relu\n", ""))
    with pytest.raises(ConfigError) as caught:
        load_genotype(path)
    assert [line.split(": ")[1] for line in str(caught.value).split("\n")] == ["ops.0", "ops.1"]


def test_a_bad_dict_is_refused_by_key():
    data = GENOTYPE.to_dict() | {"training": {"learning_rate": float("inf")}}
    with pytest.raises(ConfigError, match=r"^trial 3: training\.learning_rate: inf: has to be a f"):
        genotype_from_dict(data, "trial 3")
