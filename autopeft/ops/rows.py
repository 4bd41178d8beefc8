"""Rows of several trials in one tensor: row = trial * batch + example.

Every op sees the backbone's long batch through this file alone, so a tensor's rows can belong to
trials in one way only.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def expand(x: Float[Tensor, "batch *rest"], n_trials: int) -> Float[Tensor, "row *rest"]:
    """Repeat a batch for each trial, trial by trial."""
    return x.repeat(n_trials, *[1] * (x.dim() - 1)) if n_trials > 1 else x


class Members:
    """Which trials of a cohort an op acts for, in the order of its stack.

    Args:
        trials: index of the trial in the cohort, for each member of the stack.
        n_trials: trials in the cohort.
    """

    def __init__(self, trials: Sequence[int], n_trials: int) -> None:
        self.trials = tuple(trials)
        self.n_trials = n_trials
        self._all = self.trials == tuple(range(n_trials))
        self._run = self.trials == tuple(range(trials[0], trials[0] + len(trials)))
        self._unique = len(set(trials)) == len(trials)

    def __len__(self) -> int:
        return len(self.trials)

    def take(self, x: Float[Tensor, "row *rest d"]) -> Float[Tensor, "member token d"]:
        """The rows of each member, its examples and tokens in one dimension."""
        stacked = x.reshape(self.n_trials, -1, x.shape[-1])
        if self._all:
            return stacked
        if self._run:
            return stacked[self.trials[0] : self.trials[0] + len(self.trials)]
        return stacked.index_select(0, self._index(x))

    def add(
        self, x: Float[Tensor, "row *rest d"], delta: Float[Tensor, "member token d"]
    ) -> Float[Tensor, "row *rest d"]:
        """Add each member's delta to its own rows; the bits of other rows do not change."""
        delta = delta.to(x.dtype)
        stacked = x.reshape(self.n_trials, -1, x.shape[-1])
        if self._all:
            return (stacked + delta).view_as(x)
        return stacked.index_add(0, self._index(x), delta).view_as(x)

    def put(
        self, x: Float[Tensor, "row *rest d"], new: Float[Tensor, "member token d"]
    ) -> Float[Tensor, "row *rest d"]:
        """Replace each member's rows."""
        if not self._unique:
            raise AssertionError("a trial cannot replace its rows twice at once")
        new = new.to(x.dtype)
        if self._all:
            return new.view_as(x)
        stacked = x.reshape(self.n_trials, -1, x.shape[-1])
        return stacked.index_copy(0, self._index(x), new).view_as(x)

    def _index(self, x: Tensor) -> Tensor:
        return torch.tensor(self.trials, device=x.device)
