"""LoRA-FA: h + s x A^T B with A frozen at its random start (Zhang et al. 2023)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, StackedOp
from autopeft.ops.lowrank import kaiming
from autopeft.space.forms import Form
from autopeft.space.seed import seed_of


class LowRankFrozenA(StackedOp):
    """B: [member, rank, d_write]; starts at 0: a no-op.

    A: [member, rank, d_read] follows from the trial's seed and the op's path, so it is neither
    trained nor stored nor counted.
    """

    form = Form.LOWRANK_FA
    b: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """One factor."""
        return {"b": Declared("size", self.d_write)}

    def reset(self) -> None:
        """B to zero, A from each member's own seed."""
        super().reset()
        frozen = torch.zeros(len(self.stack), self.padded, self.d_read)
        for i, member in enumerate(self.stack):
            generator = torch.Generator().manual_seed(seed_of(member.seed, member.path, "a"))
            frozen[i, : member.size] = kaiming(member.size, self.d_read, generator)
        self.register_buffer("a", frozen.to(self.b.device), persistent=False)

    def as_factors(
        self, member: int
    ) -> tuple[Float[Tensor, "rank d_read"], Float[Tensor, "rank d_write"]]:
        """A and s B."""
        frozen = self.get_buffer("a")[member, : self.stack[member].size]
        return frozen, self.own("b", member) * self.factor_of(member)

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s x A^T B."""
        hidden = torch.bmm(x, self.get_buffer("a").to(x.dtype).transpose(1, 2))
        return torch.baddbmm(h, hidden, self.scaled(self.b).to(x.dtype))
