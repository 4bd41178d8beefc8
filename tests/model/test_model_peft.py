"""The same weights in live `peft` give the same logits."""

import re

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoKrConfig, LoraConfig, VeraConfig, get_peft_model
from tiny import D_FFN, D_MODEL, DECODERS, FAMILIES, genotype, op, tiny_batch, tiny_model

from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.ops.vera import random_factor
from autopeft.space.forms import Form
from autopeft.space.taps import LINEAR_INPUT, Tap

# peft asks a model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ROLES = {Tap.Q: "q", Tap.V: "v", Tap.ATTN_OUT: "o", Tap.FFN_UP: "up", Tap.FFN_OUT: "down"}
SIZES = {
    Tap.Q: (1, 8, 0),
    Tap.V: (3, 0, 16),
    Tap.ATTN_OUT: (2, 5, 9),
    Tap.FFN_UP: (0, 4, 11),
    Tap.FFN_OUT: (7, 1, 2),
}
SCALES = {Tap.Q: 1.0, Tap.V: 2.0, Tap.ATTN_OUT: 0.5, Tap.FFN_UP: 4.0, Tap.FFN_OUT: 1.5}


@pytest.fixture(params=[*FAMILIES, *DECODERS])
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


def module_names(model):
    """Full names by (layer, role)."""
    anatomy = Anatomy(model)
    full = {module: name for name, module in model.named_modules()}
    return {
        (layer, role): full[anatomy.module(layer, role)]
        for layer in range(len(anatomy.layers))
        for role in ("k", *ROLES.values())
    }


def assert_same_logits(model, other):
    batch = tiny_batch(model)
    with torch.no_grad():
        logits, expected = model(**batch).logits, other(**batch).logits
        plain = tiny_model(model.config.model_type)(**batch).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert (logits - plain).abs().max() > 1e-2


def test_lora_with_a_rank_and_a_scale_for_each_matrix(family):
    ops = [op(Form.LOWRANK, LINEAR_INPUT[tap], tap, SIZES[tap], scale=SCALES[tap]) for tap in ROLES]
    model, tensors = with_ops(family, *ops)
    names = module_names(model)
    places = {
        names[layer, role]: (layer, tap, rank)
        for tap, role in ROLES.items()
        for layer, rank in enumerate(SIZES[tap])
        if rank
    }
    config = LoraConfig(
        target_modules=list(places),
        rank_pattern={f"^{re.escape(name)}$": rank for name, (_, _, rank) in places.items()},
        alpha_pattern={
            f"^{re.escape(name)}$": SCALES[tap] * rank for name, (_, tap, rank) in places.items()
        },
    )
    theirs = get_peft_model(tiny_model(family), config)
    for name, (layer, tap, _) in places.items():
        lora = theirs.base_model.model.get_submodule(name)
        own = {
            key.rpartition(".")[2]: tensor
            for key, tensor in tensors.items()
            if key.startswith(f"layers.{layer}.lowrank.{LINEAR_INPUT[tap]}.{tap}.")
        }
        lora.lora_A["default"].weight.data.copy_(own["a"])
        lora.lora_B["default"].weight.data.copy_(own["b"].T)
    assert_same_logits(model, theirs)


def test_dora(family):
    ops = [op(Form.DORA, LINEAR_INPUT[tap], tap, 3, scale=2.0) for tap in (Tap.Q, Tap.FFN_OUT)]
    model, tensors = with_ops(family, *ops)
    names = module_names(model)
    places = {names[i, ROLES[op.write]]: (i, op) for op in ops for i in range(3)}
    config = LoraConfig(target_modules=list(places), r=3, lora_alpha=6, use_dora=True)
    theirs = get_peft_model(tiny_model(family), config)
    with torch.no_grad():
        for name, (layer, one) in places.items():
            lora = theirs.base_model.model.get_submodule(name)
            own = {
                key.rpartition(".")[2]: tensor
                for key, tensor in tensors.items()
                if key.startswith(f"layers.{layer}.dora.{one.read}.{one.write}.")
            }
            lora.lora_A["default"].weight.copy_(own["a"])
            lora.lora_B["default"].weight.copy_(own["b"].T)
            magnitude = lora.lora_magnitude_vector["default"].weight
            magnitude.add_(own["magnitude"][0])  # theirs starts at the norm of the weights
    assert_same_logits(model, theirs)


# Theirs cuts one pair of matrices to every weight; so that it can be ours, all have one shape.
@pytest.mark.parametrize("family", FAMILIES)
def test_vera(family):
    model, tensors = with_ops(
        family, *(op(Form.VERA, Tap.ATTN_IN, tap, 5) for tap in (Tap.Q, Tap.V))
    )
    names = module_names(model)
    places = {names[i, ROLES[tap]]: (i, tap) for tap in (Tap.Q, Tap.V) for i in range(3)}
    theirs = get_peft_model(tiny_model(family), VeraConfig(target_modules=list(places), r=5))
    with torch.no_grad():
        for name, (layer, tap) in places.items():
            vera = theirs.base_model.model.get_submodule(name)
            path = f"layers.{layer}.vera.attn_in.{tap}"
            vera.vera_lambda_d["default"].copy_(tensors[f"{path}.d"][:, 0])
            vera.vera_lambda_b["default"].copy_(tensors[f"{path}.b"][0])
            vera.vera_A["default"].copy_(random_factor("down", 5, D_MODEL))
            vera.vera_B["default"].copy_(random_factor("up", 5, D_MODEL).T)
    assert_same_logits(model, theirs)


def test_lokr(family):
    """With a whole second factor, theirs is a Kronecker product with a square first factor."""
    ops = [op(Form.KRONECKER, LINEAR_INPUT[tap], tap, 4, scale=2.0) for tap in (Tap.Q, Tap.FFN_OUT)]
    model, tensors = with_ops(family, *ops)
    names = module_names(model)
    places = {names[i, ROLES[op.write]]: (i, op) for op in ops for i in range(3)}
    config = LoKrConfig(target_modules=list(places), r=D_FFN, alpha=2 * D_FFN, decompose_factor=4)
    theirs = get_peft_model(tiny_model(family), config)
    with torch.no_grad():
        for name, (layer, one) in places.items():
            lokr = theirs.base_model.model.get_submodule(name)
            path = f"layers.{layer}.kronecker.{one.read}.{one.write}.x2"
            lokr.lokr_w1["default"].copy_(tensors[f"{path}.a"])
            lokr.lokr_w2["default"].copy_(tensors[f"{path}.b"])
    assert_same_logits(model, theirs)


def test_ia3(family):
    taps = {Tap.K: "k", Tap.V: "v", Tap.FFN_MID: "down"}
    model, tensors = with_ops(family, *(op(Form.SCALE, tap, tap) for tap in taps))
    names = module_names(model)
    places = {names[layer, role]: (layer, tap) for tap, role in taps.items() for layer in range(3)}
    down = [name for name, (_, tap) in places.items() if tap is Tap.FFN_MID]
    config = IA3Config(target_modules=list(places), feedforward_modules=down)
    theirs = get_peft_model(tiny_model(family), config)
    for name, (layer, tap) in places.items():
        vector = theirs.base_model.model.get_submodule(name).ia3_l["default"]
        vector.data.copy_(tensors[f"layers.{layer}.scale.{tap}.{tap}.factors"].view_as(vector))
    assert_same_logits(model, theirs)


@pytest.mark.parametrize("family", FAMILIES)
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
