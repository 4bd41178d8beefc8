"""From a total, shares and layers that were drawn to the sizes of a space by construction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from autopeft.space.allocate import Cell, allocate
from autopeft.space.layout import LayoutKind
from autopeft.space.seed import seed_of
from autopeft.space.slot import Slot, Variant

OFF = 0.5
"""A share coordinate up to here means that the slot is absent."""


@dataclass(frozen=True)
class Place:
    """What was drawn for a slot.

    Attributes:
        slot: of a space.
        variant: of its choices.
        weights: one for each layer; 0 where it is absent.
        share: from 0 to 1, see `OFF`.
    """

    slot: Slot
    variant: Variant
    weights: tuple[float, ...]
    share: float

    @cached_property
    def layers(self) -> list[int]:
        """The layers where it is present if it is paid for."""
        return [i for i in self.slot.layers(self.variant) if self.weights[i] > 0]

    @cached_property
    def cells(self) -> list[tuple[Cell, list[int]]]:
        """The sizes to choose, with the layers each is for; weights sum to 1."""
        slot, variant = self.slot, self.variant
        whole = sum(self.weights[i] for i in self.layers)
        tied = slot.layout.coupled and self.layers
        costs = {size: slot.costs(variant, size) for size in slot.sizes}
        cells = []
        for group in [self.layers] if tied else [[i] for i in self.layers]:
            weight = sum(self.weights[i] for i in group) / whole
            cost = {size: sum(each[i] for i in group) for size, each in costs.items()}.__getitem__
            cells.append((Cell(weight, slot.sizes, cost, slot.entry(variant), variant.form), group))
        return cells

    @property
    def least(self) -> float:
        """Parameters with which something of it is there, all layers that are tied together."""
        return min((cell.least for cell, _ in self.cells), default=math.inf)

    @property
    def least_in_part(self) -> float:
        """The same, if it may stand in fewer layers than were drawn."""
        parts = self.slot.layout.parts(self.layers, len(self.weights))
        alone = self.slot.layout.alone(parts)
        return min((self.slot.price(self.variant, part) for part in alone), default=math.inf)

    def in_part(self, total: float) -> "Place":
        """In as many of the layers that were drawn as a total pays for."""
        parts = self.slot.layout.parts(self.layers, len(self.weights))
        if self.slot.layout.kind is LayoutKind.TOP:
            parts.reverse()
        else:  # any of them, or some would hardly ever be there
            drawn = (self.slot.name, total.hex(), *map(str, self.layers))
            parts.sort(key=lambda part: seed_of(part[0], *drawn))
        kept: list[int] = []
        for part in parts:
            if self.slot.price(self.variant, [*kept, *part]) <= total:
                kept += part
            elif self.slot.layout.kind is LayoutKind.TOP:
                break
        weights = (weight if i in kept else 0.0 for i, weight in enumerate(self.weights))
        return replace(self, weights=tuple(weights))


def spend(places: Sequence[Place], total: float, most: float) -> dict[str, list[int]]:
    """Choose the sizes of a draw.

    A total that pays for nothing of what was drawn becomes what the cheapest of it takes, in fewer
    layers where they are tied. So nothing is there only if all of it is over the limit.

    Args:
        places: what was drawn for each slot.
        total: parameters to spend.
        most: the limit.

    Returns:
        A size for each layer, by slot.
    """
    payable = [place for place in places if place.least <= total]
    if not payable and places:
        nearest = min(places, key=lambda place: (place.least_in_part, -place.share))
        if nearest.least_in_part <= most:
            total = max(total, float(nearest.least_in_part))
            payable = [nearest.in_part(total)]
    cells, layers = [], []
    for place, share in _shares(payable, alone=len(places) == 1):
        for cell, where in place.cells:
            if cell.least > total:
                continue  # in a hybrid some layers are dearer, and the rest has to remain
            cells.append(replace(cell, weight=cell.weight * share))
            layers.append((place.slot.name, where))
    sizes = {place.slot.name: [0] * len(place.weights) for place in places}
    for (name, where), size in zip(layers, allocate(cells, total), strict=True):
        for i in where:
            sizes[name][i] = size
    return sizes


def _shares(places: Sequence[Place], *, alone: bool) -> list[tuple[Place, float]]:
    """The part of each slot that is present; if none is, the one closest to it."""
    if alone:
        return [(place, 1.0) for place in places]
    present = [(place, place.share - OFF) for place in places if place.share > OFF]
    if present or not places:
        return present
    return [(max(places, key=lambda place: place.share), 1.0)]
