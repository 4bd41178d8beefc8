"""What every op has in common: stacked parameters, padding, initialisation per trial.

A stacked op holds the parameters of one form at one place in one layer, for several trials of a
cohort. Every parameter has the shape `[member, rows, width]`: rows is the op's size (rank, width,
prefix length) padded to a multiple of 8, the same one for all members, or 1. Padding is zero, and
since every activation maps 0 to 0 it gets no gradient and stays zero. Shapes that are the same in
every company are also what makes a trial's bits independent of the trials it is trained with.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from autopeft.ops.affine import Affine
from autopeft.ops.point import Point
from autopeft.space.forms import Form
from autopeft.space.genotype import Scale
from autopeft.space.seed import seed_of

PAD = 8


@dataclass(frozen=True)
class Member:
    """One trial's op in a stack.

    Attributes:
        trial: index of the trial in the cohort.
        seed: the trial's seed.
        path: name of the op in its trial, such as `layers.3.lowrank.attn_in.q.x2`.
        size: rank, width, prefix length; 1 for forms without a size.
        scale: the factor s.
    """

    trial: int
    seed: int
    path: str
    size: int
    scale: Scale = 1.0


@dataclass(frozen=True)
class Declared:
    """One parameter of an op, before stacking.

    Attributes:
        rows: its size in dimension 1: "size" for one row per unit of the op's size, "one", or a
            number that follows from the size and the widths, where sizes are not padded.
        width: its size in dimension 2.
        decays: weight decay applies.
        rate: factor of the trial's learning rate.
    """

    rows: Literal["size", "one"] | int
    width: int
    decays: bool = True
    rate: float = 1.0


class Stack(nn.Module, ABC):
    """Parameters of one kind, stacked over the trials that have them.

    Args:
        members: of different trials, in the order of the stack, of sizes that take one room.
    """

    pads: ClassVar[bool] = True
    """Members of sizes that are padded alike share a stack; otherwise those of one size do."""
    constants: ClassVar[tuple[str, ...]] = ()
    """Buffers of integers [member, size, width] that are stored beside the parameters."""
    chooses: ClassVar[Literal["", "looking", "rehearsed", "midway", "each step"]] = ""
    """When it chooses by the data what to train: after a look at some rows before the training,
    after a training that is then repeated, in the midst of it, or all along. Whoever trains it has
    to see to that, as a cohort does."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.stack = tuple(members)
        (self.padded,) = {self.room(m.size) for m in members}
        self.declared: dict[str, Declared] = {}

    def _fill(self, declared: Mapping[str, Declared]) -> None:
        """Make the parameters and initialise them."""
        self.declared = dict(declared)
        for name, what in self.declared.items():
            shape = (len(self.stack), self._rows(what, self.padded), what.width)
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self.reset()

    @classmethod
    def rows(cls, size: int) -> int:
        """Rows of a parameter of an op of this size; more than that where some are cut later."""
        return size

    @classmethod
    def room(cls, size: int) -> int:
        """Rows that a size takes in a stack."""
        rows = cls.rows(size)
        return padded_size(rows) if cls.pads else rows

    @staticmethod
    def _rows(what: Declared, size: int) -> int:
        if isinstance(what.rows, int):
            return what.rows
        return size if what.rows == "size" else 1

    @abstractmethod
    def declare(self) -> Mapping[str, Declared]:
        """The parameters, by name."""

    def initial(
        self,
        name: str,  # noqa: ARG002
        rows: int,
        width: int,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Float[Tensor, "rows width"]:
        """A fresh parameter of one trial; zero if a form does not say otherwise."""
        return torch.zeros(rows, width)

    def penalty(self) -> Float[Tensor, "member"] | None:
        """What is added to the loss of each member's trial; most ops add nothing."""
        return None

    def memory(self, member: int) -> dict[str, Tensor]:
        """What a member has to remember while it is trained, besides its parameters; views."""
        return {name: self.own(name, member) for name in self.constants}

    def begin(self, step: int) -> None:
        """Be told that a step of the training begins, counted from 0."""

    def watch(self, examples: int) -> None:
        """Be told that batches to look at are to come, and how many examples the next one has."""

    def choose(self) -> None:
        """Choose by the data what to train; most ops train all they have."""

    def settle(self) -> None:
        """Become what is stored, where a training ends before its end; most ops are always."""

    def rate(self, name: str) -> float:
        """Factor of the trial's learning rate for a parameter."""
        return self.declared[name].rate

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise every member from its own seed and path."""
        for name, what in self.declared.items():
            for i, member in enumerate(self.stack):
                own = self.own(name, i)
                if name == "scale":
                    own.fill_(1.0)
                    continue
                generator = torch.Generator().manual_seed(seed_of(member.seed, member.path, name))
                own.copy_(self.initial(name, own.shape[0], what.width, generator))

    def rows_of(self, name: str, member: int) -> int:
        """Rows of a parameter that belong to a member; the rest is padding."""
        return self._rows(self.declared[name], self.rows(self.stack[member].size))

    def own(self, name: str, member: int) -> Shaped[Tensor, "rows width"]:
        """A member's part of a parameter or a constant, without padding; a view."""
        if name in self.constants:
            return self.get_buffer(name)[member, : self.rows(self.stack[member].size)]
        parameter: Tensor = self.get_parameter(name)
        return parameter[member, : self.rows_of(name, member)]

    def tensors(self, trial: int) -> Iterator[tuple[str, Shaped[Tensor, "rows width"]]]:
        """A trial's parameters by full name, without padding; views."""
        for i, member in enumerate(self.stack):
            if member.trial == trial:
                for name in (*self.declared, *self.constants):
                    yield f"{member.path}.{name}", self.own(name, i)


class SharedStack(Stack):
    """What all layers of a trial have in common, stacked over trials.

    Args:
        members: of different trials, their size that of the trial's largest op of the form.
        d_model: width of the model.
    """

    form: ClassVar[Form]

    def __init__(self, members: Sequence[Member], d_model: int) -> None:
        super().__init__(members)
        self.d_model = d_model
        self._fill(self.declare())


def shared_by(stacks: Iterable[nn.Module], name: str, member: Member) -> Tensor:
    """A parameter that a member's trial has in one of some shared stacks, with its padding."""
    for stack in stacks:
        for i, one in enumerate(stack.stack if isinstance(stack, SharedStack) else ()):
            if one.trial == member.trial:
                parameter: Tensor = stack.get_parameter(name)
                return parameter[i]
    raise ValueError(f"trial {member.trial} shares no {name}")


class StackedOp(Stack):
    """An op of one form at one place, stacked over the trials that have it.

    Args:
        members: the ops of different trials, in the order of the stack, of sizes that take one
            room.
        layout: whose rows the layer computes, block by block.
        d_read: width of the tap that is read.
        d_write: width of the tap that is written.

    Attributes:
        gate: gives s for each example of x, where that is not one number.
    """

    form: ClassVar[Form]
    scales_h: ClassVar[bool] = False
    """It reads another state and yet does more to h than to add to it."""
    again: bool = False
    """Its layer is computed again in the backward pass, so it keeps no graph until then."""

    def __init__(
        self, members: Sequence[Member], *, layout: Sequence[int], d_read: int, d_write: int
    ) -> None:
        super().__init__(members)
        self.blocks = tuple(layout.index(m.trial) for m in members)
        self.n_blocks = len(layout)
        if list(self.blocks) != sorted(set(self.blocks)):
            raise ValueError("the members of a stack have to be different trials in rising order")
        self.d_read, self.d_write = d_read, d_write
        self.gate: nn.Module | None = None
        declared = dict(self.declare())
        self.learned_scale = members[0].scale == "learned"
        if self.learned_scale:
            declared["scale"] = Declared("one", 1, decays=False)
        else:
            factors = [1.0 if isinstance(m.scale, str) else m.scale for m in members]
            self.register_buffer("factor", torch.tensor(factors).view(-1, 1, 1), persistent=False)
            self._unscaled = all(factor == 1.0 for factor in factors)
        self._fill(declared)

    def stand_at(self, point: Point) -> None:
        """Be told the module whose output is written; most ops need not know."""

    @abstractmethod
    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """compose(h, s * f(x)).

        Args:
            h: the state to modify, the members' own blocks.
            x: the state that f reads, likewise; h itself for a sequential op.
        """

    def stored(self, member: int) -> tuple[int, dict[str, Tensor]]:
        """What a trained member has become: its size, and its tensors by name.

        A form that becomes another one says it in the words of that one.
        """
        own = {name: self.own(name, member) for name in self.declared}
        constants = {name: self.own(name, member).to(torch.int32) for name in self.constants}
        return self.stack[member].size, own | constants

    def as_factors(
        self,
        member: int,  # noqa: ARG002
    ) -> tuple[Float[Tensor, "rank d_read"], Float[Tensor, "rank d_write"]] | None:
        """Two factors of a member's `as_matrix`, s in the second; None if it has no such form."""
        return None

    def as_matrix(self, member: int) -> Float[Tensor, "d_write d_read"]:
        """The linear map s f of a member, in double precision.

        Raises:
            NotImplementedError: f is not linear.
        """
        factors = self.as_factors(member)
        if factors is None:
            raise NotImplementedError(f"a {self.form} is no matrix")
        down, up = (factor.double() for factor in factors)
        return up.T @ down

    def fold(self, member: int, h: Affine, *, sequential: bool) -> Affine:
        """compose(h, s f(x)) as an affine map, where h is one.

        Args:
            member: whose parameters.
            h: as it is so far; a LayerNorm is a column, its gain.
            sequential: f reads h; else what h is an affine map of.

        Raises:
            NotImplementedError: it is not affine.
        """
        matrix = self.as_matrix(member)
        return h.then(matrix) if sequential else h.plus(matrix)

    def factor_of(self, member: int) -> Float[Tensor, "1 1"]:
        """The factor s of a member, constant or learned."""
        held: Tensor = (
            self.get_parameter("scale") if self.learned_scale else self.get_buffer("factor")
        )
        return held[member]

    def scaled(self, last: Float[Tensor, "member rows d"]) -> Float[Tensor, "member rows d"]:
        """S * the last linear map of f, so that f needs no pass of its own for s."""
        if self.learned_scale:
            return last * self.get_parameter("scale")
        if self._unscaled:
            return last
        factor: Tensor = self.get_buffer("factor")
        return last * factor


def padded_size(size: int) -> int:
    """The next multiple of 8: tiny products would have other bits, and are no faster."""
    return -(-size // PAD) * PAD
