"""What a study tries beside its sampler's proposals: known methods, at several sizes.

Each method comes once at the largest of its sizes that fits the budget, in the first slots. Smaller
sizes follow in every sixth slot until there are no more, a method's most different size first, and
methods in turn. So the known methods are spread over the front, take no more than their share
however long the study is, and a slot's genotype does not depend on the number of trials, which may
grow.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

from autopeft.space.genotype import Genotype
from autopeft.space.methods import WIDTH, Method, method
from autopeft.space.rates import rate_at
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap
from autopeft.study.limits import Budget

Sized = TypeVar("Sized", bound=Hashable)

FULL = "full fine-tuning"
FULL_RATES = (2e-5, 6e-5, 2e-4)
"""Learning rates that full fine-tuning is tuned over, for models that are `WIDTH` wide."""

SMALLER_EVERY = 6
"""One slot in so many is for a smaller size of a known method."""
_FIRST_SMALLER = 4
"""The first such slot; even, so that none is one of those that tune LoRA."""


@dataclass(frozen=True)
class Start:
    """A genotype that no sampler has proposed, and where it came from."""

    genotype: Genotype
    origin: str


@dataclass(frozen=True)
class Starts:
    """What is tried in which slots.

    Attributes:
        first: in the first slots: those of a warm start, then the methods.
        later: in every sixth slot after them.
    """

    first: tuple[Start, ...]
    later: tuple[Start, ...] = ()

    def at(self, slot: int) -> Start | None:
        """What is tried in a slot; None if that is left to the sampler."""
        if slot < len(self.first):
            return self.first[slot]
        turn = _turns_before(slot) - _turns_before(len(self.first))
        is_turn = slot % SMALLER_EVERY == _FIRST_SMALLER
        return self.later[turn] if is_turn and turn < len(self.later) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user has to be told of them."""
        note = (
            f"the methods are tried first, as large as fits; {len(self.later)} smaller sizes of "
            f"them follow, one in every {SMALLER_EVERY} trials"
        )
        return (note,) if self.later else ()


def starts_of(
    shape: ModelShape, budget: Budget, names: Sequence[str], warm: Sequence[Start] = ()
) -> tuple[Starts, list[str]]:
    """What is tried beside the sampler's proposals, and notes on what of methods is left out.

    Args:
        shape: of the model.
        budget: that everything has to fit.
        names: of methods.
        warm: what comes before them.
    """
    first = list(warm)
    smaller: list[list[Start]] = []
    notes = []
    for name in names:
        if reason := method(name).misfit(shape):
            notes.append(f"method {name} is left out: {reason}")
            continue
        fitting = _fitting(method(name), shape, budget)
        if not fitting:
            least = method(name).smallest(shape)
            notes.append(
                f"method {name} is left out: at its smallest it has "
                f"{budget.spent_by(least, shape)}, the budget is {budget}"
            )
            continue
        if less := method(name).shortened(shape):
            notes.append(f"method {name}: {less}")
        sizes = [
            Start(genotype, f"method {name}")
            for genotype in spread({g: g.count_params(shape) for g in fitting}, fitting[0])
        ]
        first.append(sizes[0])
        smaller.append(sizes[1:])
    in_turn = (start for turn in zip_longest(*smaller) for start in turn if start is not None)
    unique = _unique([*first, *in_turn])
    n_first = len(_unique(first))
    return Starts(unique[:n_first], unique[n_first:]), notes


def full_starts(shape: ModelShape) -> tuple[Start, ...]:
    """Full fine-tuning at each of its learning rates."""
    rates = (rate_at(rate, WIDTH, shape.widths[Tap.ATTN_IN]) for rate in FULL_RATES)
    return tuple(Start(Genotype(shape.n_layers, (), rate, full=True), FULL) for rate in rates)


def _fitting(known: Method, shape: ModelShape, budget: Budget) -> list[Genotype]:
    """The method at each size within the budget, the largest first."""
    sizes = (known.genotype(shape, level) for level in range(known.n_sizes(shape)))
    return [g for g in sizes if budget.admits(g, shape)]


def spread(params: Mapping[Sized, int], first: Sized) -> list[Sized]:
    """All of them, each next one as far from those before as can be, in log(1 + parameters)."""
    left = {one: math.log1p(n_params) for one, n_params in params.items()}
    chosen = {first: left.pop(first)}
    while left:
        farthest = max(left, key=lambda one: min(abs(left[one] - size) for size in chosen.values()))
        chosen[farthest] = left.pop(farthest)
    return list(chosen)


def _unique(starts: Iterable[Start]) -> tuple[Start, ...]:
    """The first of each genotype."""
    found: dict[str, Start] = {}
    for start in starts:
        found.setdefault(start.genotype.hash, start)
    return tuple(found.values())


def _turns_before(slot: int) -> int:
    return len(range(_FIRST_SMALLER, slot, SMALLER_EVERY))
