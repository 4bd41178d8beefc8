"""The hooks by which ops act in a model.

Plain functions, of which partials are registered: a closure would point at the old module after a
deepcopy.
"""

import inspect
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from autopeft.model.anatomy import Anatomy
from autopeft.model.attention import (
    Calls,
    HeadOps,
    Routed,
    check_called,
    count_calls,
    put_ops,
)
from autopeft.model.layer_ops import LayerPass
from autopeft.ops.gate import Tokens
from autopeft.ops.point import Part
from autopeft.space.taps import ORDER, Tap


@runtime_checkable
class Hooked(Protocol):
    """What the hooks at a layer's taps call; see `LayerOps`."""

    now: LayerPass

    @property
    def taps(self) -> Collection[Tap]:
        """Where the layer has to be hooked."""

    @property
    def through(self) -> Collection[Tap]:
        """Taps that ops read through their LayerNorm."""

    def pass_tap(self, tap: Tap, state: Tensor, *, fresh: bool) -> Tensor:
        """Apply what is written at a tap."""

    def pass_norm(self, tap: Tap, norm: nn.Module, state: Tensor) -> Tensor:
        """Apply what reads through a LayerNorm."""

    def pass_positions(self, tap: Tap, x: Tensor, state: Tensor) -> Tensor:
        """Apply what is written to projected positions."""


KEEPS_NO_OUTPUT = (nn.Linear, nn.LayerNorm, Conv1D)
"""Modules whose backward pass does not read what they put out."""

READ_NO_OUTPUT = {"GeluBackward0", "SiluBackward0", "MulBackward0", "NativeDropoutBackward0"}
"""Backward passes of activations that do not read what came out."""


def hook_taps(anatomy: Anatomy, index: int, layer: Hooked) -> list[RemovableHandle]:
    """Let the ops of a layer act at its taps; what acts inside attention does not stand here."""
    handles: list[RemovableHandle] = []
    fused: dict[nn.Module, dict[Tap, Part]] = {}
    for tap in sorted(layer.taps, key=ORDER.__getitem__):
        module, side, part = anatomy.point(index, tap)
        if part is not None:
            fused.setdefault(module, {})[tap] = part
        elif side == "in":
            hook = partial(in_hook, layer, tap)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(partial(out_hook, layer, tap)))
    for module, parts in fused.items():
        handles.append(module.register_forward_hook(partial(parts_hook, layer, parts)))
    for tap in layer.through:
        norm = anatomy.point(index, tap).module
        handles.append(norm.register_forward_pre_hook(partial(norm_hook, layer, tap)))
    return handles


def repeat_hook(
    n_trials: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let every trial have rows of its own from the first layer on."""

    def repeated(value: Any) -> Any:
        return torch.cat([value] * n_trials) if isinstance(value, Tensor) else value

    return tuple(map(repeated, args)), {name: repeated(value) for name, value in kwargs.items()}


def in_hook(
    layer: Hooked, tap: Tap, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """At the input of a module."""
    state = args[0] if args else kwargs["hidden_states"]
    source = type(state.grad_fn).__name__
    fresh = tap is Tap.FFN_MID and (state.grad_fn is None or source in READ_NO_OUTPUT)
    state = layer.pass_tap(tap, state, fresh=fresh)
    return ((state, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": state})


def out_hook(layer: Hooked, tap: Tap, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
    """At the output of a module."""
    if layer.now.block is not None:
        return layer.pass_positions(tap, args[0], out)
    fresh = isinstance(module, KEEPS_NO_OUTPUT)
    if isinstance(out, tuple):
        return (layer.pass_tap(tap, out[0], fresh=fresh), *out[1:])
    return layer.pass_tap(tap, out, fresh=fresh)


def parts_hook(
    layer: Hooked, parts: Mapping[Tap, Part], _: nn.Module, __: tuple[Any, ...], out: Tensor
) -> Tensor:
    """At an output of which each tap is a part, as of query, key and value from one module."""
    pieces = list(out.split_with_sizes(next(iter(parts.values())).widths, -1))
    for tap, part in parts.items():
        # A copy: the bits of a product depend on strides, and those on the company.
        own = pieces[part.index].clone(memory_format=torch.contiguous_format)
        pieces[part.index] = layer.pass_tap(tap, own, fresh=True)
    return torch.cat(pieces, -1)


def norm_hook(layer: Hooked, tap: Tap, norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before a LayerNorm through which ops read."""
    return (layer.pass_norm(tap, norm, args[0]), *args[1:])


def hook_attention(
    attention: nn.Module, ops: HeadOps | Routed, config: PretrainedConfig
) -> list[RemovableHandle]:
    """Let ops act inside an attention module, and refuse a pass of it in which they do not.

    Args:
        attention: the module.
        ops: what acts inside of it; `remove_ops` takes it out.
        config: of the model.
    """
    put_ops(attention, ops)
    calls = count_calls(attention)
    return [
        attention.register_forward_pre_hook(partial(uncalled_hook, calls)),
        attention.register_forward_hook(partial(called_hook, calls, config)),
    ]


def uncalled_hook(calls: Calls, _: nn.Module, __: tuple[Any, ...]) -> None:
    """Before an attention module: nothing has called the ops inside of it."""
    calls.n = 0


def called_hook(
    calls: Calls, config: PretrainedConfig, _: nn.Module, __: tuple[Any, ...], ___: Any
) -> None:
    """After it: they have been called."""
    check_called(calls, config)


def one_token_hook(place: int, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Go on with the token at one place alone.

    Contiguous, or a Linear would be a product of each row with a copy of the weight.
    """
    return (args[0][:, place : place + 1].contiguous(), *args[1:])


class OneQuery:
    """A projection of one token, of which the model sees as many as it gave.

    Args:
        place: of the token.
    """

    def __init__(self, place: int) -> None:
        self._place = place
        self._n_tokens = 0

    def take(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A pre-hook of the projection."""
        self._n_tokens = args[0].shape[1]
        return one_token_hook(self._place, module, args)

    def spread(self, _: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
        """A hook of it, behind those of ops; takes no memory."""
        return out.expand(-1, self._n_tokens, -1)


def one_block_hook(n_blocks: int, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before a projection of rows that are the same in every block."""
    return (args[0][: len(args[0]) // n_blocks], *args[1:])


def every_block_hook(n_blocks: int, _: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
    """Behind it: rows for every block."""
    return torch.cat([out] * n_blocks)


def tokens_hook(
    tokens: Tokens, n_blocks: int, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Tell gates which tokens are real, of calls with the same rows for so many blocks."""
    given = inspect.signature(base.forward).bind_partial(*args, **kwargs).arguments
    read = given.get("input_ids")
    like = given["inputs_embeds"][..., 0] if read is None else read
    mask = given.get("attention_mask")
    real = torch.ones_like(like) if mask is None else mask
    tokens.tell(None if n_kept(given) else real[: len(real) // n_blocks].float())


def n_kept(given: Mapping[str, Any]) -> int | Tensor:
    """Tokens before those of a call, whose keys and values are kept.

    Args:
        given: what a base model was called with, by name; which one has the cache depends on the
            version of transformers.
    """
    caches = (given.get(name) for name in ("past_key_values", "cache"))
    return next((cache.get_seq_length() for cache in caches if cache is not None), 0)
