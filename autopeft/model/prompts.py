"""Rows that begin with a prompt: longer where the layers run, as they were outside of the model.

Word embeddings become [prompt; words], and mask, segments and positions follow. What the base
model puts out are the states of the text's own tokens again, so that heads, pooling and language
modelling read what they read without a prompt.
"""

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.hooks import n_kept
from autopeft.ops.point import Point
from autopeft.ops.prompt import Prompt


def lengthen(anatomy: Anatomy, prompt: Prompt, *, cut: bool) -> Iterator[RemovableHandle]:
    """Let rows begin with a prompt inside of a model, after all other hooks have been put in.

    Args:
        anatomy: of the model.
        prompt: of one trial.
        cut: what the last layer puts out is one token, no longer row.
    """
    prompt.stand_at(Point(anatomy.words, "out"))
    hook = partial(lengthen_hook, prompt, anatomy.n_positions)
    # Gates, which look at the mask, have to see the longer one.
    yield anatomy.base.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
    if not cut:
        # A pooler in the base model reads the first token.
        whole = anatomy.layers[-1] if anatomy.first_token else anatomy.base
        yield whole.register_forward_hook(partial(shorten_hook, prompt.padded))


def lengthen_hook(
    prompt: Prompt,
    n_positions: int | None,
    base: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A pre-hook of the base model.

    Args:
        prompt: of one trial.
        n_positions: tokens that the model has embeddings of positions for; None for any number.
        base: the base model.
        args: of its forward pass.
        kwargs: likewise.

    Raises:
        DataError: a row is too long then, or the call does not begin at the rows' first token.
    """
    given = dict(inspect.signature(base.forward).bind_partial(*args, **kwargs).arguments)
    given |= given.pop("kwargs", {})
    if n_kept(given):
        raise DataError(
            "a prompt stands before a row's first token, and this call begins behind others; "
            "generate with use_cache=False"
        )
    ids = given.pop("input_ids", None)
    words: Tensor = given["inputs_embeds"] if ids is None else base.get_input_embeddings()(ids)
    tokens = prompt.tokens().to(words.dtype)
    n_before, n_tokens = len(tokens), words.shape[1]
    if n_positions is not None and n_before + n_tokens > n_positions:
        raise DataError(
            f"a prompt of {n_before} before a row of {n_tokens} tokens is more than the "
            f"{n_positions} positions of the model; take a shorter one, or a lower max_length"
        )
    given["inputs_embeds"] = torch.cat([tokens.expand(len(words), -1, -1), words], 1)
    for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
        if (row := given.get(name)) is not None:
            if row.shape != words.shape[:2]:
                raise DataError(f"with a prompt, `{name}` has to be of [row, token]")
            given[name] = nn.functional.pad(row, (n_before, 0), value=value)
    if (places := given.get("position_ids")) is not None:
        before = torch.arange(n_before, device=places.device).expand(len(places), -1)
        given["position_ids"] = torch.cat([before, places + n_before], 1)
    return (), given


def shorten_hook(n_before: int, _: nn.Module, __: tuple[Any, ...], out: Any) -> Any:
    """A hook of what puts out the states of whole rows: those of the prompt are dropped."""
    if isinstance(out, Tensor):
        return out[:, n_before:]
    if isinstance(out, tuple):
        return (out[0][:, n_before:], *out[1:])
    out.last_hidden_state = out.last_hidden_state[:, n_before:]
    return out
