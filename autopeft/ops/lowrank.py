"""Low-rank linear: h + s x A B (LoRA, Hu et al. 2022, eq. 3)."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, StackedOp
from autopeft.space.forms import Form


def kaiming(rows: int, width: int, generator: torch.Generator) -> Float[Tensor, "rows width"]:
    """Kaiming uniform with a = sqrt(5) over a fan-in of `width`, as LoRA and peft have it."""
    bound = 1 / math.sqrt(width)
    return torch.empty(rows, width).uniform_(-bound, bound, generator=generator)


class LowRank(StackedOp):
    """A: [member, rank, d_read] and B: [member, rank, d_write]; B starts at 0: a no-op."""

    form = Form.LOWRANK
    a: nn.Parameter
    b: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """The two factors."""
        return {"a": Declared("size", self.d_read), "b": Declared("size", self.d_write)}

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """A by Kaiming, B zero."""
        return kaiming(rows, width, generator) if name == "a" else torch.zeros(rows, width)

    def as_factors(
        self, member: int
    ) -> tuple[Float[Tensor, "rank d_read"], Float[Tensor, "rank d_write"]]:
        """A and s B."""
        return self.own("a", member), self.own("b", member) * self.factor_of(member)

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s x A^T B."""
        hidden = torch.bmm(x, self.a.to(x.dtype).transpose(1, 2))
        return torch.baddbmm(h, hidden, self.scaled(self.b).to(x.dtype))
