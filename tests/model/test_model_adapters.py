"""The same weights in the library `adapters` gave the same logits.

It pins an older transformers, so what it computed is kept as tensors: see
`tests/golden/make_adapters.py`.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from autopeft.model.inject import Injection
from autopeft.space.forms import Activation, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.taps import Tap

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "adapters.safetensors")
N_LAYERS, D_MODEL, RANK, LENGTH = 2, 16, 4, 3


def golden(prefix):
    """The tensors below a prefix, by the rest of their names."""
    return {
        key.removeprefix(f"{prefix}."): tensor
        for key, tensor in GOLDEN.items()
        if key.startswith(f"{prefix}.")
    }


def tiny_bert():
    config = BertConfig(
        vocab_size=40,
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).eval()
    model.load_state_dict(golden("base"))
    return model


def batch(*, padded):
    mask = GOLDEN["attention_mask"]
    return {
        "input_ids": GOLDEN["input_ids"],
        "attention_mask": mask if padded else torch.ones_like(mask),
    }


def bottleneck(read, write, activation, scale=1.0):
    return Op(Form.BOTTLENECK, read, write, (RANK,) * N_LAYERS, activation, scale)


def compacter(read, write):
    return Op(Form.PHM, read, write, (RANK,) * N_LAYERS, Activation.GELU)


def lora(write):
    return Op(Form.LOWRANK, Tap.ATTN_IN, write, (8,) * N_LAYERS, scale="gated")


ATTN, FFN = "attention.output.adapters.x", "output.adapters.x"
PREFIX = Op(Form.PREFIX, Tap.HEAD, Tap.HEAD, (LENGTH,) * N_LAYERS)
GATED_PREFIX = replace(PREFIX, scale="gated")
PARALLEL = bottleneck(Tap.FFN_IN, Tap.FFN_OUT, Activation.RELU, 4.0)
METHODS = {
    "seq_bn": {FFN: bottleneck(Tap.FFN_NORM, Tap.FFN_OUT, Activation.RELU)},
    "double_seq_bn": {
        ATTN: bottleneck(Tap.ATTN_OUT, Tap.ATTN_OUT, Activation.SILU),
        FFN: bottleneck(Tap.FFN_OUT, Tap.FFN_OUT, Activation.SILU),
    },
    "par_bn": {FFN: PARALLEL},
    "prefix": {"prefix": PREFIX},
    "prefix_mlp": {"prefix": replace(PREFIX, form=Form.PREFIX_MLP)},
    "mam": {"prefix": PREFIX, FFN: PARALLEL},
    "compacter": {
        ATTN: compacter(Tap.ATTN_OUT, Tap.ATTN_OUT),
        FFN: compacter(Tap.FFN_OUT, Tap.FFN_OUT),
    },
    "compacter_plus_plus": {FFN: compacter(Tap.FFN_NORM, Tap.FFN_OUT)},
    "unipelt": {
        "prefix": GATED_PREFIX,
        FFN: replace(
            bottleneck(Tap.FFN_NORM, Tap.FFN_OUT, Activation.RELU),
            scale="gated",
            sizes=(1,) * N_LAYERS,
        ),
        "attention.self.query.loras.x": lora(Tap.Q),
        "attention.self.value.loras.x": lora(Tap.V),
    },
}
"""By module of the library."""


def adapter(theirs, layer, module):
    """A bottleneck's weights in the order of ours."""
    name = f"bert.encoder.layer.{layer}.{module}"
    return {
        "down": theirs[f"{name}.adapter_down.0.weight"],
        "down_bias": theirs[f"{name}.adapter_down.0.bias"],
        "up": theirs[f"{name}.adapter_up.weight"].T,
        "up_bias": theirs[f"{name}.adapter_up.bias"],
    }


def gate(theirs, name):
    """A gate's weights in the names of ours."""
    return {f"gate.{part}": theirs[f"{name}.{part}"] for part in ("weight", "bias")}


def low_rank(theirs, layer, module):
    name = f"bert.encoder.layer.{layer}.{module}"
    return {"a": theirs[f"{name}.lora_A"], "b": theirs[f"{name}.lora_B"].T}


