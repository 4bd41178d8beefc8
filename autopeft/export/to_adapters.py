"""A genotype as a configuration of the library `adapters`, to train it there.

The library pins an older transformers, so it is never imported; the keys are those of its
configuration classes in the version below.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autopeft.files import write_atomic
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.shape import ModelShape
from autopeft.space.taps import LINEAR_INPUT, Tap

VERSION = "1.3.0"
FILE = "adapters_config.json"

_BOTTLENECKS: dict[tuple[Tap, Tap], dict[str, Any]] = {
    (Tap.ATTN_OUT, Tap.ATTN_OUT): {"mh_adapter": True, "output_adapter": False},
    (Tap.FFN_OUT, Tap.FFN_OUT): {"mh_adapter": False, "output_adapter": True},
    (Tap.FFN_NORM, Tap.FFN_OUT): {
        "mh_adapter": False,
        "output_adapter": True,
        "original_ln_before": True,
    },
    (Tap.FFN_IN, Tap.FFN_OUT): {
        "mh_adapter": False,
        "output_adapter": True,
        "is_parallel": True,
        "init_weights": "mam_adapter",
    },
}
"""By taps read and written."""
_NONLINEARITIES = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "tanh": "tanh",
    "silu": "swish",
}
_LORA_PLACES = {Tap.FFN_UP: "intermediate_lora", Tap.FFN_OUT: "output_lora"}


def adapters_obstacle(op: Op, shape: ModelShape) -> str | None:
    """Why no configuration of the library is this op; None if one is."""
    sizes = {size for size in op.sizes if size}
    if op.scale == "gated":
        return "its gates are not those of adapters"
    if op.form is Form.BOTTLENECK:
        if (op.read, op.write) in _BOTTLENECKS:
            return None
        return "adapters has bottlenecks behind attention and FFN, or beside the FFN"
    if op.form is Form.PREFIX:
        if op.write is not Tap.HEAD:
            return "adapters has one prefix for both kinds of attention, or for self-attention"
        return "adapters has one prefix length in all layers" if len(sizes) > 1 else None
    if op.form is Form.LOWRANK:
        places = (Tap.Q, Tap.K, Tap.V, *_LORA_PLACES)
        if op.write not in places or LINEAR_INPUT.get(op.write) is not op.read:
            return f"adapters has LoRA at {', '.join(places)}"
        decoding = op.sizes[shape.n_encoder_layers :] if shape.n_encoder_layers else ()
        if op.write not in _LORA_PLACES and any(decoding):
            return "adapters puts LoRA of a decoder into its attention to the encoder, too"
        if len(sizes) > 1:
            return "adapters has one rank in all layers"
        return "adapters learns no scale of LoRA" if op.scale == "learned" else None
    return f"no configuration of adapters is a {op.form}"


def adapters_together(genotype: Genotype) -> list[str]:
    """What the library can do, but not together."""
    loras = [op for op in genotype.ops if op.form is Form.LOWRANK]
    problems = []
    if len({(op.sizes, op.scale) for op in loras}) > 1:
        names = ", ".join(str(op.write) for op in loras)
        problems.append(f"lowrank {names}: adapters has one rank and scale in one model")
    places = (
        (Form.BOTTLENECK, Tap.ATTN_OUT),
        (Form.BOTTLENECK, Tap.FFN_OUT),
        (Form.PREFIX, Tap.HEAD),
    )
    return problems + [
        f"{form} {tap}: adapters has one of them at a place"
        for form, tap in places
        if sum(op.form is form and op.write is tap for op in genotype.ops) > 1
    ]


def write_adapters(folder: Path, genotype: Genotype, shape: ModelShape) -> None:
    """Write the configuration; `adapters.AdapterConfig.load` reads it."""
    text = json.dumps(adapters_config(genotype, shape), indent=2)
    write_atomic(folder / FILE, text + "\n")


def adapters_config(genotype: Genotype, shape: ModelShape) -> dict[str, Any]:
    """The configuration, a union if the genotype has several methods."""
    configs = list(_configs(genotype, shape))
    config = configs[0] if len(configs) == 1 else {"architecture": "union", "configs": configs}
    return {**config, "version": f"adapters.{VERSION}"}


def _configs(genotype: Genotype, shape: ModelShape) -> Iterator[dict[str, Any]]:
    loras = [op for op in genotype.ops if op.form is Form.LOWRANK]
    if loras:
        yield _lora(loras)
    for op in genotype.ops:
        if op.form is Form.PREFIX:
            length = max(op.sizes)
            leave_out = _leave_out(op)
            flat = {"architecture": "prefix_tuning", "flat": True, "cross_prefix": False}
            yield {**flat, "prefix_length": length, "leave_out": leave_out}
        elif op.form is Form.BOTTLENECK:
            yield _bottleneck(op, shape.widths[op.write])


def _lora(ops: Sequence[Op]) -> dict[str, Any]:
    rank = max(ops[0].sizes)
    writes = {op.write for op in ops}
    matrices = [str(tap) for tap in (Tap.Q, Tap.K, Tap.V) if tap in writes]
    return {
        "architecture": "lora",
        "selfattn_lora": bool(matrices),
        **{key: tap in writes for tap, key in _LORA_PLACES.items()},
        "attn_matrices": matrices,
        "r": rank,
        "alpha": float(ops[0].scale) * rank,
        "leave_out": _leave_out(ops[0]),
    }


def _bottleneck(op: Op, width: int) -> dict[str, Any]:
    # The library rounds width / factor down.
    factors = {str(i): width / (size + 0.5) for i, size in enumerate(op.sizes) if size}
    one = len(set(factors.values())) == 1
    return {
        "architecture": None,
        **_BOTTLENECKS[op.read, op.write],
        "reduction_factor": next(iter(factors.values())) if one else factors,
        "non_linearity": _NONLINEARITIES[op.activation or ""],
        "scaling": op.scale,
        "leave_out": _leave_out(op),
    }


def _leave_out(op: Op) -> list[int]:
    return [layer for layer, size in enumerate(op.sizes) if not size]
