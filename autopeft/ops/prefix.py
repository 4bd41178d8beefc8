"""Prefix: trained keys and values before the others in every head (Li and Liang 2021).

Sharing the softmax with the model's own keys is what He et al. (2022, eq. 7) write as
(1 - lambda) h + lambda softmax(q Pk^T) Pv, with lambda the prefix's share of the softmax mass.
Positions are not shifted. Used by the attention function in `autopeft.model.attention`, not by a
hook.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, Member, StackedOp
from autopeft.ops.per_thread import PerThread
from autopeft.space.forms import Form

INIT_STD = 0.02


class _Look(PerThread):
    """What gates have seen of a forward pass, until attention runs."""

    def __init__(self) -> None:
        self.gates: Tensor | None = None


class Prefix(StackedOp):
    """Pk, Pv: [member, length, n_kv_heads * d_head], N(0, 0.02) at the start: not a no-op."""

    form = Form.PREFIX
    keys: nn.Parameter
    values: nn.Parameter

    def __init__(
        self, members: Sequence[Member], *, layout: Sequence[int], d_read: int, d_write: int
    ) -> None:
        super().__init__(members, layout=layout, d_read=d_read, d_write=d_write)
        self._look = _Look()
        sizes = torch.tensor([member.size for member in members])
        self.register_buffer(
            "absent", torch.arange(self.padded) >= sizes[:, None], persistent=False
        )

    def declare(self) -> Mapping[str, Declared]:
        """Keys and values."""
        return {"keys": Declared("size", self.d_read), "values": Declared("size", self.d_read)}

    def initial(
        self,
        name: str,  # noqa: ARG002
        rows: int,
        width: int,
        generator: torch.Generator,
    ) -> Float[Tensor, "rows width"]:
        """Normal with standard deviation 0.02."""
        return torch.empty(rows, width).normal_(0.0, INIT_STD, generator=generator)

    def forward(
        self,
        h: Float[Tensor, "member token d_write"],
        x: Float[Tensor, "member token d_read"],
    ) -> Float[Tensor, "member token d_write"]:
        """A prefix acts inside attention.

        Raises:
            NotImplementedError: always; `extend` is what the attention function calls.
        """
        raise NotImplementedError("a prefix acts inside attention, by `extend`")

    def pairs(
        self,
    ) -> tuple[Float[Tensor, "member length d_kv"], Float[Tensor, "member length d_kv"]]:
        """Keys and values."""
        return self.keys, self.values

    def look(self, x: Float[Tensor, "member token d_model"]) -> None:
        """Let a gate see what attention starts from; it scales keys and values."""
        if self.gate is not None:
            self._look.gates = self.gate(x).view(-1, 1)

    def extend(
        self,
        key: Float[Tensor, "row kv_head token d_head"],
        value: Float[Tensor, "row kv_head token d_head"],
        mask: Float[Tensor, "batch biased query token"],
    ) -> tuple[
        Float[Tensor, "row kv_head longer d_head"],
        Float[Tensor, "row kv_head longer d_head"],
        Float[Tensor, "row biased query longer"],
    ]:
        """Put the prefix before keys, values and mask.

        Args:
            key: the members' rows alone, member by member.
            value: likewise.
            mask: additive, of the examples that every member has; for each head where it has a
                bias of positions.
        """
        keys, values = self.pairs()
        gates, self._look.gates = self._look.gates, None
        _, heads, _, d_head = key.shape
        batch = len(mask)

        def as_heads(prefix: Tensor) -> Tensor:
            per_member = prefix.view(len(self.stack), self.padded, heads, d_head).transpose(1, 2)
            of_rows = per_member.repeat_interleave(batch, 0)
            if gates is not None:
                # Row by row: the bits of other sums depend on how many rows there are.
                of_rows = (of_rows.flatten(1) * gates).view_as(of_rows)
            return of_rows.to(key.dtype)

        absent = self.get_buffer("absent")
        columns = mask.new_zeros(absent.shape).masked_fill(absent, torch.finfo(mask.dtype).min)
        columns = columns.repeat_interleave(batch, 0)[:, None, None, :]
        columns = columns.expand(-1, *mask.shape[1:3], -1)
        return (
            torch.cat([as_heads(keys), key], 2),
            torch.cat([as_heads(values), value], 2),
            torch.cat([columns, mask.repeat(len(self.stack), 1, 1, 1)], 3),
        )
