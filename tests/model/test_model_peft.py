"""The same weights in live `peft` give the same logits."""

import re

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoKrConfig, LoraConfig, VeraConfig, get_peft_model
from tiny import (
    D_FFN,
    D_MODEL,
    EVERY,
    FAMILIES,
    FUSED,
    HEADLESS,
    as_params,
    genotype,
    op,
    tiny_batch,
    tiny_model,
)

from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.ops.vera import random_factor
from autopeft.space.forms import Form
from autopeft.space.taps import LINEAR_INPUT, Tap

# peft asks a model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SIZES = {
    Tap.Q: (1, 8, 0),
    Tap.V: (3, 0, 16),
    Tap.ATTN_OUT: (2, 5, 9),
    Tap.FFN_UP: (0, 4, 11),
    Tap.FFN_OUT: (7, 1, 2),
}
SCALES = {Tap.Q: 1.0, Tap.V: 2.0, Tap.ATTN_OUT: 0.5, Tap.FFN_UP: 4.0, Tap.FFN_OUT: 1.5}


@pytest.fixture(params=as_params(EVERY))
def family(request):
    return request.param


def with_ops(family, *ops):
    """A model with ops, all parameters random, and the parameters by name."""
    model = tiny_model(family)
    tensors = Injection(model, [genotype(*ops)], [0], "eager").tensors(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.normal_(0.0, 0.3, generator=generator)
    return model, tensors


def places(model, taps):
    """Full name of the module and rows of its output, by layer and tap."""
    anatomy = Anatomy(model)
    full = {module: name for name, module in model.named_modules()}
    found = {}
    for layer in range(len(anatomy.layers)):
        for tap in taps:
            point = anatomy.point(layer, tap)
            part = point.part
            first = sum(part.widths[: part.index]) if part else 0
            found[layer, tap] = full[point.module], slice(first, first + point.width)
    return found


def by_module(found):
    """The places in each module."""
    out = {}
    for place, (name, _) in found.items():
        out.setdefault(name, []).append(place)
    return out


def own_tensors(tensors, layer, *words):
    """The parameters of an op in a layer, by their last name."""
    prefix = ".".join(["layers", str(layer), *words, ""])
    return {name.rpartition(".")[2]: t for name, t in tensors.items() if name.startswith(prefix)}


def assert_same_logits(model, other):
    batch = tiny_batch(model)
    with torch.no_grad():
        logits, expected = model(**batch).logits, other(**batch).logits
        plain = tiny_model(model.config.model_type)(**batch).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert (logits - plain).abs().max() > 1e-2


@torch.no_grad()
def test_lora_with_a_rank_and_a_scale_for_each_matrix(family):
    """Several on one fused module are one of theirs: ranks side by side, scales in B."""
    ops = [op(Form.LOWRANK, LINEAR_INPUT[tap], tap, SIZES[tap], scale=SCALES[tap]) for tap in SIZES]
    model, tensors = with_ops(family, *ops)
    found = places(model, SIZES)
    modules = {
        name: [(layer, tap) for layer, tap in where if SIZES[tap][layer]]
        for name, where in by_module(found).items()
    }
    modules = {name: where for name, where in modules.items() if where}
    ranks = {name: sum(SIZES[tap][i] for i, tap in where) for name, where in modules.items()}
    scales = {name: SCALES[where[0][1]] for name, where in modules.items()}
    config = LoraConfig(
        target_modules=list(modules),
        rank_pattern={f"^{re.escape(name)}$": rank for name, rank in ranks.items()},
        alpha_pattern={f"^{re.escape(name)}$": scales[name] * r for name, r in ranks.items()},
        fan_in_fan_out=family == "gpt2",
    )
    theirs = get_peft_model(tiny_model(family), config)
    for name, where in modules.items():
        lora = theirs.base_model.model.get_submodule(name)
        down, up = lora.lora_A["default"].weight, lora.lora_B["default"].weight
        up.zero_()
        first = 0
        for layer, tap in where:
            own = own_tensors(tensors, layer, "lowrank", LINEAR_INPUT[tap], tap)
            rank = slice(first, first := first + SIZES[tap][layer])
            down[rank] = own["a"]
            up[found[layer, tap][1], rank] = own["b"].T * SCALES[tap] / scales[name]
    assert_same_logits(model, theirs)


@torch.no_grad()
def test_dora(family):
    ops = [op(Form.DORA, LINEAR_INPUT[tap], tap, 3, scale=2.0) for tap in (Tap.Q, Tap.FFN_OUT)]
    model, tensors = with_ops(family, *ops)
    found = places(model, (Tap.Q, Tap.FFN_OUT))
    config = LoraConfig(
        target_modules=[name for name, _ in found.values()],
        r=3,
        lora_alpha=6,
        use_dora=True,
        fan_in_fan_out=family == "gpt2",
    )
    theirs = get_peft_model(tiny_model(family), config)
    for (layer, tap), (name, rows) in found.items():
        lora = theirs.base_model.model.get_submodule(name)
        own = own_tensors(tensors, layer, "dora", LINEAR_INPUT[tap], tap)
        lora.lora_A["default"].weight.copy_(own["a"])
        lora.lora_B["default"].weight[rows] = own["b"].T
        magnitude = lora.lora_magnitude_vector["default"].weight
        magnitude[rows] += own["magnitude"][0]  # theirs starts at the norm of the weights
    assert_same_logits(model, theirs)


# Theirs cuts one pair of matrices to every weight; so that it can be ours, all have one shape.
@pytest.mark.parametrize("family", as_params(FAMILIES))
def test_vera(family):
    model, tensors = with_ops(
        family, *(op(Form.VERA, Tap.ATTN_IN, tap, 5) for tap in (Tap.Q, Tap.V))
    )
    found = places(model, (Tap.Q, Tap.V))
    config = VeraConfig(target_modules=[name for name, _ in found.values()], r=5)
    theirs = get_peft_model(tiny_model(family), config)
    with torch.no_grad():
        for (layer, tap), (name, _) in found.items():
            vera = theirs.base_model.model.get_submodule(name)
            own = own_tensors(tensors, layer, "vera", Tap.ATTN_IN, tap)
            vera.vera_lambda_d["default"].copy_(own["lambda_d"][:, 0])
            vera.vera_lambda_b["default"].copy_(own["b"][0])
            vera.vera_A["default"].copy_(random_factor("down", 5, D_MODEL))
            vera.vera_B["default"].copy_(random_factor("up", 5, D_MODEL).T)
    assert_same_logits(model, theirs)


# Theirs is the product for a whole module, so that of a part of one is another one.
@pytest.mark.parametrize("family", as_params(name for name in EVERY if name not in FUSED))
@torch.no_grad()
def test_lokr(family):
    """With a whole second factor, theirs is a Kronecker product with a square first factor."""
    taps = (Tap.Q, Tap.FFN_OUT)
    ops = [op(Form.KRONECKER, LINEAR_INPUT[tap], tap, 4, scale=2.0) for tap in taps]
    model, tensors = with_ops(family, *ops)
    found = places(model, taps)
    names = [name for name, _ in found.values()]
    config = LoKrConfig(target_modules=names, r=D_FFN, alpha=2 * D_FFN, decompose_factor=4)
    theirs = get_peft_model(tiny_model(family), config)
    for (layer, tap), (name, _) in found.items():
        lokr = theirs.base_model.model.get_submodule(name)
        own = own_tensors(tensors, layer, "kronecker", LINEAR_INPUT[tap], tap)
        lokr.lokr_w1["default"].copy_(own["a"])
        lokr.lokr_w2["default"].copy_(own["b"])
    assert_same_logits(model, theirs)


@torch.no_grad()
def test_ia3(family):
    taps = (Tap.K, Tap.V, Tap.FFN_MID)
    model, tensors = with_ops(family, *(op(Form.SCALE, tap, tap) for tap in taps))
    found = places(model, taps)
    config = IA3Config(
        target_modules=[name for name, _ in found.values()],
        feedforward_modules=[name for (_, tap), (name, _) in found.items() if tap is Tap.FFN_MID],
        fan_in_fan_out=family == "gpt2",
    )
    theirs = get_peft_model(tiny_model(family), config)
    for (layer, tap), (name, rows) in found.items():
        vector = theirs.base_model.model.get_submodule(name).ia3_l["default"].view(-1)
        vector[rows] = own_tensors(tensors, layer, "scale", tap, tap)["factors"][0]
    assert_same_logits(model, theirs)


@pytest.mark.parametrize("family", as_params([*FAMILIES, *HEADLESS]))
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
def test_ln_tuning(family):
    """A trained LayerNorm, g x + b, is a scale and a bias of what the pretrained one puts out."""
    taps = {Tap.ATTN_NORM: "attn_norm", Tap.FFN_NORM: "ffn_norm"}
    ops = [op(form, tap, tap) for tap in taps for form in (Form.SCALE, Form.BIAS)]
    model, tensors = with_ops(family, *ops)
    anatomy = Anatomy(model)
    full = {module: name for name, module in model.named_modules()}
    places = {
        full[anatomy.module(layer, role)]: (layer, tap)
        for layer in range(len(anatomy.layers))
        for tap, role in taps.items()
    }
    theirs = get_peft_model(tiny_model(family), LNTuningConfig(target_modules=list(places)))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, (layer, tap) in places.items():
            norm = theirs.base_model.model.get_submodule(name).ln_tuning_layers["default"]
            old = model.get_submodule(name)
            # Away from 0: a scale cannot bring back what a gain of 0 has put out.
            old.weight.copy_(old.weight.sign() * (old.weight.abs() + 0.1))
            theirs.base_model.model.get_submodule(name).base_layer.weight.copy_(old.weight)
            norm.weight.copy_(torch.randn(old.weight.shape, generator=generator) + 2)
            norm.bias.copy_(torch.randn(old.bias.shape, generator=generator))
            gain = norm.weight / old.weight
            tensors[f"layers.{layer}.scale.{tap}.{tap}.factors"].copy_(gain[None])
            bias = norm.bias / gain - old.bias
            tensors[f"layers.{layer}.bias.{tap}.{tap}.bias"].copy_(bias[None])
    assert_same_logits(model, theirs)
