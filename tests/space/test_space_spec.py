"""Space files: what is refused and how it is told, and that every shipped one is valid."""

import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from space_factory import (
    MINILM,
    MODELS,
    NO_LIMIT,
    bind_text,
    one_slot,
    parse_space,
    refusal_of,
    two_slots,
)

from autopeft.errors import ConfigError, NoFeasibleTrialError
from autopeft.space import yaml
from autopeft.space.bind import bind
from autopeft.space.forms import Form
from autopeft.space.shape import BERT_BASE, ModelShape, encoder_shape
from autopeft.space.shipped import load_space, shipped_spaces, spaces_folder
from autopeft.space.spec import SpaceSpec
from autopeft.space.taps import Tap

VALID = """\
name: mine
description: for tests
slots:
  - name: q
    form: lowrank
    read: weight
    write: q
    size: [1, 2]
  - name: adapter
    form: bottleneck
    read: ffn_in
    write: ffn_out
    activation: relu
    size: [1, 2]
training:
  learning_rate: 1e-3
"""
TAPS = ", ".join(Tap)

SHIPPED = sorted(spaces_folder().rglob("*.yaml"))


def problems_of(text):
    with pytest.raises(ConfigError) as caught:
        parse_space(text)
    return str(caught.value).split("\n")


def test_the_valid_file_is_valid():
    assert parse_space(VALID).slots[0].size == (1, 2)


# what is replaced by what, and the one line that is told
REFUSED = [
    (
        "    form: low",
        "    rank: 3\n    form: low",
        "5: slots.0.rank: unknown key; allowed: activat",
    ),
    ("training:", "budget: 1\ntraining:", "15: budget: unknown key; allowed: description, draw, l"),
    (
        "  learning_rate: 1e-3",
        "  lr: 1\n  learning_rate: 1",
        "16: training.lr: unknown key; allowe",
    ),
    ("  learning_rate: 1e-3", "  weight_decay: 0", "15: training.learning_rate: is missing"),
    ("name: mine\n", "", "1: name: is missing"),
    ("name: mine", "name: Mine", "1: name: 'Mine': String should match pattern"),
    ("name: mine", "name: 5", "1: name: 5: has to be a text"),
    ("read: weight", "read: attn", "6: slots.0.read: 'attn': has to be 'embed', 'attn_in', 'q'"),
    (
        "write: q\n",
        "write: [q, qq]\n",
        f"7: slots.0.write: no tap `qq`; allowed: {TAPS}, joined by",
    ),
    ("write: q\n", "write: q+v+q\n", "7: slots.0.write: 'q+v+q': `q+v+q` names a tap twice"),
    ("write: q\n", "write: []\n", "7: slots.0.write: Value should have at least 1 item"),
    (
        "form: lowrank",
        "form: lora",
        "5: slots.0.form: 'lora': has to be 'lowrank', 'lowrank_fa', '",
    ),
    ("relu", "elu", "13: slots.1.activation: 'elu': has to be 'relu', 'gelu', 'gelu_new', 'tanh'"),
    (
        "    activation: relu\n",
        "",
        "9: slots.1.activation: a bottleneck needs an activation: relu,",
    ),
    (
        "write: q\n",
        "write: q\n    activation: relu\n",
        "8: slots.0.activation: no form here has an",
    ),
    (
        "write: q\n",
        "write: q\n    layout: fre\n",
        "8: slots.0.layout: no layout `fre`; allowed: sa",
    ),
    (
        "slots:",
        "layouts: {both: fre}\nslots:",
        "3: layouts.both: 'fre': has to be 'same', 'mask', ",
    ),
    ("slots:", "layouts: {free: mask}\nslots:", "3: layouts.free: named like a kind of layout"),
    ("slots:", "layouts: {q: mask}\nslots:", "3: layouts.q: named like a slot"),
    ("name: adapter", "name: q", "9: slots.1.name: slot `q` is given twice"),
    ("slots:", "draw: any\nslots:", "3: draw: 'any': has to be 'budget' or 'filter'"),
    (
        "write: q\n",
        "write: q\n    compose: softmax\n",
        "8: slots.0.compose: a lowrank composes by `",
    ),
    (
        "write: q\n",
        "write: ffn_norm\n",
        "7: slots.0.write: no weight matrix writes at `ffn_norm`; w",
    ),
    (
        "read: weight",
        "read: ffn_in",
        "7: slots.0.write: lowrank ffn_in->q: `ffn_in` is computed af",
    ),
    (
        "read: weight",
        "read: v",
        "7: slots.0.write: lowrank v->q: q, k and v are computed side by s",
    ),
    ("write: q\n", "write: head\n", "7: slots.0.write: no weight matrix writes at `head`; with `"),
    ("size: [1, 2]\n  -", "size: [0]\n  -", "8: slots.0.size: at least one size has to be above 0"),
    ("size: [1, 2]\n  -", "size: []\n  -", "8: slots.0.size: at least one size has to be above 0"),
    ("size: [1, 2]\n  -", "size: [1, -2]\n  -", "8: slots.0.size.1: -2: has to be greater than or"),
    (
        "size: [1, 2]\n  -",
        "size: [1, 2.0]\n  -",
        "8: slots.0.size.1: 2.0: has to be a whole number",
    ),
    ("size: [1, 2]\n  -", "size: true\n  -", "8: slots.0.size: True: has to be a whole number"),
    ("size: [1, 2]\n  -", "size: '4'\n  -", "8: slots.0.size: '4': has to be a whole number"),
    ("size: [1, 2]\n  -", "size: 1_0\n  -", "8: slots.0.size: '1_0': has to be a whole number"),
    ("size: [1, 2]\n  -", "size: {halvings: 0}\n  -", "8: slots.0.size.halvings: 0: has to be gre"),
    ("write: q\n", "write: q\n    scale: 0\n", "8: slots.0.scale: 0: has to be greater than 0 or "),
    ("write: q\n", "write: q\n    scale: yes\n", "8: slots.0.scale: 'yes': has to be a number or"),
    ("1e-3", "fast", "16: training.learning_rate: 'fast': has to be a number or has to be a mappi"),
    ("1e-3", "'1e-3'", "16: training.learning_rate: '1e-3': has to be a number or has to be a ma"),
    ("1e-3", "-1", "16: training.learning_rate: -1: has to be greater than 0"),
    ("1e-3", "{low: 2, high: 1}", "16: training.learning_rate: low 2.0 is above high 1.0"),
    ("1e-3", "{low: 1, high: 2, log: yes}", "16: training.learning_rate.log: 'yes': has to be tr"),
    ("1e-3", "{low: 1}", "16: training.learning_rate.high: is missing"),
]


