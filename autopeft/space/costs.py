"""What a genotype costs while it trains and while it answers, by a plain model that was fitted.

A cost is linear in what a genotype does: something for the backbone alone, something for each layer
that gradients pass through, and for each form two things, of which the one is proportional to where
its ops stand and the other to their sizes. The coefficients follow from a few measurements before a
study (`engines/calibrate.py`), which keeps them: a prediction is a pure function of the genotype.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.merge import is_mergeable
from autopeft.space.shape import ModelShape

FLOATS_PER_PARAMETER = 7
"""Floats that are held: a parameter and two moments; its gradient and three more while the
optimizer steps, which the process keeps hold of."""
_FLOAT_BYTES = 4

Parts = Mapping[Form, tuple[float, float]]
"""Of each form of a genotype, what its cost is proportional to."""


@dataclass(frozen=True)
class Linear:
    """A cost that is linear in the parts of a genotype.

    Attributes:
        base: of the backbone and the head.
        layer: of each layer that gradients pass through.
        forms: of each unit of the two parts of a form.
    """

    base: float
    layer: float
    forms: Mapping[Form, tuple[float, float]]

    def of(self, n_layers: int, parts: Parts) -> float:
        """The cost; a form that was not measured counts as the dearest one."""
        dearest = tuple(max((c[i] for c in self.forms.values()), default=0.0) for i in (0, 1))
        total = self.base + self.layer * n_layers
        for form, amounts in parts.items():
            rates = self.forms.get(form, dearest)
            total += sum(rate * amount for rate, amount in zip(rates, amounts, strict=True))
        return total


@dataclass(frozen=True)
class CostModel:
    """The predicted costs of a study.

    Attributes:
        start_bytes: memory that a worker holds before it trains, backbone included.
        overhead: memory that the process grows by, as a multiple of what tensors take.
        memory: tensors of a training beside parameters and what belongs to them, in bytes.
        step: milliseconds of a training step, if that was measured.
        latency: milliseconds to answer to one row, if that was measured.
    """

    start_bytes: int
    overhead: float
    memory: Linear
    step: Linear | None = None
    latency: Linear | None = None

    def memory_bytes(self, genotype: Genotype, shape: ModelShape) -> float:
        """Peak memory of a training alone."""
        kept = self.memory.of(n_trained_layers(genotype, shape), states(genotype, shape))
        return self.start_bytes + self.overhead * (kept + held_bytes(genotype, shape))

    def step_ms(self, genotype: Genotype, shape: ModelShape) -> float | None:
        """Time of a training step alone, on a batch of rows of mean length."""
        if self.step is None:
            return None
        return self.step.of(n_trained_layers(genotype, shape), products(genotype, shape))

    def latency_ms(self, genotype: Genotype, shape: ModelShape) -> float | None:
        """Time to answer to one row of mean length; what can be merged costs nothing."""
        if self.latency is None:
            return None
        return self.latency.of(0, unmerged(genotype, shape))


@dataclass(frozen=True)
class MemoryLimit:
    """A hard limit on the predicted peak memory of a training alone.

    Attributes:
        max_bytes: the limit.
        model: predicts.
    """

    max_bytes: int
    model: CostModel

    def admits(self, genotype: Genotype, shape: ModelShape) -> bool:
        """Whether a genotype is within it."""
        return self.model.memory_bytes(genotype, shape) <= self.max_bytes


def n_trained_layers(genotype: Genotype, shape: ModelShape) -> int:
    """Layers that gradients pass through."""
    if genotype.ops and shape.apart:
        return shape.n_layers
    return shape.n_layers - genotype.fork


def states(genotype: Genotype, shape: ModelShape) -> Parts:
    """Numbers for each token that ops may keep for their backward pass: widths, and sizes."""
    return _parts(genotype, lambda op, size: (shape.widths[op.read] + shape.widths[op.write], size))


def products(genotype: Genotype, shape: ModelShape) -> Parts:
    """Ops that are called, and the parameters that each token meets in them."""
    return _parts(genotype, lambda op, size: (1, op.trained_in_layer(size, shape)))


def unmerged(genotype: Genotype, shape: ModelShape) -> Parts:
    """The products that remain once it is deployed, as what is stored of it: merged or not."""
    return {} if is_mergeable(genotype, shape) else products(genotype.stored, shape)


def held_bytes(genotype: Genotype, shape: ModelShape) -> int:
    """Memory of the trained parameters and of what belongs to them."""
    return _FLOAT_BYTES * FLOATS_PER_PARAMETER * genotype.count_trained(shape)


def _parts(genotype: Genotype, amounts: Callable[[Op, int], tuple[float, float]]) -> Parts:
    found: dict[Form, tuple[float, float]] = {}
    for op in genotype.ops:
        for size in op.sizes:
            if size:
                first, second = found.get(op.form, (0.0, 0.0))
                one, two = amounts(op, size)
                found[op.form] = (first + one, second + two)
    return found
