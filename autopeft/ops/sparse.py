"""Sparse weight deltas: h + x D^T with D zero but for some entries, drawn or chosen by the data."""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from autopeft.ops.base import Declared
from autopeft.ops.entries import Entries, largest
from autopeft.space.forms import Form


class SparseDelta(Entries):
    """values: [member, size, 1] of D: [d_write, d_read], at random entries; a no-op at first.

    What every method with a sparse delta becomes once it is trained.
    """

    form = Form.SPARSE

    def declare(self) -> Mapping[str, Declared]:
        """The values."""
        return {"values": Declared("size", 1)}

    @property
    def table_shape(self) -> tuple[int, int]:
        """Those of the weight."""
        return self.d_write, self.d_read

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + x D^T."""
        delta = self.table(self.nothing()).to(x.dtype)
        return torch.baddbmm(h, x, delta.transpose(1, 2))

    def as_matrix(self, member: int) -> Float[Tensor, "d_write d_read"]:
        """D."""
        return self.table(self.nothing())[member].double()


class Fish(SparseDelta):
    """FISH: the entries with the largest empirical Fisher information (Sung et al. 2021, eq. 5).

    That is the mean over examples of the squared gradient of the log-likelihood of their labels,
    with the weight and the fresh head as they are. The paper chooses over all weights at once; here
    every weight has as many entries as its genotype says, so the spread over the layers is
    searched like that of any other op.
    """

    form = Form.FISH
    chooses = "looking"
    _information: Tensor | None = None
    _examples = 0

    def watch(self, examples: int) -> None:
        """Take in the gradients of the batches to come, of so many examples."""
        if self._information is None:
            self._information = self.values.new_zeros(len(self.stack), *self.table_shape)
        self._examples = examples

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + x D^T."""
        out = super().forward(h, x)
        if self._information is not None and out.requires_grad:
            out.register_hook(partial(self._see, x.detach()))  # type: ignore[no-untyped-call]
        return out

    def _see(self, x: Tensor, grad: Tensor) -> None:
        """Add the square of each example's gradient of D."""
        if self._information is None:
            return
        of_examples = (torch.tensor_split(t.float(), self._examples, 1) for t in (x, grad))
        for of_x, of_h in zip(*of_examples, strict=True):
            self._information += torch.bmm(of_h.transpose(1, 2), of_x).square()

    def choose(self) -> None:
        """Take the entries with the most information, and stop watching."""
        if self._information is None:
            raise RuntimeError("FISH has seen no examples")
        for i, information in enumerate(self._information):
            self.put(i, largest(information.flatten()))
        self._information = None
