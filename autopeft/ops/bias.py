"""Bias: h + b (BitFit, Ben Zaken et al. 2022), as a delta to the bias the model has."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.affine import Affine
from autopeft.ops.base import Declared, StackedOp
from autopeft.space.forms import Form


class Bias(StackedOp):
    """b: [member, 1, d]; starts at 0: a no-op."""

    form = Form.BIAS
    bias: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """One vector."""
        return {"bias": Declared("one", self.d_write, decays=False)}

    def fold(
        self,
        member: int,
        h: Affine,
        *,
        sequential: bool,  # noqa: ARG002
    ) -> Affine:
        """B joins the bias."""
        return h.shifted(self.own("bias", member)[0].double())

    def forward(
        self,
        h: Float[Tensor, "member token d_write"],
        x: Float[Tensor, "member token d_read"],  # noqa: ARG002
    ) -> Float[Tensor, "member token d_write"]:
        """H + b."""
        return h + self.bias.to(h.dtype)
