"""A frozen weight matrix in few bits, multiplied with as the numbers that the bits stand for.

`bitsandbytes` makes the bits and reads them. Its layers are not used: on CPUs with AVX512-BF16 they
rewrite their weights for bf16 once an input needs no gradient, so frozen rows would have other bits
than rows of a trial, and its 8-bit layer rounds states as well, with the columns of LLM.int8() that
it leaves alone chosen by all rows of a batch, so that trials would not be independent. Here a row's
product depends on that row alone, and nothing is kept for the backward pass but the bits.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from autopeft.errors import DataError
from autopeft.model.computing import Scheme

BLOCK = 64
"""Weights of NF4 that share a scale."""
BYTES: Mapping[Scheme, float] = {"nf4": 0.5 + 4 / BLOCK, "int8": 1.0}
"""Of a weight; the scales of int8, one for each output, are left aside."""


class QuantizedLinear(nn.Linear):
    """A frozen weight matrix in few bits.

    `weight` is made of them each time it is read, in the precision of the products; writing into
    it changes nothing.

    Args:
        module: whose weights are taken; a `Conv1D` keeps them the other way round.
        scheme: how they are kept.

    Attributes:
        scheme: see there.
        turned: it was a `Conv1D`.
        codes: the bits.
        scales: in fp32 whatever the precision is: one for each block, or for each output.
    """

    codes: Tensor
    scales: Tensor
    _like: Tensor

    def __init__(self, module: nn.Linear | Conv1D, scheme: Scheme) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would make a weight
        self.scheme, self.turned = scheme, isinstance(module, Conv1D)
        weight = module.weight.detach()
        weight = (weight.T if self.turned else weight).contiguous()
        self.out_features, self.in_features = weight.shape
        codes, scales = _pack(weight, scheme)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("_like", weight.new_empty(0), persistent=False)
        self.register_parameter("bias", module.bias)

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:  # type: ignore[override]
        """The numbers that the bits stand for."""
        shape = torch.Size((self.out_features, self.in_features))
        return _unpack(self.codes, self.scales, self.scheme, shape, self._like.dtype)

    @property
    def packed_bytes(self) -> int:
        """Memory that weights and scales take."""
        return self.codes.nbytes + self.scales.nbytes

    def forward(self, input: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row d_out"]:  # noqa: A002
        """X W^T + b."""
        out: Tensor = _Product.apply(input, self.bias, self)  # type: ignore[no-untyped-call]
        return out

    def plain(self) -> nn.Linear | Conv1D:
        """A module of the kind that it was made of, with the numbers that the bits stand for."""
        weight, has_bias = self.weight, self.bias is not None
        made: nn.Linear | Conv1D
        if self.turned:
            made = Conv1D(self.out_features, self.in_features)
        else:
            made = nn.Linear(self.in_features, self.out_features, bias=has_bias, device="meta")
        own = weight.T.contiguous() if self.turned else weight
        made.weight = nn.Parameter(own, requires_grad=False)
        if has_bias:
            made.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return made.train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":  # noqa: FBT001, FBT002
        """Move as any module does, but let no cast reach the scales."""
        scales = self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales = scales.to(self.codes.device)
        return self


class _Product(Function):
    """Of states and weights in few bits, which are read again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, module: QuantizedLinear) -> Tensor:
        """X W^T + b."""
        ctx.module = module
        return linear(x, module.weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """G W, and for a bias that is trained the sum of G."""
        (grad,) = grads
        of_x, of_bias, _ = ctx.needs_input_grad
        return (
            grad @ ctx.module.weight if of_x else None,
            grad.flatten(0, -2).sum(0) if of_bias else None,
            None,
        )


def quantized(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear]]:
    """The weight matrices in few bits, by name."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            yield name, module


def is_packed(module: nn.Module) -> bool:
    """Whether a module is a weight matrix that `bitsandbytes` keeps in few bits, or is to."""
    return isinstance(module, nn.Linear) and type(module).__module__.startswith("bitsandbytes.")


def _pack(weight: Float[Tensor, "d_out d_in"], scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Bits and scales of a weight matrix."""
    functional = library(scheme).functional
    if scheme == "nf4":
        codes, state = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
        return codes, state.absmax
    codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
    return codes, scales


def _unpack(
    codes: Tensor, scales: Tensor, scheme: Scheme, shape: torch.Size, dtype: torch.dtype
) -> Float[Tensor, "d_out d_in"]:
    """What bits and scales stand for."""
    functional = library(scheme).functional
    if scheme == "int8":
        return functional.int8_vectorwise_dequant(codes, scales).to(dtype)  # type: ignore[no-any-return]
    state = functional.QuantState(scales, shape, blocksize=BLOCK, quant_type="nf4", dtype=dtype)
    return functional.dequantize_4bit(codes, state)  # type: ignore[no-any-return]


def be_quiet() -> None:
    """Let `bitsandbytes` not warn, once imported, of a product that is downloaded and not used."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def library(scheme: Scheme) -> ModuleType:
    """Of weights in few bits.

    Raises:
        DataError: it is not installed.
    """
    be_quiet()
    try:
        import bitsandbytes  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DataError(
            f"quantize: {scheme} needs bitsandbytes: pip install 'autopeft[quantization]'"
        ) from error
    found: ModuleType = bitsandbytes
    return found
