"""Kronecker product: h + s x (A (x) B)^T (KronA, Edalati et al. 2022; LoKr, Yeh et al. 2024)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, StackedOp
from autopeft.ops.lowrank import kaiming
from autopeft.space.forms import Form


class Kronecker(StackedOp):
    """A: [member, size, size] and B: [member, d_write / size, d_read / size].

    B starts at 0: a no-op. The product is never formed: with x cut into `size` parts,
    (A (x) B) x = A [B x_1, ..., B x_size].
    """

    form = Form.KRONECKER
    pads = False
    a: nn.Parameter
    b: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """The two factors."""
        return {
            "a": Declared("size", self.padded),
            "b": Declared(self.d_write // self.padded, self.d_read // self.padded),
        }

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """A by Kaiming, B zero."""
        return kaiming(rows, width, generator) if name == "a" else torch.zeros(rows, width)

    def as_matrix(self, member: int) -> Float[Tensor, "d_write d_read"]:
        """S A (x) B."""
        a, b = self.own("a", member).double(), self.own("b", member).double()
        return torch.kron(a, b) * self.factor_of(member)

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s x (A (x) B)^T."""
        n_members, n_tokens, _ = x.shape
        parts = x.reshape(n_members, n_tokens * self.padded, -1)
        inner = torch.bmm(parts, self.scaled(self.b).to(x.dtype).transpose(1, 2))
        inner = inner.view(n_members, n_tokens, self.padded, -1)
        outer = torch.matmul(self.a.to(x.dtype).unsqueeze(1), inner)
        return h + outer.reshape(h.shape)
