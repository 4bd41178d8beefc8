"""Layers that are computed again in the backward pass, so that only what they read is kept.

Gradient checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"), as torch
has it. That of transformers works in training mode alone, with the dropout that a frozen backbone
must not have. As there, a layer's forward pass is repeated without the hooks of the layer itself:
rows fork before it, and what is written to its outcome is behind it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autopeft.model.layer_ops import LayerOps

_FORWARD = "forward"


@contextmanager
def recomputed(layer: nn.Module, ops: LayerOps | None) -> Iterator[None]:
    """Let a layer be computed again in the backward pass.

    Args:
        layer: of a model.
        ops: that it has, if there are any.
    """
    plain, before = layer.forward, vars(layer).get(_FORWARD)
    # Not to be registered, and gone without a trace.
    object.__setattr__(layer, _FORWARD, partial(_forward, plain, ops))
    try:
        yield
    finally:
        del vars(layer)[_FORWARD]
        if before is not None:
            object.__setattr__(layer, _FORWARD, before)


def _forward(plain: Any, ops: LayerOps | None, *args: Any, **kwargs: Any) -> Any:
    """The layer's forward pass; one that no gradient comes back to keeps nothing anyway."""
    given = (*args, *kwargs.values())
    if ops is None and not any(isinstance(one, Tensor) and one.requires_grad for one in given):
        return plain(*args, **kwargs)
    if not torch.is_grad_enabled():
        return plain(*args, **kwargs)
    return checkpoint(
        plain,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing is drawn: there is no dropout, and ops have seeds
        context_fn=partial(_contexts, ops),
        **kwargs,
    )


def _contexts(
    ops: LayerOps | None,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the forward pass and of its repetition."""
    return nullcontext(), nullcontext() if ops is None else _repetition(ops)


@contextmanager
def _repetition(ops: LayerOps) -> Iterator[None]:
    """It ends as soon as all is there that is needed, so ops may not have come to their end."""
    try:
        yield
    finally:
        ops.forget()
