"""Bottleneck adapter: h + s (act(x Wd + bd) Wu + bu) (Houlsby et al. 2019; He et al. 2022)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autopeft.ops.affine import Affine
from autopeft.ops.base import Declared, Member, StackedOp
from autopeft.ops.lowrank import kaiming
from autopeft.space.forms import Activation, Form

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.RELU: functional.relu,
    Activation.GELU: functional.gelu,
    Activation.GELU_NEW: partial(functional.gelu, approximate="tanh"),
    Activation.TANH: torch.tanh,
    Activation.SILU: functional.silu,
}


class Bottleneck(StackedOp):
    """Wd: [member, width, d_read], bd: [member, width, 1], Wu: [member, width, d_write], bu.

    Wu and the biases start at 0, so a fresh adapter is a no-op (the initialisation of He et al.'s
    parallel adapters; Houlsby et al. start sequential ones near it).
    """

    form = Form.BOTTLENECK
    down: nn.Parameter
    down_bias: nn.Parameter
    up: nn.Parameter
    up_bias: nn.Parameter

    def __init__(
        self,
        members: Sequence[Member],
        *,
        layout: Sequence[int],
        d_read: int,
        d_write: int,
        activation: Activation,
    ) -> None:
        super().__init__(members, layout=layout, d_read=d_read, d_write=d_write)
        self.activation = activation

    def declare(self) -> Mapping[str, Declared]:
        """Two projections with their biases."""
        return {
            "down": Declared("size", self.d_read),
            "down_bias": Declared("size", 1, decays=False),
            "up": Declared("size", self.d_write),
            "up_bias": Declared("one", self.d_write, decays=False),
        }

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """The down projection by Kaiming, all else zero."""
        return kaiming(rows, width, generator) if name == "down" else torch.zeros(rows, width)

    def fold(
        self,
        member: int,
        h: Affine,
        *,
        sequential: bool,  # noqa: ARG002
    ) -> Affine:
        """Its neurons stand beside those that h reads, if they have the same activation."""
        factor = self.factor_of(member).double()
        up = factor * self.own("up", member).double()
        up_bias = factor * self.own("up_bias", member).double()
        return h.wider(up.T).shifted(up_bias[0])

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s (act(x Wd + bd) Wu + bu)."""
        up, up_bias = self.scaled(self.up).to(x.dtype), self.scaled(self.up_bias).to(x.dtype)
        hidden = torch.baddbmm(
            self.down_bias.to(x.dtype).transpose(1, 2), x, self.down.to(x.dtype).transpose(1, 2)
        )
        return torch.baddbmm(h, ACTIVATIONS[self.activation](hidden), up) + up_bias
