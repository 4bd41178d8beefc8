"""DoRA: the weight W becomes m (W + s B A) / ||W + s B A|| (Liu et al. 2024, eq. 5)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.affine import Affine
from autopeft.ops.base import Declared, StackedOp
from autopeft.ops.lowrank import kaiming
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
    _linear: tuple[nn.Linear] | None = None

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

    def stand_at(self, module: nn.Module) -> None:
        """Take the Linear whose output is written, without registering it a second time."""
        if not isinstance(module, nn.Linear):
            raise TypeError(f"DoRA stands at a Linear, not at a {type(module).__name__}")
        self._linear = (module,)

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
        linear, matrix = self._at, self.as_matrix(member)
        weight = linear.weight.double()
        norm = torch.linalg.vector_norm(weight + matrix, dim=1)
        magnitude = torch.linalg.vector_norm(weight, dim=1) + self.own("magnitude", member)[0]
        bias = torch.zeros_like(h.bias) if linear.bias is None else linear.bias.double()
        return h.shifted(-bias).plus(matrix).scaled(magnitude / norm).shifted(bias)

    @property
    def _at(self) -> nn.Linear:
        if self._linear is None:
            raise ValueError("DoRA does not know its Linear yet")
        return self._linear[0]

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """C (h - bias + s x A^T B) + bias with c = m / ||W + s B A||."""
        linear = self._at
        up = self.scaled(self.b)
        with torch.no_grad():
            weight = linear.weight.to(self.a.dtype)
            moved = torch.baddbmm(weight[None], up.transpose(1, 2), self.a)
            norm = torch.linalg.vector_norm(moved, dim=2).unsqueeze(1)
            start = torch.linalg.vector_norm(weight[None], dim=2).unsqueeze(1)
        gain = (start + self.magnitude) / norm
        hidden = torch.bmm(x, self.a.to(x.dtype).transpose(1, 2))
        change = torch.bmm(hidden, up.to(x.dtype)) * gain
        plain = h if linear.bias is None else h - linear.bias
        out: Tensor = h + (plain * (gain - 1) + change)
        return out.to(h.dtype)