@pytest.mark.parametrize(("old", "new", "told"), REFUSED)
def test_refused_in_one_line_with_file_line_key_and_what_is_allowed(old, new, told):
    assert old in VALID
    (line,) = problems_of(VALID.replace(old, new, 1))
    assert line.startswith(f"space.yaml:{told}")


def slot_text(form, more=""):
    return VALID.replace("form: lowrank", f"form: {form}", 1).replace(
        "    size: [1, 2]\n  -", f"{more}  -", 1
    )


@pytest.mark.parametrize(
    ("form", "more", "told"),
    [
        ("bias", "    size: 2\n", "slots.0.size: a bias has no size"),
        ("bias", "", "slots.0.write: bias weight->q: a bias reads where it writes"),
        ("scale", "    scale: 2\n", "slots.0.scale: a scale has no scale"),
        ("prefix", "", "slots.0.write: prefix weight->q: a prefix acts at `head` and `cross_head`"),
    ],
)
def test_a_form_is_refused_what_it_does_not_have(form, more, told):
    assert any(told in line for line in problems_of(slot_text(form, more)))


def test_two_slots_at_one_place_are_refused():
    text = VALID.replace("read: ffn_in\n", "read: [ffn_in, ffn_out]\n")
    again = """  - name: again
    form: [bottleneck, lowrank]
    read: same
    write: ffn_out
    activation: gelu
"""
    assert problems_of(text.replace("training:", f"{again}training:")) == [
        "space.yaml:15: slots.2: slots adapter and again both put a bottleneck at ffn_out->ffn_out"
    ]


