"""DeBERTa's attention with rows of several trials (He et al. 2021, eq. 4).

Its query and key projections also project embeddings of relative positions, once for all rows. So
where trials have ops there, every trial has projected positions of its own, and the scores that
come of them are computed block by block. And its mask has to have as many rows as the states.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autopeft.model.layer_ops import LayerPass
from autopeft.space.taps import Tap

_SCORES = "disentangled_attention_bias"
"""The method of an attention module that projects positions and scores them."""


@runtime_checkable
class OwnPositions(Protocol):
    """The ops of a layer, as far as projected positions pass them.

    Attributes:
        taps: that ops read or write.
        now: the pass that is going on; `block` is whose positions are projected.
    """

    now: LayerPass

    @property
    def taps(self) -> set[Tap]:
        """Where the layer has hooks."""

    def cut(self, rows: Tensor) -> Sequence[Tensor]:
        """The rows of each block."""

    def forget_positions(self) -> None:
        """Let go of what was kept from block to block."""


def repeat_mask(attention: nn.Module) -> RemovableHandle:
    """Let the mask have the rows that the states have."""
    return attention.register_forward_pre_hook(_mask_hook)


def project_positions_by_block(attention: nn.Module, layer: OwnPositions) -> bool:
    """Let every trial have positions of its own, if ops stand where they are projected.

    Returns:
        Whether the attention module was changed; `project_positions_at_once` undoes it.
    """
    shares = getattr(attention, "relative_attention", False) and attention.share_att_key
    if not shares or not {Tap.Q, Tap.K} & layer.taps:
        return False
    object.__setattr__(attention, _SCORES, partial(_scores, attention, layer))
    return True


def project_positions_at_once(attention: nn.Module) -> None:
    """Undo `project_positions_by_block`."""
    object.__delattr__(attention, _SCORES)


def _scores(
    attention: Any, layer: OwnPositions, query: Tensor, key: Tensor, *others: Any
) -> Tensor:
    own: Any = getattr(type(attention), _SCORES)
    scores = []
    heads = (-1, attention.num_attention_heads)
    by_row = [rows.reshape(*heads, *rows.shape[1:]) for rows in (query, key)]
    blocks = zip(*map(layer.cut, by_row), strict=True)
    try:
        for layer.now.block, (q, k) in enumerate(blocks):
            scores.append(own(attention, q.flatten(0, 1), k.flatten(0, 1), *others))
    finally:
        layer.now.block = None
        layer.forget_positions()
    return torch.cat(scores)


def _mask_hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    states, mask, *others = args
    return (states, mask.repeat(len(states) // len(mask), 1, 1, 1), *others)
