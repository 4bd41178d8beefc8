"""A model with the weight matrices of its layers in few bits."""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.errors import ConfigError, DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.computing import Scheme
from autopeft.model.experts import experts
from autopeft.model.quantized_linear import QuantizedLinear, is_packed, library, quantized

FLIPPED = 1e-3
"""Most, of their norm, that weights in few bits may differ by: devices round some to the next."""


def quantize(model: PreTrainedModel, scheme: Scheme, fresh: Collection[str] = ()) -> str:
    """Keep the weight matrices of all layers in few bits, for good.

    Args:
        model: with all weights, on the CPU: so the bits are the same wherever it goes.
        scheme: how.
        fresh: parameters that were not in the checkpoint.

    Returns:
        What the user is told.

    Raises:
        DataError: `bitsandbytes` is missing or does not work here, or there is nothing to quantize.
    """
    before = after = 0
    for name, module in list(quantizable(model, fresh)):
        try:
            packed = QuantizedLinear(module, scheme)
        except (RuntimeError, OSError) as error:
            first = str(error).partition("\n")[0]
            raise DataError(
                f"quantize: {scheme}: bitsandbytes does not work here: {first}"
            ) from error
        packed.train(module.training)
        before, after = before + module.weight.nbytes, after + packed.packed_bytes
        model.set_submodule(name, packed)
    if not after:
        raise DataError(
            f"quantize: {scheme}: the layers of this {model.config.model_type} model have no "
            "weight matrices of a kind that can be kept in few bits"
        )
    mib = 2**20
    whole = sum(weights.nbytes for weights in experts(model)) / mib
    return (
        f"the weight matrices of the layers are kept in {scheme}: {after / mib:,.1f} MiB, "
        f"{before / mib:,.1f} MiB in fp32"
        + (f"; those of experts are not, {whole:,.1f} MiB in fp32" if whole else "")
    )


def quantizable(
    model: PreTrainedModel, fresh: Collection[str] = ()
) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """The weight matrices that are kept in few bits, by name: those of the layers.

    What transformers keeps in fp32 in any case (a part of T5's FFN) is left alone, as it is there.
    """
    layers = Anatomy(model, fresh).layers
    inside = {module for layer in layers for module in layer.modules()}
    kept = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    for name, module in model.named_modules():
        is_matrix = module in inside and type(module) in (nn.Linear, Conv1D)
        if is_matrix and kept.isdisjoint(name.split(".")):
            yield name, module


def in_full(model: nn.Module) -> list[str]:
    """Weight matrices of a model in few bits that are not, by name."""
    return [name for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)]


def scheme_of(model: PreTrainedModel) -> Scheme | None:
    """How `from_pretrained` was told to keep weight matrices in few bits, if it was.

    Raises:
        ConfigError: in a way that is none of ours.
    """
    told = getattr(model.config, "quantization_config", None)
    if told is None:
        return None
    told = told if isinstance(told, dict) else told.to_dict()
    is_nf4 = told.get("load_in_4bit") and told.get("bnb_4bit_quant_type") == "nf4"
    if not is_nf4 or told.get("bnb_4bit_use_double_quant"):
        raise ConfigError(
            "the model is in few bits in a way that `autopeft.load` cannot make again, allowed: "
            'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), without double '
            "quantization"
        )
    return "nf4"


def check_bits(model: nn.Module, ours: nn.Module) -> None:
    """See that matrices which transformers keeps in nf4 are those that ours are, as they are.

    Args:
        model: as `from_pretrained` made it of a `BitsAndBytesConfig`.
        ours: the same model, quantized here.

    Raises:
        ConfigError: other ones are.
        DataError: they are those of another checkpoint, or rounded before or since.
    """
    packed = {name for name, module in model.named_modules() if is_packed(module)}
    kept = dict(quantized(ours))
    if other := sorted(packed ^ kept.keys()):
        raise ConfigError(
            f"`autopeft.load` keeps other weight matrices in few bits, {', '.join(other[:3])} "
            f"among them; give BitsAndBytesConfig llm_int8_skip_modules={in_full(ours)}"
        )
    for name, its in kept.items():
        own, weight = _numbers(name, model.get_submodule(name)), its.weight
        if own.shape != weight.shape or not (own - weight).norm() <= FLIPPED * weight.norm():
            raise DataError(
                f"`{name}` is not what the backbone has in nf4: that is another one, which "
                'backbone=... gives, or was loaded without dtype="auto"'
            )


def _numbers(name: str, module: nn.Module) -> Tensor:
    """What the bits of a layer of bitsandbytes stand for, in fp32 on the CPU."""
    weight: Any = module.weight
    # Its own way back leaves the scales in another order, and the layer with them.
    if getattr(weight.quant_state, "packing_format_for_cpu", False):
        raise DataError(
            f"a pass on the CPU has rounded the scales of `{name}` to bf16, for good; what keeps "
            "them is support_avx512bf16_for_cpu = False of each layer of bitsandbytes, before it"
        )
    made = library("nf4").functional.dequantize_4bit(weight.data, weight.quant_state)
    numbers: Tensor = made.float().cpu()
    return numbers


def dequantize(model: PreTrainedModel) -> None:
    """Put plain weight matrices in the place of those in few bits, with the same numbers."""
    for name, module in list(quantized(model)):
        model.set_submodule(name, module.plain())


def check_gradients(model: nn.Module) -> None:
    """See that a gradient passes every weight matrix in few bits.

    Some ways of keeping them detach their output without a word, and ops below would never learn.

    Raises:
        DataError: there is one that it does not pass, or that does not work on its device.
    """
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, nn.Linear) or type(weight) is nn.Parameter:
            continue
        dtype = weight.dtype if weight is not None and weight.is_floating_point() else None
        device = None if weight is None else weight.device
        x = torch.ones(1, module.in_features, dtype=dtype, device=device, requires_grad=True)
        try:
            with torch.enable_grad():
                out = module(x)
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise DataError(f"`{name}` cannot be computed on {device}: {first}") from error
        if not out.requires_grad:
            raise DataError(
                f"`{name}`, a {type(module).__name__} of {type(weight).__name__}, passes no "
                "gradient to its input, so what is below it could not be trained"
            )