def test_every_problem_is_told_at_once():
    text = VALID.replace("mine", "Mine").replace("write: q\n", "wrte: q\n").replace("relu", "elu")
    keys = [line.split(": ")[1] for line in problems_of(text.replace("1e-3", "x"))]
    assert keys == [
        "name",
        "slots.0.write",
        "slots.0.wrte",
        "slots.1.activation",
        "training.learning_rate",
    ]


def test_every_problem_of_a_slot_and_of_the_whole_is_told_at_once():
    slot = VALID.replace("read: weight", "read: ffn_in\n    compose: softmax\n    activation: relu")
    keys = [line.split(": ")[1] for line in problems_of(slot.replace("size: [1, 2]", "size: 0", 1))]
    assert keys == ["slots.0.compose", "slots.0.activation", "slots.0.size", "slots.0.write"]
    whole = VALID.replace("slots:", "layouts: {q: same}\nslots:").replace(
        "name: adapter", "name: q"
    )
    keys = [
        line.split(": ")[1]
        for line in problems_of(whole.replace("read: w", "layout: x\n    read: w"))
    ]
    assert keys == ["slots.1.name", "layouts.q", "slots.0.layout"]


def test_shape_layout_is_refused_where_sizes_are_drawn_as_they_are():
    (line,) = problems_of(one_slot("shape", draw="filter"))
    assert line == "space.yaml:6: slots.0.layout: layout `shape` needs `draw: budget`"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*Tap, *Form, "q+"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.data())
def test_a_file_with_anything_anywhere_is_valid_or_refused_by_name(data):
    content = yaml.loads(VALID, "space.yaml").data
    place = data.draw(st.sampled_from([content, content["training"], *content["slots"]]))
    place[data.draw(st.sampled_from([*place, "draw", "layouts", "scale", "layout"]))] = data.draw(
        anything
    )
    told = refusal_of(yaml.validate, SpaceSpec, yaml.Document("space.yaml", content, {}))
    assert told is None or told.startswith("space.yaml: ")


def test_there_are_shipped_spaces():
    assert {"unified", "autopeft", "lora", "adapters", "s3delta", "s4"} <= {
        path.stem for path in SHIPPED
    }
    assert set(shipped_spaces().values()) <= set(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("model", MODELS)
def test_shipped_space_is_valid_and_binds(path, model):
    spec = yaml.validate(SpaceSpec, yaml.load(path))
    assert spec.name == path.stem
    space = bind(spec, MODELS[model], NO_LIMIT)
    assert space.notes == ()
    missing = {s.name for s in spec.slots if s.crosses or s.write == ("ffn_gate",)}
    assert [slot.name for slot in space.slots] == [
        s.name for s in spec.slots if s.name not in missing
    ]
    names = [dim.name for dim in space.dimensions()]
    assert len(set(names)) == len(names)
    assert "learning_rate" in names
    print(f"{spec.name} on {model}: {len(names)} dimensions, {space.cardinality():.3g} sets of ops")
    assert space.cardinality() > 1


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (BERT_BASE, {768, 384, 192, 96, 48, 24, 12, 6, 3, 1}),
        (MINILM, {384, 192, 96, 48, 24, 12, 6, 3, 1}),
    ],
)
def test_autopeft_sizes_are_the_halvings_of_the_width(shape, sizes):
    for slot in bind(load_space("autopeft"), shape, NO_LIMIT).slots:
        assert set(slot.sizes) == sizes


def test_a_slot_over_the_budget_is_left_out_with_a_note():
    prices = {slot.name: slot.least for slot in bind_text(two_slots("same")).slots}
    assert prices == {"a": 16, "b": 16}
    text = two_slots("same").replace("write: [q, q+v]", "write: q+v")
    space = bind_text(text, max_params=31)
    assert [slot.name for slot in space.slots] == ["b"]
    assert space.notes == (
        "slot a is left out: its smallest op has 32 parameters, the budget is 31",
    )


@pytest.mark.parametrize("draw", ["budget", "filter"])
def test_a_space_of_which_nothing_fits_is_refused(draw):
    with pytest.raises(
        NoFeasibleTrialError, match=r"nothing in space small fits 7 parameters; .* 8"
    ):
        bind_text(two_slots("free", draw), max_params=7)


def without(*taps):
    return ModelShape(2, {tap: 4 for tap in Tap if tap not in taps}, 1000)


