"""VeRA: h + s ((x A^T * d) B) * b, A and B random and frozen (Kopiczko et al. 2024, eq. 2)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, Member, StackedOp
from autopeft.ops.lowrank import kaiming
from autopeft.space.forms import Form
from autopeft.space.seed import seed_of

D_INITIAL = 0.1
"""Where d starts, as in `peft` and in most of the paper's experiments."""


class Vera(StackedOp):
    """d: [member, rank, 1] and b: [member, 1, d_write]; b starts at 0: a no-op.

    A: [member, rank, d_read] and B: [member, rank, d_write] are the same for all trials and layers
    of these widths and this rank; nobody stores them.
    """

    form = Form.VERA
    d: nn.Parameter
    b: nn.Parameter

    def __init__(
        self, members: Sequence[Member], *, layout: Sequence[int], d_read: int, d_write: int
    ) -> None:
        super().__init__(members, layout=layout, d_read=d_read, d_write=d_write)
        for name, width in (("down", d_read), ("up", d_write)):
            frozen = torch.zeros(len(members), self.padded, width)
            for i, member in enumerate(members):
                frozen[i, : member.size] = random_factor(name, member.size, width)
            self.register_buffer(name, frozen, persistent=False)

    def declare(self) -> Mapping[str, Declared]:
        """Two vectors."""
        return {"d": Declared("size", 1), "b": Declared("one", self.d_write)}

    def initial(
        self,
        name: str,
        rows: int,
        width: int,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Float[Tensor, "rows width"]:
        """All of d 0.1, b zero."""
        return torch.full((rows, width), D_INITIAL if name == "d" else 0.0)

    def as_factors(
        self, member: int
    ) -> tuple[Float[Tensor, "rank d_read"], Float[Tensor, "rank d_write"]]:
        """With d in A, s and b in B: they are low-rank without what made them few parameters."""
        size = self.stack[member].size
        down, up = (self.get_buffer(name)[member, :size] for name in ("down", "up"))
        return down * self.own("d", member), up * self.own("b", member) * self.factor_of(member)

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s ((x A^T * d) B) * b."""
        down, up = self.get_buffer("down"), self.get_buffer("up")
        hidden = torch.bmm(x, (self.d * down).to(x.dtype).transpose(1, 2))
        return torch.baddbmm(h, hidden, (up * self.scaled(self.b)).to(x.dtype))


def random_factor(name: str, rank: int, width: int) -> Float[Tensor, "rank width"]:
    """A (`down`) or B (`up`), Kaiming uniform over their fan-ins: the width and the rank."""
    generator = torch.Generator().manual_seed(seed_of(0, "vera", name, str(rank), str(width)))
    if name == "down":
        return kaiming(rank, width, generator)
    return kaiming(width, rank, generator).T