def phm(theirs, layer, module):
    """Factors of all products one after the other."""
    name = f"bert.encoder.layer.{layer}.{module}"
    return {
        "down_in": theirs[f"{name}.adapter_down.0.W_left"],
        "down_out": theirs[f"{name}.adapter_down.0.W_right"],
        "down_bias": theirs[f"{name}.adapter_down.0.b"],
        "up_in": theirs[f"{name}.adapter_up.W_left"],
        "up_out": theirs[f"{name}.adapter_up.W_right"],
        "up_bias": theirs[f"{name}.adapter_up.b"],
    }


def prefix(theirs, layer, _):
    """All layers are in one vector: token, then layer and key or value, then head."""
    (flat,) = [tensor for name, tensor in theirs.items() if name.endswith("control_trans")]
    by_layer = flat.view(LENGTH, N_LAYERS, 2, D_MODEL)
    return {"keys": by_layer[:, layer, 0], "values": by_layer[:, layer, 1]}


MLP = "bert.encoder.layer.0.attention.self.prefix_tuning.pool.prefix_tunings.x.self_prefix"


def prefix_mlp(theirs, layer, _):
    """A layer's part of the last projection; keys and values side by side."""
    weight, bias = (theirs[f"{MLP}.control_trans.2.{part}"] for part in ("weight", "bias"))
    of_layers = slice(2 * layer * D_MODEL, 2 * (layer + 1) * D_MODEL)
    return {"up": weight[of_layers].T, "up_bias": bias[of_layers]}


@torch.no_grad()
def fill_mlp(theirs, own):
    """What all layers share."""
    shared = {
        "embedding": "wte.weight",
        "down": "control_trans.0.weight",
        "down_bias": "control_trans.0.bias",
    }
    for ours, name in shared.items():
        target = own[f"shared.prefix_mlp.{ours}"]
        target.copy_(theirs[f"{MLP}.{name}"].view_as(target))
    return {f"shared.prefix_mlp.{ours}" for ours in shared}


READ = {
    Form.PREFIX_MLP: prefix_mlp,
    Form.PREFIX: prefix,
    Form.BOTTLENECK: adapter,
    Form.LOWRANK: low_rank,
    Form.PHM: phm,
}
GATES = {"prefix": "attention.self.prefix_tuning.prefix_gates.x"}
"""Where they are, if not with what they scale."""


def with_their_weights(method):
    theirs, model = golden(method), tiny_bert()
    ops = METHODS[method]
    genotype = Genotype(N_LAYERS, tuple(ops.values()), learning_rate=1e-3)
    own = Injection(model, [genotype], [0], "eager").tensors(0)
    filled = set()
    for module, op in ops.items():
        for layer in range(N_LAYERS):
            parts = READ[op.form](theirs, layer, module)
            if op.scale == "gated":
                name = f"bert.encoder.layer.{layer}.{GATES.get(module, f'{module}.gate')}"
                parts |= gate(theirs, name)
            for part, tensor in parts.items():
                (name,) = [
                    name
                    for name in own
                    if name.startswith(f"layers.{layer}.{op.form}.{op.read}.{op.write}.")
                    and name.endswith(f".{part}")
                ]
                with torch.no_grad():
                    own[name].copy_(tensor.view_as(own[name]))
                filled.add(name)
    if "prefix_mlp" in method:
        filled |= fill_mlp(theirs, own)
    if (rule := "shared.phm.rule") in own:
        with torch.no_grad():
            own[rule].copy_(theirs["bert.shared_parameters.x.phm_rule"].view_as(own[rule]))
        filled.add(rule)
    assert filled == set(own)
    return model


@pytest.mark.parametrize(
    ("method", "padded"),
    # Its gates average over padding, too, so that an example depends on its batch.
    [(m, padded) for m in METHODS for padded in (True, False) if (m, padded) != ("unipelt", True)],
)
def test_logits_are_those_of_the_library(method, padded):
    logits = "logits" if padded else "logits_without_padding"
    expected = GOLDEN[f"{method}.{logits}"]
    with torch.no_grad():
        found = with_their_weights(method)(**batch(padded=padded)).logits
        plain = tiny_bert()(**batch(padded=padded)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-2


def test_the_golden_tensors_are_small():
    size = sum(tensor.numel() * tensor.element_size() for tensor in GOLDEN.values())
    assert size < 1_000_000
