"""What a study can optimise, with units and directions: the metric up, one to three costs down."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from autopeft.errors import DataError
from autopeft.records import Metric, Objective
from autopeft.space.costs import CostModel
from autopeft.space.forms import FORMS, SPARSE_DELTAS, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.shape import ModelShape

METRIC: Literal["metric"] = "metric"
"""Stands for the study's metric, whichever that is."""

CostName = Literal[
    "trainable_params",
    "trained_params",
    "adapter_bytes",
    "peak_memory_bytes",
    "step_ms",
    "latency_ms",
]
ObjectiveName = Literal[
    "metric",
    "trainable_params",
    "trained_params",
    "adapter_bytes",
    "peak_memory_bytes",
    "step_ms",
    "latency_ms",
]

PARAMS: CostName = "trainable_params"
TRAINED: CostName = "trained_params"
BYTES: CostName = "adapter_bytes"
MEMORY: CostName = "peak_memory_bytes"
STEP: CostName = "step_ms"
LATENCY: CostName = "latency_ms"

BYTES_EACH = 4
"""Of what an adapter stores: values in fp32, and of sparse ones their places in int32."""


@dataclass(frozen=True)
class CostKind:
    """Something that is better the smaller it is.

    Attributes:
        label: for people.
        unit: of its values.
        orders: trials differ by orders of magnitude, so its logarithm is what counts.
        predicted: a search predicts it, and only the final selection measures it; the others are
            known exactly.
    """

    label: str
    unit: str
    orders: bool
    predicted: bool

    def scaled(self, value: float) -> float:
        """The value as samplers and promotions see it."""
        return math.log10(1 + value) if self.orders else value


COSTS: dict[CostName, CostKind] = {
    PARAMS: CostKind("trainable parameters", "parameters", orders=True, predicted=False),
    TRAINED: CostKind("parameters while training", "parameters", orders=True, predicted=False),
    BYTES: CostKind("adapter size", "B", orders=True, predicted=False),
    MEMORY: CostKind("peak training memory", "B", orders=False, predicted=True),
    STEP: CostKind("training time per step", "ms", orders=False, predicted=True),
    LATENCY: CostKind("inference latency", "ms", orders=False, predicted=True),
}
"""In the order in which they count where one comes first; of a study's costs the first one tells
small trials from large ones."""

DEFAULT: tuple[ObjectiveName, ...] = (METRIC, PARAMS)
FEWEST, MOST = 2, 4


class Measured(Protocol):
    """A record, or a point of a front."""

    @property
    def trial(self) -> int: ...  # noqa: D102
    @property
    def trainable_params(self) -> int: ...  # noqa: D102
    @property
    def objectives(self) -> Mapping[str, Objective]: ...  # noqa: D102


def cost_of(item: Measured, name: str) -> float:
    """A cost of something measured.

    Raises:
        DataError: it was neither measured nor predicted.
    """
    if name == PARAMS:
        return float(item.trainable_params)
    if name not in item.objectives:
        raise DataError(
            f"trial {item.trial} has no {name}, it has: "
            f"{', '.join(dict.fromkeys((PARAMS, *item.objectives)))}"
        )
    return item.objectives[name].value


def values_of(quality: float, costs: Mapping[CostName, float]) -> tuple[float, ...]:
    """What samplers and the ledger see: the quality, then the costs, scaled."""
    return quality, *(COSTS[name].scaled(value) for name, value in costs.items())


def value_names(metric: str, costs: Iterable[CostName]) -> tuple[str, ...]:
    """What the values of `values_of` are, in a few characters each."""
    return metric, *(f"log10(1 + {name})" if COSTS[name].orders else name for name in costs)


def directions_of(n_costs: int) -> list[Literal["maximize", "minimize"]]:
    """Which values are better, in the order of `values_of`."""
    costs: list[Literal["maximize", "minimize"]] = ["minimize"] * n_costs
    return ["maximize", *costs]


