"""Elementwise scale: h * l ((IA)3, Liu et al. 2022)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.affine import Affine
from autopeft.ops.base import Declared, StackedOp
from autopeft.space.forms import Form


class ElementwiseScale(StackedOp):
    """l: [member, 1, d]; starts at 1: a no-op."""

    form = Form.SCALE
    factors: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """One vector."""
        return {"factors": Declared("one", self.d_write, decays=False)}

    def initial(
        self,
        name: str,  # noqa: ARG002
        rows: int,
        width: int,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Float[Tensor, "rows width"]:
        """One."""
        return torch.ones(rows, width)

    def fold(
        self,
        member: int,
        h: Affine,
        *,
        sequential: bool,  # noqa: ARG002
    ) -> Affine:
        """L scales rows."""
        return h.scaled(self.own("factors", member)[0].double())

    def forward(
        self,
        h: Float[Tensor, "member token d_write"],
        x: Float[Tensor, "member token d_read"],  # noqa: ARG002
    ) -> Float[Tensor, "member token d_write"]:
        """H * l."""
        if h.dtype == self.factors.dtype:
            return h * self.factors
        # Factors near 1 would be 1 in bf16; how far they are from it would not.
        return torch.addcmul(h, h, (self.factors - 1).to(h.dtype))
