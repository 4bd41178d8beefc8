"""The table of families: its taps are those of the model, and strangers are refused."""

import pytest
from test_model_kin import KIN
from tiny import (
    CROSSED,
    D_FFN,
    D_INNER,
    D_MODEL,
    EVERY,
    FAMILIES,
    GATED,
    N_LAYERS,
    N_POSITIONS,
    tiny_batch,
    tiny_model,
)
from torch import nn
from transformers import T5EncoderModel

from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.families import FAMILIES as TABLE
from autopeft.space.shape import ModelShape
from autopeft.space.taps import CROSS, Tap

WIDE = {Tap.FFN_GATE, Tap.FFN_UP, Tap.FFN_MID}
INNER = {
    *(Tap.Q, Tap.K, Tap.V, Tap.HEAD, Tap.PRE_O),
    *(Tap.CROSS_Q, Tap.CROSS_K, Tap.CROSS_V, Tap.CROSS_HEAD, Tap.CROSS_PRE_O),
}
UNGATED, PRE_NORM = {Tap.FFN_GATE}, {Tap.ATTN_NORM, Tap.FFN_NORM}
LACKING = (
    dict.fromkeys(FAMILIES, UNGATED)
    | dict.fromkeys([*GATED, "modernbert"], PRE_NORM)
    | {"bart": UNGATED | {Tap.EMBED}, "t5": UNGATED | PRE_NORM | {Tap.CROSS_NORM, Tap.EMBED}}
    | {"gpt2": UNGATED | PRE_NORM, "deberta-v2": UNGATED | {Tap.HEAD, Tap.EMBED}}
)


@pytest.fixture(params=EVERY)
def model(request):
    return tiny_model(request.param)


def test_the_tiny_families_are_all_there_are():
    twins = {"camembert", "xlm-roberta"}  # of RoBERTa, compared with it in test_model_unknown.py
    twins |= {"mbart"}  # of BART but for its norms, test_training_languages.py
    assert {*EVERY, *twins, *KIN} == set(TABLE)


def test_shape(model):
    shape = Anatomy(model).shape()
    assert shape.n_layers == N_LAYERS
    kind = model.config.model_type
    narrow = {Tap.K, Tap.V, Tap.HEAD} if kind in GATED else set()
    special = dict.fromkeys(INNER, D_INNER) if kind == "t5" else {}
    if kind == "electra":
        special = {Tap.EMBED: D_MODEL // 2}
    assert shape.widths == {
        tap: D_MODEL // 2 if tap in narrow else D_FFN if tap in WIDE else special.get(tap, D_MODEL)
        for tap in set(Tap) - LACKING[kind] - (set() if kind in CROSSED else CROSS)
    }
    assert shape.n_encoder_layers == (kind in CROSSED)
    assert ModelShape.from_dict(shape.to_dict()) == shape
    assert shape.backbone_params == sum(p.numel() for p in model.base_model.parameters())


def test_a_fresh_pooler_is_not_backbone():
    model = tiny_model("bert")
    pooler = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
    backbone_params = Anatomy(model).shape().backbone_params
    fresh = Anatomy(model, [*pooler, "classifier.weight"]).shape().backbone_params
    assert backbone_params - fresh == D_MODEL * D_MODEL + D_MODEL


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_the_longest_row_is_the_longest_that_the_model_reads(family):
    model = tiny_model(family)
    longest = Anatomy(model).longest_row()
    assert longest == N_POSITIONS - (2 if model.config.model_type == "roberta" else 0)
    batch = {name: tensor[:, :1] for name, tensor in tiny_batch(model, 1).items()}
    model(**{name: tensor.expand(-1, longest) for name, tensor in batch.items()})
    with pytest.raises((IndexError, RuntimeError)):
        model(**{name: tensor.expand(-1, longest + 1) for name, tensor in batch.items()})


def test_a_model_without_a_head_has_the_same_taps(model):
    assert Anatomy(model.base_model).shape() == Anatomy(model).shape()


def test_missing_modules_are_named():
    model = tiny_model("bert")
    for layer in model.bert.encoder.layer:
        del layer.intermediate, layer.attention.self.key
    with pytest.raises(DataError, match=r"has no module attention.self.key, intermediate.dense"):
        Anatomy(model)


def test_a_convolution_between_the_layers_of_a_deberta_is_refused():
    model = tiny_model("deberta-v2")
    model.deberta.encoder.conv = nn.Identity()
    with pytest.raises(DataError, match=r"has a `encoder\.conv` between its layers"):
        Anatomy(model)


def test_layers_that_are_not_alike_are_refused():
    model = tiny_model("bart")
    for layer in model.model.decoder.layers:
        layer.fc1, layer.fc2 = nn.Linear(D_MODEL, 7), nn.Linear(7, D_MODEL)
    with pytest.raises(DataError, match="`ffn_up` is 48 wide in layer 0 and 7 in layer 2"):
        Anatomy(model).shape()


def test_a_layer_in_the_middle_that_is_unlike_the_others_is_refused():
    model = tiny_model("llama")
    ffn = model.model.layers[1].mlp
    ffn.up_proj = nn.Linear(D_MODEL, 7)
    with pytest.raises(DataError, match="`ffn_up` is 7 wide in layer 1 and 48 in layer 2"):
        Anatomy(model).shape()
    del ffn.up_proj
    with pytest.raises(DataError, match=r"has no module mlp.up_proj in its layers"):
        Anatomy(model)


def test_layers_that_are_no_list_are_refused():
    model = tiny_model("distilbert")
    model.distilbert.transformer.layer = nn.Identity()
    with pytest.raises(DataError, match=r"`transformer.layer` .* is not a list of layers"):
        Anatomy(model)
    half = T5EncoderModel(tiny_model("t5").config)
    with pytest.raises(DataError, match=r"`decoder.block` of this t5 model is not a list"):
        Anatomy(half)
