"""DoRA: the weight W becomes m (W + s B A) / ||W + s B A|| (Liu et al. 2024, eq. 5)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.affine import Affine
from autopeft.ops.base import Declared, StackedOp
from autopeft.ops.lowrank import kaiming
from autopeft.ops.point import Point
from autopeft.space.forms import Form


class Dora(StackedOp):
    """A: [member, rank, d_read], B: [member, rank, d_write], magnitude: [member, 1, d_write].

    The norm is over the inputs of each output, and constant for the gradient, as in the paper's
    section 4.3. `magnitude` is the trained m less the norm of W; it and B start at 0: a no-op.
    """

    form = Form.DORA
    scales_h = True
    a: nn.Parameter
    b: nn.Parameter
    magnitude: nn.Parameter
    _point: Point | None = None

    def declare(self) -> Mapping[str, Declared]:
        """Direction and magnitude."""
        return {
            "a": Declared("size", self.d_read),
            "b": Declared("size", self.d_write),
            "magnitude": Declared("one", self.d_write, decays=False),
        }

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """A by Kaiming, all else zero."""
        return kaiming(rows, width, generator) if name == "a" else torch.zeros(rows, width)

    def stand_at(self, point: Point) -> None:
        """Take the weight matrix whose output is written, without registering it a second time."""
        if not point.is_weight:
            raise TypeError(
                f"DoRA stands at a weight matrix, not at a {type(point.module).__name__}"
            )
        self._point = point

    def as_factors(
        self, member: int
    ) -> tuple[Float[Tensor, "rank d_read"], Float[Tensor, "rank d_write"]]:
        """A and s B, of the direction alone."""
        return self.own("a", member), self.own("b", member) * self.factor_of(member)

    def fold(
        self,
        member: int,
        h: Affine,
        *,
        sequential: bool,  # noqa: ARG002
    ) -> Affine:
        """C (h - bias + s B A x) + bias."""
        at, matrix = self._at, self.as_matrix(member)
        weight = at.weight.double()
        norm = torch.linalg.vector_norm(weight + matrix, dim=1)
        magnitude = torch.linalg.vector_norm(weight, dim=1) + self.own("magnitude", member)[0]
        bias = torch.zeros_like(h.bias) if at.bias is None else at.bias.double()
        return h.shifted(-bias).plus(matrix).scaled(magnitude / norm).shifted(bias)

    @property
    def _at(self) -> Point:
        if self._point is None:
            raise ValueError("DoRA does not know its weight matrix yet")
        return self._point

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """C (h - bias + s x A^T B) + bias with c = m / ||W + s B A||."""
        at = self._at
        up = self.scaled(self.b)
        with torch.no_grad():
            # Contiguous, or its norm would have other bits than that of the moved weight.
            weight = at.weight.to(self.a.dtype).contiguous()
            moved = torch.baddbmm(weight[None], up.transpose(1, 2), self.a)
            norm = torch.linalg.vector_norm(moved, dim=2).unsqueeze(1)
            start = torch.linalg.vector_norm(weight[None], dim=2).unsqueeze(1)
        gain = (start + self.magnitude) / norm
        hidden = torch.bmm(x, self.a.to(x.dtype).transpose(1, 2))
        change = torch.bmm(hidden, up.to(x.dtype)) * gain
        plain = h if at.bias is None else h - at.bias
        out: Tensor = h + (plain * (gain - 1) + change)
        return out.to(h.dtype)
