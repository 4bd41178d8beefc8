"""Spending a parameter budget: sizes rounded down so that a draw fits by construction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SLACK = 1e-9


@dataclass(frozen=True)
class Cell:
    """One size to choose: an op in one layer, or in several that share the size.

    Attributes:
        weight: its part of the budget, relative to the other cells.
        sizes: the allowed positive sizes, in any order.
        cost: parameters for a size.
        entry: further parameters that the first present cell of its pool pays for all of them.
        pool: the cells that share them.
    """

    weight: float
    sizes: Sequence[int]
    cost: Callable[[int], int]
    entry: int = 0
    pool: str = ""

    @property
    def least(self) -> int:
        """The cost of the cheapest size of this cell alone."""
        return min(map(self.cost, self.sizes)) + self.entry


def allocate(cells: Sequence[Cell], total: float) -> list[int]:
    """Choose a size for each cell so that the costs sum to at most `total`.

    Each cell gets the dearest size that its part pays for; what it leaves over goes to the next
    larger cell. So small parts are not starved by rounding, the total is never exceeded, and
    at least one cell gets something if `total` pays for the cheapest size of the heaviest cell.

    Args:
        cells: the sizes to choose; a weight of 0 means absent.
        total: parameters to spend.

    Returns:
        A size for each cell, 0 where it is absent.
    """
    present = sorted(
        (i for i, cell in enumerate(cells) if cell.weight > 0), key=lambda i: cells[i].weight
    )
    pools = {cells[i].pool: cells[i].entry for i in present}
    chosen = _spend(cells, present, total - sum(pools.values()), set(pools))
    # What is shared comes off the top, unless nothing can be paid for then.
    return chosen if any(chosen) else _spend(cells, present, total, set())


def _spend(
    cells: Sequence[Cell], present: Sequence[int], total: float, entered: set[str]
) -> list[int]:
    """The sizes when the entries of some pools have been paid."""
    whole = sum(cells[i].weight for i in present)
    chosen = [0] * len(cells)
    granted, spent = 0.0, 0
    for i in present:
        cell = cells[i]
        granted += cell.weight / whole
        # Float error takes nothing from a cell whose part pays for it exactly.
        left = min(total * granted * (1 + _SLACK), total) - spent
        entry = 0 if cell.pool in entered else cell.entry
        payable = [(cell.cost(size) + entry, size) for size in cell.sizes]
        cost, chosen[i] = max((pair for pair in payable if pair[0] <= left), default=(0, 0))
        spent += cost
        if cost:
            entered.add(cell.pool)
    return chosen
