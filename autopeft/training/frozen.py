"""What the frozen layers make of every row, computed once for all epochs, trials and cohorts.

Below its lowest op a trial is the pretrained model without dropout. So the states there are kept,
and a cohort begins with them. They are computed in batches that depend on the split alone, so
they are the same whichever trial asks first, and a trial's bits do not depend on the others.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from autopeft.model.anatomy import Anatomy
from autopeft.model.backbone import DTYPES, Backbone
from autopeft.model.computing import Kernel, Precision
from autopeft.model.inject import Injection
from autopeft.ops.sending import sent
from autopeft.space.genotype import Genotype
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap
from autopeft.tasks.encode import Encoded, collate
from autopeft.training.batches import evaluation_order


class States:
    """A state for every token of every row, without padding.

    Args:
        lengths: tokens of each row that are kept.
        width: of the state.
        like: tells precision and device.
    """

    def __init__(self, lengths: Sequence[int], width: int, like: Tensor) -> None:
        self._lengths = np.asarray(lengths)
        self._first = np.cumsum(self._lengths) - self._lengths
        # Behind all states there is one of zeros, for padding.
        self._flat = like.new_empty(sum(lengths) + 1, width)
        self._flat[-1:].zero_()

    def put(self, indices: Sequence[int], states: Float[Tensor, "batch token d"]) -> None:
        """Keep the states of some rows."""
        places, real = self._places(indices, states.shape[1])
        kept = states.flatten(0, 1).index_select(0, self._sent(np.flatnonzero(real)))
        self._flat.index_copy_(0, self._sent(places[real]), kept)

    def take(self, indices: Sequence[int]) -> Float[Tensor, "batch token d"]:
        """The states of some rows, with zeros where a row is shorter than the longest."""
        places, _ = self._places(indices, int(self._lengths[list(indices)].max()))
        taken = self._flat.index_select(0, self._sent(places.ravel()))
        return taken.view(*places.shape, -1)

    def _places(
        self, indices: Sequence[int], n_tokens: int
    ) -> tuple[Int[np.ndarray, "batch token"], Bool[np.ndarray, "batch token"]]:
        """Where the tokens of some rows are kept, and which of them are not padding."""
        lengths, first = self._lengths[list(indices)], self._first[list(indices)]
        tokens = np.arange(n_tokens)
        real = tokens < lengths[:, None]
        return np.where(real, first[:, None] + tokens, len(self._flat) - 1), real

    def _sent(self, places: Int[np.ndarray, " place"]) -> Int[Tensor, " place"]:
        return sent(torch.from_numpy(places), self._flat.device)


class FrozenCache:
    """States of a study's splits at every layer where trials fork.

    Args:
        backbone: in the precision that the trials compute in.
        kernel: of attention.
        batch_size: rows that run at once.
    """

    def __init__(self, backbone: Backbone, kernel: Kernel, batch_size: int) -> None:
        self._backbone, self._kernel, self._batch_size = backbone, kernel, batch_size
        self._anatomy = Anatomy(backbone.model, backbone.fresh)
        if self._anatomy.apart:
            raise ValueError("trials of this model have rows of their own from the start")
        self._kept: dict[tuple[int, int], States] = {}
        self._splits: dict[int, Encoded] = {}
        """By identity; kept alive, so that an identity means one split."""

    def fill(
        self, rows: Encoded, forks: Collection[int], beat: Callable[[], None] | None = None
    ) -> None:
        """Compute the states of a split that are not there yet; the model is as before.

        Args:
            rows: of the split.
            forks: layers that will read a state, the depth standing for the head.
            beat: called with every batch.
        """
        missing = sorted({fork for fork in forks if fork and (id(rows), fork) not in self._kept})
        if not missing:
            return
        new = {fork: self._empty(rows, fork) for fork in missing}
        read: dict[int, Tensor] = {}
        for indices in evaluation_order(rows.lengths, self._batch_size):
            self._run(rows, indices, missing, read)
            for fork, states in new.items():
                states.put(indices, read[fork])
            if beat is not None:
                beat()
        self._splits[id(rows)] = rows
        self._kept |= {(id(rows), fork): states for fork, states in new.items()}

    def take(self, rows: Encoded, fork: int, indices: Sequence[int]) -> Float[Tensor, "batch t d"]:
        """What a layer reads for some rows of a split that has been filled."""
        return self._kept[id(rows), fork].take(indices)

    def _empty(self, rows: Encoded, fork: int) -> States:
        shape = self._backbone.shape
        top = fork == shape.n_layers and self._anatomy.first_token
        lengths = [1] * len(rows) if top else rows.lengths
        return States(lengths, shape.widths[Tap.BLOCK_OUT], next(self._backbone.model.parameters()))

    @torch.no_grad()
    def _run(
        self, rows: Encoded, indices: Sequence[int], forks: Sequence[int], read: dict[int, Tensor]
    ) -> None:
        backbone, depth = self._backbone, self._backbone.shape.n_layers
        batch = collate(rows, indices, backbone.tokenizer.pad_token_id or 0).inputs
        device = next(backbone.model.parameters()).device
        injection = Injection(
            backbone.model,
            [Genotype(depth, (), learning_rate=1.0)],
            [0],
            self._kernel,
            fresh=backbone.fresh,
            first_token=self._anatomy.first_token,
        )
        layers = self._anatomy.layers
        handles = [
            layers[fork - 1].register_forward_hook(partial(_keep, read, fork)) for fork in forks
        ]
        try:
            with self._anatomy.only(0, forks[-1]):
                backbone.model.base_model(**{name: sent(t, device) for name, t in batch.items()})
        finally:
            for handle in handles:
                handle.remove()
            injection.remove()


def _keep(read: dict[int, Tensor], fork: int, _: nn.Module, __: Any, out: Any) -> None:
    read[fork] = out[0] if isinstance(out, tuple) else out


def cache_bytes(shape: ModelShape, splits: Sequence[Encoded], precision: Precision) -> int:
    """What the states of some splits take at most, with trials that fork at every layer.

    Args:
        shape: of the model.
        splits: that trials read.
        precision: of the states.
    """
    tokens = sum(sum(rows.lengths) + 1 for rows in splits)
    width = shape.widths[Tap.BLOCK_OUT] * DTYPES[precision].itemsize
    return ((shape.n_layers - 1) * tokens + sum(len(rows) + 1 for rows in splits)) * width
