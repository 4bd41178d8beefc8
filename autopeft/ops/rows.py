"""Rows of several trials in one tensor: row = block * batch + example, one block for each trial.

The backbone sees one long batch. Ops see the blocks of their own trials and no others, so what is
in one trial's rows, NaN included, never meets another's. And nobody pays for the others: neither
forward nor backward is the whole state copied because some of its trials have an op there.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from autopeft.ops.base import StackedOp


class Blocks:
    """Blocks of a state to be read; see `apart`.

    Args:
        read: by number; or the whole state, for readers of all blocks.
        n_blocks: how many the state has.
    """

    def __init__(
        self,
        read: Float[Tensor, "row *rest d"] | Mapping[int, Float[Tensor, "example *rest d"]],
        n_blocks: int,
    ) -> None:
        self._read, self._n_blocks = read, n_blocks
        self._whole = _by_block(read, n_blocks) if isinstance(read, Tensor) else None

    @property
    def rest(self) -> tuple[int, ...]:
        """What a row has between its number and the width: tokens, of a head each perhaps."""
        one = self._read if isinstance(self._read, Tensor) else next(iter(self._read.values()))
        return tuple(one.shape[1:-1])

    def take(self, blocks: Sequence[int]) -> Float[Tensor, "member token d"]:
        """Some blocks, in rising order, their examples and tokens in one dimension."""
        if isinstance(self._read, Tensor):
            return cast("Tensor", self._whole)
        if len(blocks) == 1:
            return _by_block(self._read[blocks[0]], 1)
        return torch.stack([self._read[i].flatten(0, -2) for i in blocks])

    def token(self, place: int) -> "Blocks":
        """Of each row one token alone."""
        some = slice(place, place + 1)
        if isinstance(self._read, Tensor):
            # Of what the other readers read, so that gradients are summed up as those of blocks.
            whole = cast("Tensor", self._whole).view(self._read.shape)
            return Blocks(whole[:, some], self._n_blocks)
        return Blocks({i: rows[:, some] for i, rows in self._read.items()}, self._n_blocks)


def apart(
    state: Float[Tensor, "row *rest d"],
    n_blocks: int,
    readers: Iterable[Sequence[int]],
    *,
    sole: bool = False,
) -> tuple[Float[Tensor, "row *rest d"], Blocks]:
    """Let some blocks of a state be read besides what else is done with it.

    Args:
        state: rows of all blocks.
        n_blocks: how many there are.
        readers: the blocks of each.
        sole: the state that is returned goes on to one place alone, as in `change`.

    Returns:
        The state to go on with, and the blocks.
    """
    wanted = [list(blocks) for blocks in readers]
    if all(len(blocks) == n_blocks for blocks in wanted):
        return state, Blocks(state, n_blocks)
    numbers = sorted({i for blocks in wanted for i in blocks})
    if not sole:
        # Aside, or the gradients of where else it goes would be summed up in another order.
        read = _Cut.apply(state, n_blocks, numbers)  # type: ignore[no-untyped-call]
    else:
        state, *read = _Apart.apply(state, n_blocks, numbers)  # type: ignore[no-untyped-call]
    return state, Blocks(dict(zip(numbers, read, strict=True)), n_blocks)


class _Cut(Function):
    """Some blocks of a state; by autograd the gradient of each would be as large as the whole."""

    @staticmethod
    def forward(
        ctx: Any, state: Tensor, n_blocks: int, numbers: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Nothing is copied."""
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.n_blocks, ctx.numbers = state.shape, n_blocks, numbers
        cut = state.chunk(n_blocks)
        return tuple(cut[i] for i in numbers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of_read: Tensor | None) -> tuple[Tensor | None, None, None]:
        """Zero for the other blocks."""
        found = _found(ctx.numbers, of_read)
        if not found:
            return None, None, None
        grad = next(iter(found.values())).new_empty(ctx.shape)
        cut = grad.chunk(ctx.n_blocks)
        torch._foreach_copy_([cut[i] for i in found], list(found.values()))
        if rest := [block for i, block in enumerate(cut) if i not in found]:
            torch._foreach_zero_(rest)
        return grad, None, None


