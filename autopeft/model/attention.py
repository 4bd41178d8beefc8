"""Attention with prefixes and adapters, as a function that transformers models look up by name.

Both the function and its mask builder are registered: a name without a mask builder would get no
mask at all, and padding would leak. The mask is always the explicit additive one, because SDPA
without a mask and with `is_causal` would crop the keys that a prefix adds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import eager_mask

from autopeft.errors import DataError
from autopeft.model.computing import Kernel
from autopeft.model.kernels import KERNELS, attend
from autopeft.ops.multihead import MultiHead
from autopeft.ops.per_thread import PerThread
from autopeft.ops.prefix import Prefix
from autopeft.ops.rows import Act, Blocks, apart, change
from autopeft.space.genotype import Genotype
from autopeft.space.taps import QUERIES

_OURS = "autopeft_"
_OPS = "_autopeft_ops"
_COUNTER = "_autopeft_calls"
_PLACE = "_autopeft_place"

_UNKNOWN = ("s_aux", "sinks", "indices", "block_indices")
"""What some models give to attention that decides on its outcome: sinks, and tokens to look at."""

_FEW = 8
"""Queries that stand for one: products of one to three rows would have other bits than of more."""


def kernel_for(genotype: Genotype) -> Kernel | None:
    """How attention is computed that is to stay as it is: by the model itself (None) if it can.

    What acts inside of it needs a kernel of ours, and then the fast one.
    """
    return "sdpa" if any(op.write in QUERIES for op in genotype.ops) else None


def use_attention(model: PreTrainedModel, kernel: Kernel) -> None:
    """Let a model call attention through this file; eagerly where its own cannot be SDPA."""
    able = model._supports_sdpa  # noqa: SLF001
    model.set_attn_implementation(f"{_OURS}{kernel if able else 'eager'}")


def calls_attention(model: PreTrainedModel) -> bool:
    """Whether it does."""
    return _is_ours(model.config)


def _is_ours(config: PretrainedConfig) -> bool:
    return str(config._attn_implementation).startswith(_OURS)  # noqa: SLF001


class HeadOps(NamedTuple):
    """What acts inside attention.

    Attributes:
        prefixes: of different trials.
        adapters: add to what the heads put out.
    """

    prefixes: Sequence[Prefix]
    adapters: Sequence[MultiHead]


Routed = Callable[[], Sequence[tuple[slice, HeadOps]]]
"""Tells what acts inside attention for which rows, where these are not blocks of equal size."""


def put_ops(attention: nn.Module, ops: HeadOps | Routed) -> None:
    """Give an attention module its ops, without registering them a second time."""
    object.__setattr__(attention, _OPS, ops)


def keep_query(attention: nn.Module, place: int) -> None:
    """Let an attention module look from the token at one place alone.

    For the others it puts out the same.
    """
    object.__setattr__(attention, _PLACE, place)


def remove_ops(attention: nn.Module) -> None:
    """Undo `put_ops`, `keep_query` and `count_calls`."""
    for name in (_OPS, _COUNTER, _PLACE):
        if hasattr(attention, name):
            object.__delattr__(attention, name)


class Calls(PerThread):
    """How often the attention function has run in the pass of a module that is going on."""

    def __init__(self) -> None:
        self.n = 0


def count_calls(attention: nn.Module) -> Calls:
    """Let the attention function count how often it runs for a module.

    A model that ignores the registry accepts any name and silently never calls the function, and
    anybody may set another name later.
    """
    calls = Calls()
    object.__setattr__(attention, _COUNTER, calls)
    return calls


def check_called(calls: Calls, config: PretrainedConfig) -> None:
    """Refuse a pass in which attention did not go through the registry.

    Raises:
        DataError: it did not.
    """
    if calls.n:
        return
    if not _is_ours(config):
        raise DataError(
            "ops act inside of attention, which autopeft computes then; by "
            f"`set_attn_implementation` it is `{config._attn_implementation}` now, "  # noqa: SLF001
            f'which would ignore them; `model.set_attn_implementation("{_OURS}sdpa")` undoes that'
        )
    raise DataError(
        f"models of type `{config.model_type}` do not call the registered attention function, "
        "so what acts in the heads would be ignored"
    )


def _attention(
    kernel: Kernel,
    module: nn.Module,
    query: Float[Tensor, "row head query d_head"],
    key: Float[Tensor, "row kv_head token d_head"],
    value: Float[Tensor, "row kv_head token d_head"],
    attention_mask: Float[Tensor, "#batch #head query token"] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Float[Tensor, "#batch head query token"] | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "row query head d_head"], None]:
    """What transformers calls, once a kernel is chosen; there are no weights to return."""
    if unknown := [name for name in _UNKNOWN if more.get(name) is not None]:
        raise DataError(
            f"attention of {type(module).__name__} is given {', '.join(unknown)}, which decide on "
            "its outcome and are not known here"
        )
    if (calls := getattr(module, _COUNTER, None)) is not None:
        calls.n += 1
    mask = attention_mask
    if position_bias is not None:  # T5's, which is added to the scores as the mask is
        mask = position_bias if mask is None else position_bias + mask
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    held: HeadOps | Routed = getattr(module, _OPS, HeadOps((), ()))
    n_queries = query.shape[2]
    if (place := getattr(module, _PLACE, None)) is not None:
        query = query[:, :, place : place + 1].expand(-1, -1, _FEW, -1)
        mask = mask if mask is None else mask[:, :, place : place + 1].expand(-1, -1, _FEW, -1)
    outs = []
    for rows, ops in [(slice(None), held)] if isinstance(held, HeadOps) else held():
        own = mask if mask is None or len(mask) == 1 else mask[rows]
        q, k, v = query[rows], key[rows], value[rows]
        q, read = _read(q, ops.adapters)
        out = _forward(kernel, ops.prefixes, q, k, v, own, scale, dropout, softcap)
        outs.append(_adapted(out.contiguous(), read, ops.adapters))
    every = torch.cat(outs) if len(outs) > 1 else outs[0]
    return every if place is None else every[:, :1].expand(-1, n_queries, -1, -1), None


def _read(
    query: Float[Tensor, "row head query d_head"], adapters: Sequence[MultiHead]
) -> tuple[Float[Tensor, "row head query d_head"], Blocks | None]:
    """Queries to go on with, and those that adapters read."""
    if not adapters:
        return query, None
    of_tokens, read = apart(
        query.transpose(1, 2), adapters[0].n_blocks, [op.blocks for op in adapters], sole=True
    )
    return of_tokens.transpose(1, 2), read


def _adapted(
    out: Float[Tensor, "row query head d_head"],
    read: Blocks | None,
    adapters: Sequence[MultiHead],
) -> Float[Tensor, "row query head d_head"]:
    if read is None:
        return out
    acts = [Act(op, read.take(op.blocks)) for op in adapters]
    return change(out, adapters[0].n_blocks, acts, fresh=False)


def _forward(
    kernel: Kernel,
    prefixes: Sequence[Prefix],
    query: Float[Tensor, "row head query d_head"],
    key: Float[Tensor, "row kv_head token d_head"],
    value: Float[Tensor, "row kv_head token d_head"],
    mask: Float[Tensor, "#batch #head query token"] | None,
    scale: float,
    dropout: float,
    softcap: float | None,
) -> Float[Tensor, "row query head d_head"]:
    if not prefixes:
        return attend(kernel, query, key, value, mask, scale, dropout, softcap)
    batch = len(query) // prefixes[0].n_blocks
    if mask is None:
        mask = query.new_zeros(batch, 1, query.shape[2], key.shape[2])
    mask = mask[:batch].expand(batch, -1, -1, -1)  # of the examples that every block has
    owners, lengths = _runs(prefixes)
    n_rows = [batch * length for length in lengths]
    cut = [torch.split(t, n_rows) for t in (query, key, value)]
    out: dict[int, Tensor] = {}
    for prefix in prefixes:
        own = [run for run, owner in enumerate(owners) if owner is prefix]
        q, k, v = (_together(t, own) for t in cut)
        part = attend(kernel, q, *prefix.extend(k, v, mask), scale, dropout, softcap)
        out |= dict(zip(own, torch.split(part, [n_rows[run] for run in own]), strict=True))
    free = [run for run, owner in enumerate(owners) if owner is None]
    # As they lie; a GPU would rather copy than be asked for each.
    at_once = 1 if query.device.type == "cpu" else max(1, len(free))
    for start in range(0, len(free), at_once):
        own = free[start : start + at_once]
        q, k, v = (_together(t, own) for t in cut)
        part = attend(kernel, q, k, v, mask, scale, dropout, softcap)
        out |= dict(zip(own, torch.split(part, [n_rows[run] for run in own]), strict=True))
    return _together(out, range(len(owners)))


def _runs(prefixes: Sequence[Prefix]) -> tuple[list[Prefix | None], list[int]]:
    """Neighbouring blocks with the same prefixes, or with none: whose they are, and how many."""
    owner = dict.fromkeys(range(prefixes[0].n_blocks)) | {
        block: prefix for prefix in prefixes for block in prefix.blocks
    }
    runs = [(key, len(list(some))) for key, some in groupby(owner.values())]
    return [key for key, _ in runs], [length for _, length in runs]


def _together(
    cut: Sequence[Tensor] | Mapping[int, Tensor], runs: Sequence[int]
) -> Float[Tensor, "row *rest"]:
    return torch.cat([cut[i] for i in runs]) if len(runs) > 1 else cut[runs[0]]


def _mask(
    *args: Any,
    attention_mask: Tensor | None = None,
    allow_is_bidirectional_skip: bool = False,
    **kwargs: Any,
) -> Float[Tensor, "batch 1 query token"] | None:
    """The additive mask of transformers, which leaves it out where nothing is padded.

    To find that out it looks into the mask. On a GPU that would wait for all that came before.
    """
    here = attention_mask is None or attention_mask.device.type == "cpu"
    skip = allow_is_bidirectional_skip and here
    mask: Tensor | None = eager_mask(
        *args, attention_mask=attention_mask, allow_is_bidirectional_skip=skip, **kwargs
    )
    return mask


for _kernel in KERNELS:
    AttentionInterface.register(f"{_OURS}{_kernel}", partial(_attention, _kernel))
    AttentionMaskInterface.register(f"{_OURS}{_kernel}", _mask)
