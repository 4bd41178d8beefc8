"""Positions of rows that are padded on the left, in a pass that is given none.

A decoder numbers tokens from the first column of a batch, padding included. A row alone, one that
is padded on the right and one that `generate` reads begin at 0 instead, and so did those that an
adapter was trained on.
"""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from autopeft.model.hooks import n_kept

_OF_TOKENS = 2
"""Dimensions of a mask that says which tokens are padding."""


def begin_at_zero(model: PreTrainedModel) -> list[RemovableHandle]:
    """Let the first token of every row have position 0, after all other hooks have been put in.

    Nothing is done to encoders, and to models that take no `position_ids`.

    Args:
        model: with ops.

    Returns:
        What takes it out again, if there is something.
    """
    kind, base = model.config.model_type, model.base_model
    names = tuple(inspect.signature(base.forward).parameters)
    # Encoders that were made decoders may begin at other numbers, as RoBERTa does.
    decodes = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not decodes or "position_ids" not in names:
        return []
    hook = partial(positions_hook, names)
    return [base.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)]


def positions_hook(
    names: Sequence[str], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A pre-hook of a base model: gives the positions that a call does not give.

    Args:
        names: of what its forward pass takes, in their order.
        args: of the pass.
        kwargs: likewise.
    """
    given = dict(zip(names, args, strict=False)) | kwargs
    mask, read = given.get("attention_mask"), given.get("input_ids")
    read = given.get("inputs_embeds") if read is None else read
    if given.get("position_ids") is not None or read is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != _OF_TOKENS:
        return None
    return (), given | {"position_ids": positions(mask, n_kept(given), read.shape[1])}


def positions(
    mask: Shaped[Tensor, "row longer"], n_before: int | Int[Tensor, ""], n_tokens: int
) -> Int[Tensor, "row token"]:
    """Where tokens stand in their rows, padding on the left left out; 0 for that padding itself.

    Nothing is looked at to find out whether there is some: a GPU would be waited for.

    Args:
        mask: 0 where nothing is read, of all tokens of a row or more.
        n_before: columns that a cache has.
        n_tokens: columns behind them.
    """
    n_padded = mask.ne(0).int().argmax(1, keepdim=True)
    columns = torch.arange(n_tokens, device=mask.device) + n_before
    return (columns - n_padded).clamp(min=0)
