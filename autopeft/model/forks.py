"""Where the trials of a cohort leave the frozen trunk, and whose rows each layer computes.

Below its lowest op a trial is the pretrained model, the same for all trials and in every epoch. So
its rows begin there: out of frozen rows that run once for all trials that fork later, or out of
states that were computed before and are given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

TRUNK = -1
"""The block of frozen rows."""


@dataclass(frozen=True)
class Forks:
    """The forks of a cohort.

    Attributes:
        forks: for each trial the first layer with rows of its own; the depth for a trial whose
            rows begin at the head.
        n_layers: depth of the model.
        given: states at the forks are given, so nothing frozen is computed.
    """

    forks: tuple[int, ...]
    n_layers: int
    given: bool = False

    @property
    def first(self) -> int:
        """The lowest layer that is computed."""
        return min(self.forks) if self.given else 0

    def layout(self, layer: int) -> tuple[int, ...]:
        """Whose rows a layer computes, block by block: trials in rising order, then the trunk.

        At the depth of the model it is what the head computes: every trial. One layer below the
        first it is the trunk alone, or what stands for it.
        """
        if layer < self.first:
            return (TRUNK,)
        own = tuple(i for i, fork in enumerate(self.forks) if fork <= layer)
        trunk = not self.given and len(own) < len(self.forks)
        return (*own, TRUNK) if trunk else own

    @property
    def joins(self) -> tuple[int, ...]:
        """The layers before which trials fork, and so the layout changes."""
        return tuple(sorted(set(self.forks)))


def join(
    state: Float[Tensor, "row ..."],
    before: Sequence[int],
    after: Sequence[int],
    given: Float[Tensor, "batch ..."] | None,
) -> Float[Tensor, "longer ..."]:
    """Let the rows of further trials begin.

    Args:
        state: rows as laid out before.
        before: trials, block by block.
        after: those that go on; the new ones begin as the trunk.
        given: what stands for the trunk's rows.
    """
    blocks = dict(zip(before, state.chunk(len(before)), strict=True))
    if given is not None:
        blocks[TRUNK] = given
    # The trunk is frozen, whatever else is in the same tensor.
    blocks[TRUNK] = blocks[TRUNK].detach()
    new = [blocks.get(i, blocks[TRUNK]) for i in after]
    return torch.cat(new) if len(new) > 1 else new[0]


class Placeholder(nn.Module):
    """Stands for embeddings that nobody reads: the shape of a state and its precision."""

    def __init__(self, dtype: torch.dtype, width: int) -> None:
        super().__init__()
        self.dtype, self.width = dtype, width

    def forward(self, input_ids: Tensor, *_: Any, **__: Any) -> Float[Tensor, "batch token d"]:
        """One zero, seen from every place of a state."""
        zero = torch.zeros((), dtype=self.dtype, device=input_ids.device)
        return zero.expand(*input_ids.shape, self.width)


class Passing(nn.Module):
    """Stands for layers that need not run.

    Args:
        layer: what it stands for.
        paired: such layers return their attention as well.
    """

    def __init__(self, layer: nn.Module | None = None, *, paired: bool = False) -> None:
        super().__init__()
        self._paired = paired
        # ModernBERT asks a layer which mask it wants.
        self.attention_type = getattr(layer, "attention_type", None)

    def forward(self, state: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor, None]:
        """What comes in."""
        return (state, None) if self._paired else state


def join_hook(
    before: Sequence[int],
    after: Sequence[int],
    given: Mapping[int, Tensor],
    layer: int,
    _: nn.Module,
    args: tuple[Any, ...],
) -> tuple[Any, ...]:
    """A pre-hook of a layer."""
    return (join(args[0], before, after, given.get(layer)), *args[1:])


def join_top_hook(
    before: Sequence[int],
    after: Sequence[int],
    given: Mapping[int, Tensor],
    layer: int,
    _: nn.Module,
    __: tuple[Any, ...],
    out: Any,
) -> Any:
    """A hook of the last layer.

    Of what is given the head reads all tokens, which may be the first one alone, where a trial
    with a gate has others too.
    """
    frozen, state = given.get(layer), out[0] if isinstance(out, tuple) else out
    if frozen is not None:
        state = state[:, : frozen.shape[1]]
    joined = join(state, before, after, frozen)
    return (joined, *out[1:]) if isinstance(out, tuple) else joined
