"""Ops of which only some entries of a table are trained: which ones, and the table they make."""

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autopeft.ops.base import StackedOp
from autopeft.space.seed import seed_of


class Entries(StackedOp):
    """values: [member, size, width] stand in a table [member, rows, columns] at `entries`.

    The entries are drawn at random by the seed of a member, unless a form chooses them by the data.
    They are integers, stored beside the values and not counted as parameters. Padding points at one
    more entry behind the table, so it gets no gradient.
    """

    constants = ("entries",)
    values: nn.Parameter

    @property
    @abstractmethod
    def table_shape(self) -> tuple[int, int]:
        """Rows and columns of the table."""

    def available(self, member: int) -> int:  # noqa: ARG002
        """How many entries a member may choose from, the first ones of the table."""
        rows, columns = self.table_shape
        return rows * columns

    def start(self, member: int) -> Float[Tensor, "entry"]:
        """What the table of a member starts from, if all of it was trained; zeros."""
        return torch.zeros(self.available(member))

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the entries, and start the values from their place in the table."""
        super().reset()
        rows, columns = self.table_shape
        behind = torch.full_like(self.values, rows * columns, dtype=torch.long)
        self.register_buffer("entries", behind, persistent=False)
        for i, member in enumerate(self.stack):
            generator = torch.Generator().manual_seed(seed_of(member.seed, member.path, "entries"))
            self.put(i, torch.randperm(self.available(i), generator=generator))

    @torch.no_grad()
    def put(self, member: int, best: Int[Tensor, "entry"]) -> None:
        """Let a member train the first of these entries, from where they start."""
        values, entries = self.own("values", member), self.own("entries", member)
        chosen = best[: values.numel()].sort().values.to(entries.device)
        entries.copy_(chosen.view_as(entries))
        values.copy_(self.start(member).to(values.device)[chosen].view_as(values))

    def table(self, behind: Float[Tensor, "member entry"]) -> Float[Tensor, "member rows columns"]:
        """The values in their places.

        Args:
            behind: what is in the other places, with one more entry for padding.
        """
        places = self.get_buffer("entries").flatten(1)
        full = behind.scatter(1, places, self.values.flatten(1))
        return full[:, :-1].view(-1, *self.table_shape)

    def nothing(self) -> Float[Tensor, "member entry"]:
        """An empty table to put the values into."""
        rows, columns = self.table_shape
        return self.values.new_zeros(len(self.stack), rows * columns + 1)


def largest(scores: Float[Tensor, "entry"]) -> Int[Tensor, "entry"]:
    """Indices from the largest score down; of equal ones the first comes first."""
    return torch.sort(scores, descending=True, stable=True).indices