def test_a_slot_whose_taps_the_model_lacks_is_left_out_with_a_note():
    space = bind_text(two_slots("free"), without(Tap.FFN_UP))
    assert [slot.name for slot in space.slots] == ["a"]
    assert space.notes == ("slot b is left out: the model has no tap ffn_up",)


def test_a_slot_keeps_what_the_model_has():
    shape = without(Tap.ATTN_NORM, Tap.FFN_NORM)
    space = bind(load_space("unified"), shape, NO_LIMIT)
    kept = {slot.name: slot.spec for slot in space.slots}
    assert len(kept) == len(space.spec.slots)
    assert kept["ffn_adapter"].read == (Tap.FFN_IN, Tap.FFN_OUT)
    assert kept["biases"].write == (*("q+ffn_up", "q+k+v+attn_out+ffn_up+ffn_out", "attn_out"),)
    assert kept["scales"].write == ("k+v+ffn_mid", "v", "ffn_mid", "attn_out")
    assert set(space.notes) == {
        "slot ffn_adapter goes without ffn_norm, which the model lacks",
        "slot scales goes without attn_norm, ffn_norm, which the model lacks",
        "slot biases goes without attn_norm, ffn_norm, which the model lacks",
    }


def test_a_space_of_which_nothing_is_left_is_refused_with_the_taps_there_are():
    shape = ModelShape(2, {Tap.ATTN_IN: 4, Tap.K: 4}, 1000)
    with pytest.raises(ConfigError, match=r"nothing of space small can .* no tap q.*: attn_in, k"):
        bind_text(two_slots("free"), shape)


def test_a_weight_whose_input_the_model_lacks_is_left_out():
    text = two_slots("free").replace("write: [q, q+v]", "write: ffn_up")
    space = bind_text(text, without(Tap.FFN_IN))
    assert [slot.name for slot in space.slots] == ["b"]


KRONECKER = """
name: small
description: one slot
slots:
  - {name: a, form: [kronecker, lowrank], read: weight, write: [q, ffn_up], size: [4, 3, 16, 8]}
training: {learning_rate: 1e-3}
"""


def test_sizes_that_do_not_divide_the_widths_are_left_out_with_a_note():
    space = bind_text(KRONECKER, encoder_shape(2, 24, 40, 1000))
    assert space.slots[0].sizes == (4, 8)
    note = "slot a goes without sizes 3, 16: a size has to divide both widths"
    assert space.notes == (note,)
    with pytest.raises(ConfigError, match=r"left out: no size of 3, 4, 8, 16 fits: a size has to"):
        bind_text(KRONECKER, encoder_shape(2, 7, 40, 1000))


def test_the_cheapest_size_is_not_always_the_smallest():
    text = KRONECKER.replace("[kronecker, lowrank]", "kronecker").replace("[q, ffn_up]", "q")
    (slot,) = bind_text(text, encoder_shape(2, 48, 96, 1000)).slots
    assert slot.sizes == (3, 4, 8, 16)
    assert slot.least == 2 * (8 * 8 + 6 * 6)


def test_a_space_is_found_by_name_and_by_path(tmp_path):
    (tmp_path / "mine.yaml").write_text(VALID)
    assert load_space("mine.yaml", tmp_path).name == "mine"
    assert load_space(str(tmp_path / "mine.yaml")).name == "mine"
    assert load_space("lora", tmp_path).name == "lora"


@pytest.mark.parametrize("name", ["lorra", "gone.yaml", "x" * 5000, "a\0b", ""])
def test_an_unknown_space_is_refused_with_the_shipped_ones(tmp_path, name):
    with pytest.raises(
        ConfigError,
        match=r"\(adapters, autopeft, he2022, hybrid, lora, mergeable, prompts, s3delta, s4, sp",
    ):
        load_space(name, tmp_path)


def test_a_misspelt_space_is_told_the_nearest():
    with pytest.raises(ConfigError, match="did you mean `lora`"):
        load_space("lorra")


def test_import_is_light():
    heavy = {"torch", "optuna", "transformers", "numpy"}
    modules = "autopeft.space.shipped, autopeft.space.encode, autopeft.space.methods"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