def exact_costs(genotype: Genotype, shape: ModelShape) -> dict[CostName, float]:
    """The costs that are known in closed form; the head is left aside, as ever."""
    params = genotype.count_params(shape)
    return {
        PARAMS: float(params),
        TRAINED: float(genotype.count_trained(shape)),
        BYTES: float(BYTES_EACH * (params + sum(_places(op, shape) for op in genotype.ops))),
    }


def predicted_costs(
    genotype: Genotype, shape: ModelShape, model: CostModel
) -> dict[CostName, float]:
    """The costs that the model of a study predicts."""
    found: dict[CostName, float | None] = {
        MEMORY: model.memory_bytes(genotype, shape),
        STEP: model.step_ms(genotype, shape),
        LATENCY: model.latency_ms(genotype, shape),
    }
    return {name: value for name, value in found.items() if value is not None}


def costs_of(
    genotype: Genotype, shape: ModelShape, model: CostModel | None
) -> dict[CostName, float]:
    """All costs that are known of a genotype without training it."""
    exact = exact_costs(genotype, shape)
    return exact if model is None else exact | predicted_costs(genotype, shape, model)


def objectives_of(
    metric: str,
    metrics: Mapping[str, Metric],
    costs: dict[CostName, float],
    wanted: Sequence[CostName],
    measured: dict[CostName, float],
) -> dict[str, Objective]:
    """The objectives of a trial: its metric, its parameters, and what else the study optimises.

    Args:
        metric: the one that the study optimises; larger is better.
        metrics: all that were measured.
        costs: of the trial.
        wanted: costs that the study optimises.
        measured: those that were measured, which count instead of what was predicted.
    """
    names = dict.fromkeys((PARAMS, *wanted))
    quality = metrics[metric]
    return {
        metric: Objective(quality.value, "1", quality.stderr),
        **{
            name: objective(name, (costs | measured)[name], measured=name in measured)
            for name in names
        },
    }


def objective(name: CostName, value: float, *, measured: bool = False) -> Objective:
    """A cost as records tell it."""
    kind = COSTS[name]
    how: Literal["predicted", "measured"] | None = "predicted" if kind.predicted else None
    return Objective(value, kind.unit, None, "measured" if measured else how)


def amount(value: float, unit: str) -> str:
    """A cost for people, bytes in powers of 1024."""
    if unit == "ms":
        return f"{value:.4g} ms"
    if unit != "B":
        return f"{value:,.0f}"
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024 and unit != "TiB":  # noqa: PLR2004
        value, unit = value / 1024, next(units)
    return f"{value:.4g} {unit}"


def duration(seconds: float) -> str:
    """Seconds in words: `45 s`, `12 min`, `1 h 20 min`."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004


def ordered(names: Sequence[str]) -> tuple[ObjectiveName, ...]:
    """Objectives in the order of this module, the metric first.

    Raises:
        ValueError: one is not known, is given twice, or there are too few or too many.
    """
    allowed: tuple[ObjectiveName, ...] = (METRIC, *COSTS)
    if unknown := [name for name in names if name not in allowed]:
        raise ValueError(f"no objective `{unknown[0]}`; allowed: {', '.join(allowed)}")
    if len(set(names)) < len(names):
        raise ValueError("an objective is given twice")
    if METRIC not in names:
        raise ValueError(f"`{METRIC}`, the study's own one, has to be among the objectives")
    if not FEWEST <= len(names) <= MOST:
        raise ValueError(f"there have to be {FEWEST} to {MOST} objectives, not {len(names)}")
    return tuple(name for name in allowed if name in names)


def _places(op: Op, shape: ModelShape) -> int:
    """Entries of an op whose places in their table are stored beside their values."""
    op = op.stored
    if op.form in SPARSE_DELTAS:
        return sum(op.sizes)
    if op.form is Form.SPARSE_BOTTLENECK:  # all but the bias of its outcome
        read, write = shape.widths[op.read], shape.widths[op.write]
        count = FORMS[op.form].count
        return sum(count(size, read, write) - write for size in op.sizes if size)
    return 0