class _Apart(Function):
    """A state and some blocks of it, whose gradients are added to the one that the state gets."""

    @staticmethod
    def forward(
        ctx: Any, state: Tensor, n_blocks: int, numbers: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Nothing is copied."""
        ctx.n_blocks, ctx.numbers = n_blocks, numbers
        ctx.set_materialize_grads(False)
        cut = state.chunk(n_blocks)
        return (state, *(cut[i] for i in numbers))

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, *of_read: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        """Written over the gradient of the state."""
        if grad is None:
            raise RuntimeError("a state that is read goes nowhere else")
        found = _found(ctx.numbers, of_read)
        if found:
            cut = grad.chunk(ctx.n_blocks)
            torch._foreach_add_([cut[i] for i in found], list(found.values()))
        return grad, None, None


class Act(NamedTuple):
    """An op and what it reads.

    Attributes:
        op: changes the blocks of its own trials.
        x: what it reads there; None if it reads the state that it changes.
    """

    op: StackedOp
    x: Float[Tensor, "member token d_read"] | None


def change(
    state: Float[Tensor, "row *rest d"],
    n_blocks: int,
    acts: Sequence[Act],
    *,
    fresh: bool,
    sole: bool = False,
) -> Float[Tensor, "row *rest d"]:
    """Let ops act on a state, one after the other.

    Args:
        state: rows of all blocks.
        n_blocks: how many there are.
        acts: in the order in which they act.
        fresh: nobody else holds the state or has kept it for a backward pass, so it may be
            overwritten.
        sole: the outcome goes on to one place alone, and the gradient that it gets there is nobody
            else's, so that may be overwritten as well.
    """
    if any(len(act.op.blocks) < n_blocks for act in acts):
        ops, xs = [act.op for act in acts], [act.x for act in acts]
        if not torch.is_grad_enabled():
            return _changed(state, n_blocks, ops, xs, fresh=fresh, graphs=None)
        own = [list(op.parameters()) for op in ops]
        # The last op first: autograd sums up the gradients of what ops share in this order, too.
        every = chain.from_iterable(reversed(own))
        out: Tensor = _Change.apply(state, n_blocks, fresh, sole, ops, own, *xs, *every)  # type: ignore[no-untyped-call]
        return out
    whole = _by_block(state, n_blocks)
    for op, x in acts:
        whole = _acted(op, whole, x)
    return whole.reshape(state.shape)


class _Graph(NamedTuple):
    """What one op did.

    Attributes:
        op: which.
        h: what it changed, a leaf; None if it only added to it.
        x: what it read, a leaf; None if that was h.
        new: what came out.
    """

    op: StackedOp
    h: Float[Tensor, "member token d"] | None
    x: Float[Tensor, "member token d_read"] | None
    new: Float[Tensor, "member token d"]


def _only_adds(op: StackedOp, read: Tensor | None) -> bool:
    """Whether the gradient of what comes out is that of what an op changes."""
    return read is not None and not op.scales_h


def _graph_of(op: StackedOp, h: Tensor, read: Tensor | None) -> _Graph:
    """Let an op act on h, in a graph of its own; nobody may write over an h that it changes."""
    changed = None if _only_adds(op, read) else h.detach().requires_grad_()
    x = None if read is None else read.detach().requires_grad_(read.requires_grad)
    with torch.enable_grad():
        return _Graph(op, changed, x, _acted(op, h if changed is None else changed, x))


def _acted(op: StackedOp, h: Tensor, x: Tensor | None) -> Float[Tensor, "member token d"]:
    """What an op makes of h; it reads x, or h itself."""
    x = h if x is None else x
    if op.gate is None:
        new: Tensor = op(h, x)
        return new
    gate: Tensor = op.gate(x)
    added: Tensor = op(torch.zeros_like(h), x).view(*gate.shape[:2], -1, h.shape[-1])
    return h + (gate * added).view(h.shape).to(h.dtype)


def _changed(
    state: Tensor,
    n_blocks: int,
    ops: Sequence[StackedOp],
    reads: Sequence[Tensor | None],
    *,
    fresh: bool,
    graphs: list[_Graph] | None,
) -> Tensor:
    """Overwrite block by block; without `graphs` nothing is kept of it."""
    # Autograd is not told, but whoever kept the state would be refused by its version.
    out = state.detach() if fresh else state.clone(memory_format=torch.contiguous_format)
    whole = _by_block(out, n_blocks)
    for op, read in zip(ops, reads, strict=True):
        h = _own(whole, op.blocks)
        if graphs is None:
            _overwrite(whole, op.blocks, _acted(op, h, read))
            continue
        if _are_neighbours(op.blocks) and not _only_adds(op, read):
            h = h.clone()  # the outcome is written over it
        graphs.append(_graph_of(op, h, read))
        _overwrite(whole, op.blocks, graphs[-1].new.detach())
    return out


class _Change(Function):
    """`change` where some trials lack an op.

    By autograd every op would copy the whole state, and its gradient as well. Here the state is
    overwritten block by block, and each op has a graph of its own that backward goes through.
    Where a layer is computed again, keeping the graphs would keep what the layer lets go of: they
    are made again from what the ops changed and read.
    """

    @staticmethod
    def forward(
        ctx: Any,
        state: Tensor,
        n_blocks: int,
        fresh: bool,  # noqa: FBT001
        sole: bool,  # noqa: FBT001
        ops: Sequence[StackedOp],
        own: Sequence[Sequence[Tensor]],
        *tensors: Tensor | None,
    ) -> Tensor:
        """The state, changed; `tensors` are what each op reads, then its `own` parameters."""
        ctx.n_blocks, ctx.sole, ctx.graphs, ctx.again = n_blocks, sole, [], []
        ctx.own = list(own)
        reads = tensors[: len(ops)]
        out = _changed(state, n_blocks, ops, reads, fresh=fresh, graphs=ctx.graphs)
        if any(op.again for op in ops):
            changed = [graph.h if graph.h is None else graph.h.detach() for graph in ctx.graphs]
            ctx.save_for_backward(*changed, *reads)
            ctx.graphs, ctx.again = [], list(ops)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Through the graphs of the ops, the last one first."""
        (grad,) = grads
        whole, ours = _by_block(grad, ctx.n_blocks), ctx.sole
        of_reads: list[Tensor | None] = []
        of_parameters: list[Tensor | None] = []
        saved, n_again = ctx.saved_tensors, len(ctx.again)
        again = list(zip(ctx.again, saved[:n_again], saved[n_again:], strict=True))
        while ctx.graphs or again:
            if again:
                op, was, read = again.pop()
                # What an op only adds to decides nothing but the shape.
                graph = _graph_of(op, _own(whole, op.blocks) if was is None else was, read)
            else:
                graph = ctx.graphs.pop()
            op, h, x, new = graph
            leaves = [leaf for leaf in (h, x) if leaf is not None and leaf.requires_grad]
            found = torch.autograd.grad(new, [*leaves, *ctx.own.pop()], _own(whole, op.blocks))
            of = dict(zip(map(id, leaves), found, strict=False))
            of_parameters += found[len(leaves) :]
            of_reads.insert(0, None if x is None else of.get(id(x)))
            if h is not None:
                # An op that only adds to h passes the gradient of the outcome on.
                if not ours:
                    whole, ours = whole.clone(), True
                _overwrite(whole, op.blocks, of[id(h)])
        of_state = whole.reshape(grad.shape) if ctx.needs_input_grad[0] else None
        return (of_state, None, None, None, None, None, *of_reads, *of_parameters)


def _found(numbers: Sequence[int], grads: Sequence[Tensor | None]) -> dict[int, Tensor]:
    """The gradients that there are, by number."""
    each = zip(numbers, grads, strict=True)
    return {number: grad for number, grad in each if grad is not None}


def _by_block(state: Tensor, n_blocks: int) -> Float[Tensor, "block token d"]:
    return state.reshape(n_blocks, -1, state.shape[-1])


def _are_neighbours(blocks: Sequence[int]) -> bool:
    return blocks[-1] - blocks[0] + 1 == len(blocks)


def _own(whole: Float[Tensor, "block token d"], blocks: Sequence[int]) -> Tensor:
    """Some blocks; a view if they are neighbours."""
    if _are_neighbours(blocks):
        return whole[blocks[0] : blocks[-1] + 1]
    return torch.stack([whole[i] for i in blocks])


def _overwrite(whole: Float[Tensor, "block token d"], blocks: Sequence[int], new: Tensor) -> None:
    if _are_neighbours(blocks):
        whole[blocks[0] : blocks[-1] + 1].copy_(new)
    else:
        torch._foreach_copy_([whole[i] for i in blocks], list(new))
