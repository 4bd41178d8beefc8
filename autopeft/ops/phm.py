"""A bottleneck of parametrised hypercomplex layers (Compacter, Karimi Mahabadi et al. 2021, eq. 5).

Each projection is W = sum_i A_i (x) (s_i t_i^T). The A_i, the rule, are shared by all projections
of all layers of a trial; s and t are a layer's own and of rank one, as published.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autopeft.ops.base import Declared, Member, SharedStack, StackedOp, padded_size, shared_by
from autopeft.ops.bottleneck import ACTIVATIONS
from autopeft.space.forms import PHM_PARTS, Activation, Form

RULE_STD = 0.01
"""Of the fresh rule, as in the authors' code."""


class PhmRule(SharedStack):
    """A: [member, part, part_in * part_out], N(0, 0.01) at the start."""

    form = Form.PHM
    pads = False
    rule: nn.Parameter

    @classmethod
    def rows(cls, size: int) -> int:  # noqa: ARG003
        """One for every size."""
        return 1

    def declare(self) -> Mapping[str, Declared]:
        """The first factors of all products."""
        return {"rule": Declared(PHM_PARTS, PHM_PARTS**2)}

    def initial(
        self,
        name: str,  # noqa: ARG002
        rows: int,
        width: int,
        generator: torch.Generator,
    ) -> Float[Tensor, "rows width"]:
        """Normal with standard deviation 0.01."""
        return torch.empty(rows, width).normal_(0.0, RULE_STD, generator=generator)


class PhmBottleneck(StackedOp):
    """H + s (act(x Wd + bd) Wu + bu) with Wd = sum_i A_i (x) (s_i t_i^T) and Wu likewise.

    `down_in` [member, 1, d_read] and `down_out` [member, size, 1] hold the s_i and t_i of Wd one
    after the other, `up_in` [member, size, 1] and `up_out` [member, 1, d_write] those of Wu. The
    last one and the biases start at 0: a no-op.
    """

    form = Form.PHM
    pads = False
    down_in: nn.Parameter
    down_out: nn.Parameter
    down_bias: nn.Parameter
    up_in: nn.Parameter
    up_out: nn.Parameter
    up_bias: nn.Parameter

    def __init__(
        self,
        members: Sequence[Member],
        *,
        layout: Sequence[int],
        d_read: int,
        d_write: int,
        activation: Activation,
        shared: Sequence[PhmRule],
    ) -> None:
        super().__init__(members, layout=layout, d_read=d_read, d_write=d_write)
        self.activation, self.shared = activation, nn.ModuleList(shared)

    def declare(self) -> Mapping[str, Declared]:
        """The second factors and the biases."""
        return {
            "down_in": Declared("one", self.d_read),
            "down_out": Declared("size", 1),
            "down_bias": Declared("size", 1, decays=False),
            "up_in": Declared("size", 1),
            "up_out": Declared("one", self.d_write),
            "up_bias": Declared("one", self.d_write, decays=False),
        }

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """Factors by Glorot over each s_i or t_i; what comes last and biases zero."""
        if name in ("up_out", "down_bias", "up_bias"):
            return torch.zeros(rows, width)
        bound = math.sqrt(6 / (rows * width / PHM_PARTS + 1))
        return torch.empty(rows, width).uniform_(-bound, bound, generator=generator)

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s (act(x Wd + bd) Wu + bu)."""
        rules = [
            shared_by(self.shared, "rule", member).view(PHM_PARTS, PHM_PARTS, PHM_PARTS)
            for member in self.stack
        ]
        down = product_sum(rules, self.down_in, self.down_out)
        up = product_sum(rules, self.up_in, self.scaled(self.up_out))
        # Products of other sizes would have other bits in other companies.
        room = padded_size(self.padded) - self.padded
        down = functional.pad(down, (0, room)).to(x.dtype)
        bias = functional.pad(self.down_bias.transpose(1, 2), (0, room)).to(x.dtype)
        up = functional.pad(up, (0, 0, 0, room)).to(x.dtype)
        hidden = ACTIVATIONS[self.activation](torch.baddbmm(bias, x, down))
        return torch.baddbmm(h, hidden, up) + self.scaled(self.up_bias).to(x.dtype)


def product_sum(
    rules: Sequence[Float[Tensor, "part part_in part_out"]],
    left: Float[Tensor, "member *d_in"],
    right: Float[Tensor, "member *d_out"],
) -> Float[Tensor, "member in out"]:
    """sum_i A_i (x) (s_i t_i^T).

    Args:
        rules: the A_i of each member.
        left: the s_i one after the other, d_in numbers.
        right: the t_i one after the other, d_out numbers.
    """
    # Member by member: the bits of a batched product or sum depend on how many there are.
    return torch.stack([_one_sum(*member) for member in zip(rules, left, right, strict=True)])


def _one_sum(
    rule: Float[Tensor, "part part_in part_out"],
    left: Float[Tensor, "*d_in"],
    right: Float[Tensor, "*d_out"],
) -> Float[Tensor, "in out"]:
    parts = len(rule)
    s, t = left.reshape(parts, -1, 1), right.reshape(parts, 1, -1)
    blocks = rule.flatten(1).T @ (s * t).flatten(1)
    cells = blocks.view(parts, parts, s.shape[1], t.shape[2]).transpose(1, 2)
    return cells.reshape(parts * s.shape[1], parts * t.shape[2])
