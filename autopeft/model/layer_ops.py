"""The ops of one layer: what they read, what they write, and in which order."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from autopeft.ops.base import StackedOp
from autopeft.ops.build import Group
from autopeft.ops.per_thread import PerThread
from autopeft.ops.prefix import Prefix
from autopeft.ops.prompt import Prompt
from autopeft.ops.rows import Act, Blocks, apart, change
from autopeft.space.forms import Form
from autopeft.space.taps import ORDER, QUERIES, THROUGH_NORM, Tap


class LayerPass(PerThread):
    """A forward pass in a layer.

    Attributes:
        block: whose turn it is where projected positions pass; None where states do.
        seen: the states that ops will read, by tap.
        positions: projected ones of every block, by tap.
    """

    def __init__(self) -> None:
        self.block: int | None = None
        self.seen: dict[Tap, Blocks] = {}
        self.positions: dict[Tap, tuple[Tensor, ...]] = {}


class LayerOps(nn.Module):
    """The ops of one layer, and the states that they read before they write.

    Args:
        ops: by group.
        n_blocks: blocks of rows that the layer computes.

    Attributes:
        now: the pass that is going on.
        place: of the token with which a row goes on alone, where one does.
    """

    def __init__(self, ops: Mapping[Group, StackedOp], n_blocks: int) -> None:
        super().__init__()
        self.n_blocks = n_blocks
        self.now = LayerPass()
        self.place = 0
        self.stacks = nn.ModuleDict({_key(group): op for group, op in ops.items()})
        self.writes: dict[Tap, list[tuple[Tap, StackedOp]]] = {}
        self.through: dict[Tap, list[StackedOp]] = {}
        self.inside: dict[Tap, list[StackedOp]] = {}
        self.prompt: Prompt | None = None
        for group in sorted(ops, key=_rank):
            if isinstance(prompt := ops[group], Prompt):
                self.prompt = prompt
            elif THROUGH_NORM.get(group.read) == group.write:
                self.through.setdefault(group.read, []).append(ops[group])
            elif group.write in QUERIES:
                self.inside.setdefault(group.write, []).append(ops[group])
            else:
                self.writes.setdefault(group.write, []).append((group.read, ops[group]))
        self.looking = [op for op in ops.values() if isinstance(op, Prefix) and op.gate is not None]
        self._last_use: dict[Tap, Tap] = {}
        self._readers: dict[Tap, list[StackedOp]] = {}
        for write in Tap:
            for read, op in self.writes.get(write, []):
                if read != write:
                    self._last_use[read] = write
                    self._readers.setdefault(read, []).append(op)

    @property
    def taps(self) -> set[Tap]:
        """Where this layer has to be hooked."""
        looked_at = {Tap.ATTN_IN} if self.looking else set()
        return set(self.writes) | set(self._last_use) | looked_at

    @property
    def needs_all_tokens(self) -> bool:
        """Whether an op behind attention reads more than its own token."""
        behind = [op for tap, some in self.writes.items() for _, op in some if _is_behind(tap)]
        behind += [op for tap, some in self.through.items() for op in some if _is_behind(tap)]
        return any(op.gate is not None for op in behind)

    @property
    def needs_all_queries(self) -> bool:
        """Whether one reads more than what becomes of its own query."""
        of_queries = [op for tap in _OF_QUERIES for _, op in self.writes.get(tap, [])]
        return self.needs_all_tokens or any(op.gate is not None for op in of_queries)

    def pass_tap(self, tap: Tap, state: Tensor, *, fresh: bool) -> Tensor:
        """Apply what is written at a tap and keep what will be read from it.

        Args:
            tap: where.
            state: rows of all blocks.
            fresh: nobody else has the state.
        """
        if tap in self.writes:
            acts = [
                Act(op, None if read == tap else self._read(read, state).take(op.blocks))
                for read, op in self.writes[tap]
            ]
            state = change(state, self.n_blocks, acts, fresh=fresh, sole=tap in _SOLE)
        for read in [r for r, last in self._last_use.items() if last == tap]:
            self.now.seen.pop(read, None)
        looking = self.looking if tap is Tap.ATTN_IN else []
        if readers := [op.blocks for op in (*self._readers.get(tap, ()), *looking)]:
            state, seen = apart(state, self.n_blocks, readers, sole=tap in _SOLE)
            if tap in self._last_use:
                self.now.seen[tap] = seen
            for op in looking:
                op.look(seen.take(op.blocks))
        return state

    def _read(self, tap: Tap, like: Tensor) -> Blocks:
        """What was seen at a tap, of one token where a state has no more."""
        seen = self.now.seen[tap]
        return seen if seen.rest == like.shape[1:-1] else seen.token(self.place)

    def pass_norm(self, tap: Tap, norm: nn.Module, state: Tensor) -> Tensor:
        """Apply the ops that read a state through its LayerNorm, before the norm itself runs."""
        for op in self.through[tap]:
            state, read = apart(state, self.n_blocks, [op.blocks], sole=True)
            through = norm.forward(read.take(op.blocks))
            state = change(state, self.n_blocks, [Act(op, through)], fresh=False, sole=True)
        return state

    def pass_positions(self, tap: Tap, x: Tensor, state: Tensor) -> Tensor:
        """Apply what is written to projected positions, for the trial whose turn it is.

        What is read here is read of states alone.

        Args:
            tap: where.
            x: the positions before their projection, one row for all trials.
            state: and after it.
        """
        if tap not in self.writes:
            return state
        positions = self.now.positions
        if tap not in positions:
            n = self.n_blocks
            readers = [op.blocks for read, op in self.writes[tap] if read != tap]
            _, before = apart(x.repeat(n, 1, 1), n, readers)
            acts = [
                Act(op, None if read == tap else before.take(op.blocks))
                for read, op in self.writes[tap]
            ]
            positions[tap] = change(state.repeat(n, 1, 1), n, acts, fresh=True).chunk(n)
        return positions[tap][self.now.block or 0]

    def forget(self) -> None:
        """Let go of the states that were read, and of all that they were made of."""
        self.now.seen.clear()

    def cut(self, rows: Tensor) -> Sequence[Tensor]:
        """The rows of each block."""
        return rows.chunk(self.n_blocks)

    def forget_positions(self) -> None:
        """Let go of what `pass_positions` keeps from block to block."""
        self.now.positions.clear()


_SOLE = {Tap.PRE_O, Tap.CROSS_PRE_O, Tap.FFN_MID}
"""Taps whose state goes to one projection and nowhere else."""

_OF_QUERIES = (Tap.Q, Tap.PRE_O, Tap.ATTN_OUT)
"""Taps that have a token for each query, up to the norm behind attention."""


def _key(group: Group) -> str:
    nth = f"n{group.nth}" if group.nth else ""
    words = [group.form, group.read, group.write, group.activation, group.factor]
    return "-".join(word for word in [*words, str(group.padded or ""), nth] if word)


def _is_behind(tap: Tap) -> bool:
    return ORDER[tap] >= ORDER[Tap.ATTN_NORM]


def _rank(group: Group) -> tuple[int, Group]:
    if group.form is Form.BIAS:
        return 1, group
    if group.form is Form.SCALE:
        return 2, group
    return (3 if group.read == group.write else 0), group
