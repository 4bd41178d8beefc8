"""Rows of several trials in one tensor: row = block * batch + example, one block for each trial.

The backbone sees one long batch. Ops see the blocks of their own trials and no others, so what is
in one trial's rows, NaN included, never meets another's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Blocks:
    """A state cut into blocks, put together again once every op has been at it.

    Args:
        state: rows of all blocks.
        n_blocks: how many there are.
    """

    def __init__(self, state: Float[Tensor, "row *rest d"], n_blocks: int) -> None:
        self._shape = state.shape
        self._n = n_blocks
        self._whole: Tensor | None = state.reshape(n_blocks, -1, state.shape[-1])
        self._cut: list[Tensor] = []

    def take(self, blocks: Sequence[int]) -> Float[Tensor, "member token d"]:
        """Some blocks, in rising order, their examples and tokens in one dimension."""
        if len(blocks) == self._n:
            return self._together()
        if not self._cut:
            # Not by index: the gradient of an index is as large as the whole for every op.
            self._cut = list(self._together().unbind(0))
        if len(blocks) == 1:
            return self._cut[blocks[0]].unsqueeze(0)
        return torch.stack([self._cut[i] for i in blocks])

    def put(self, blocks: Sequence[int], new: Float[Tensor, "member token d"]) -> None:
        """Replace blocks that were taken."""
        if len(blocks) == self._n:
            self._whole, self._cut = new, []
            return
        for i, block in zip(blocks, new.unbind(0), strict=True):
            self._cut[i] = block
        self._whole = None

    def state(self) -> Float[Tensor, "row *rest d"]:
        """All rows."""
        return self._together().reshape(self._shape)

    def _together(self) -> Tensor:
        if self._whole is None:
            self._whole = torch.stack(self._cut)
        return self._whole
