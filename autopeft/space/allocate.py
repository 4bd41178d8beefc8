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
    """

    weight: float
    sizes: Sequence[int]
    cost: Callable[[int], int]


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
    whole = sum(cells[i].weight for i in present)
    chosen = [0] * len(cells)
    granted, spent = 0.0, 0
    for i in present:
        cell = cells[i]
        granted += cell.weight / whole
        # Float error takes nothing from a cell whose part pays for it exactly.
        left = min(total * granted * (1 + _SLACK), total) - spent
        payable = [(cell.cost(size), size) for size in cell.sizes]
        cost, chosen[i] = max((pair for pair in payable if pair[0] <= left), default=(0, 0))
        spent += cost
    return chosen
