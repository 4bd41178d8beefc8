"""A search space bound to a model and a budget: coordinates to genotypes and back.

With `draw: budget` every point fits: a draw is the total, the share of each slot and the profile
over the layers, from which sizes follow by rounding down. With `draw: filter` sizes are drawn as
they are and whatever is over the budget is drawn again (published spaces of that kind).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from autopeft.space.costs import MemoryLimit
from autopeft.space.dimension import Dimension, Integer, Params, Real
from autopeft.space.genotype import Genotype
from autopeft.space.layout import Layout
from autopeft.space.shape import ModelShape
from autopeft.space.slot import Slot, Variant
from autopeft.space.spec import Range, SpaceSpec
from autopeft.space.spend import Place, spend
from autopeft.space.taps import Tap

_DIGITS = 3
"""Significant digits of a drawn hyperparameter, so that a genotype can be read and typed."""


@dataclass(frozen=True)
class SearchSpace:
    """A space for one model and budget. `bind` builds it.

    Attributes:
        spec: the file.
        shape: the model.
        max_params: no genotype may have more parameters in its ops once they are trained.
        slots: those that fit, in the order of the file.
        notes: what had to be left out, for the user.
        max_trained: no genotype may have more parameters in its ops while they are trained.
        memory: limits what training one alone takes; None if that is not limited.
    """

    spec: SpaceSpec
    shape: ModelShape
    max_params: int
    slots: tuple[Slot, ...]
    notes: tuple[str, ...]
    max_trained: int | None = None
    memory: MemoryLimit | None = None

    @cached_property
    def encoded(self) -> dict[Genotype, Params | None]:
        """What `encode` has found so far; samplers ask for the same genotypes again and again."""
        return {}

    def admits(self, genotype: Genotype) -> bool:
        """Whether it is within the limits on parameters and memory."""
        return within(genotype, self.shape, self.max_params, self.max_trained, self.memory)

    @property
    def by_construction(self) -> bool:
        """Every draw fits the budget."""
        return self.spec.draw == "budget"

    def dimensions(self) -> list[Dimension]:
        """All coordinates of a draw, in a fixed order."""
        dims: list[Dimension] = []
        if self.by_construction:
            dims.append(Real("total", self.least_total(), self.max_params, log=True))
            if len(self.slots) > 1:
                dims += [Real(f"{slot.name}.share", 0.0, 1.0) for slot in self.slots]
        else:
            dims += [Integer(name, 0, len(slot.sizes)) for name, slot, _ in self.size_axes()]
        for layout in {slot.layout.name: slot.layout for slot in self.slots}.values():
            if self.by_construction or layout.coupled:
                dims += layout.dimensions(self.shape.n_layers)
        for slot in self.slots:
            dims += slot.dimensions()
        return dims + self._training_dimensions()

    def decode(self, params: Params) -> Genotype:
        """The genotype at these coordinates."""
        variants = {slot.name: slot.variant(params) for slot in self.slots}
        sizes = self._spend(params, variants) if self.by_construction else self._sizes(params)
        ops = [op for slot in self.slots for op in slot.ops(variants[slot.name], sizes[slot.name])]
        training = {
            name: _rounded(float(params[name])) if isinstance(value, Range) else value
            for name, value in self.training().items()
        }
        rate, decay = training["learning_rate"], training["weight_decay"]
        return Genotype(self.shape.n_layers, tuple(ops), rate, decay)

    def cardinality(self) -> int:
        """Distinct sets of ops at most, budget and continuous hyperparameters left aside."""
        n_layers, total = self.shape.n_layers, 1
        coupled: dict[Layout, int] = {}
        for slot in self.slots:
            n_variants = len(slot.variants)
            if slot.layout.coupled:
                ways = coupled.get(slot.layout, 1)
                coupled[slot.layout] = ways * (1 + n_variants * len(slot.sizes))
            else:
                total *= 1 + n_variants * ((1 + len(slot.sizes)) ** n_layers - 1)
        for layout, ways in coupled.items():
            total *= 1 + layout.patterns(n_layers) * (ways - 1)
        return total

    def least_total(self) -> int:
        """Parameters of the cheapest op that the space has."""
        return min(slot.least for slot in self.slots)

    def _spend(self, params: Params, variants: Mapping[str, Variant]) -> dict[str, list[int]]:
        places = [
            Place(
                slot,
                variants[slot.name],
                tuple(slot.layout.weights(params, self.shape.n_layers)),
                float(params.get(f"{slot.name}.share", 1.0)),
            )
            for slot in self.slots
        ]
        return spend(places, float(params["total"]), self.max_params)

    def _sizes(self, params: Params) -> dict[str, list[int]]:
        out = {slot.name: [0] * self.shape.n_layers for slot in self.slots}
        for name, slot, layers in self.size_axes():
            size = (0, *slot.sizes)[int(params[name])]
            weights = [1.0] * self.shape.n_layers
            if slot.layout.coupled:
                weights = slot.layout.weights(params, self.shape.n_layers)
            for i in layers:
                out[slot.name][i] = size if weights[i] > 0 else 0
        return out

    def size_axes(self) -> Iterator[tuple[str, Slot, list[int]]]:
        """Where sizes are drawn as they are: coordinate, slot, and the layers it sizes."""
        every = list(range(self.shape.n_layers))
        for slot in self.slots:
            if slot.layout.coupled:
                yield f"{slot.name}.size", slot, every
            else:
                for i in every:
                    yield f"{slot.name}.size{i}", slot, [i]

    def training(self) -> dict[str, float | Range]:
        """The training hyperparameters by name, fixed or drawn."""
        return {
            "learning_rate": self.spec.training.rate(self.shape.widths[Tap.ATTN_IN]),
            "weight_decay": self.spec.training.weight_decay,
        }

    def _training_dimensions(self) -> list[Dimension]:
        return [
            Real(name, value.low, value.high, value.log)
            for name, value in self.training().items()
            if isinstance(value, Range)
        ]


def within(
    genotype: Genotype,
    shape: ModelShape,
    max_params: int,
    max_trained: int | None,
    memory: MemoryLimit | None = None,
) -> bool:
    """Whether a genotype has at most so many parameters, stored and trained, and takes no more."""
    return (
        genotype.count_params(shape) <= max_params
        and (max_trained is None or genotype.count_trained(shape) <= max_trained)
        and (memory is None or memory.admits(genotype, shape))
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
