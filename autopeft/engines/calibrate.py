"""Fitting the cost model of a study: a few genotypes are measured alone, before the first trial."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import nnls

from autopeft.engines.ground import Ground
from autopeft.objectives import LATENCY, MEMORY, STEP, CostName
from autopeft.space.costs import (
    CostModel,
    Linear,
    Parts,
    held_bytes,
    n_trained_layers,
    products,
    states,
    unmerged,
)
from autopeft.space.genotype import Genotype
from autopeft.training.alone import answer_seconds, growth_bytes, held_before, step_seconds
from autopeft.training.footprint import trial_bytes
from autopeft.training.frozen import cache_bytes
from autopeft.training.memory import OVERHEAD, primitives_bytes, use_heap
from autopeft.training.settings import TrainingSettings

ROUNDS = 3
"""Times that each genotype is measured."""
TIMES = 10
"""Times that a finalist is measured; the fastest counts."""
LARGEST = 3
"""Genotypes whose memory is measured, not counted alone."""
MOST_OVERHEAD = 2.0
"""More is not the tensors': of tiny models the process shows what else it does."""
MS = 1000.0
"""Milliseconds in a second."""


def calibrate(
    ground: Ground, settings: TrainingSettings, genotypes: Sequence[Genotype]
) -> CostModel:
    """Measure genotypes alone, and fit the costs that the study wants to have predicted.

    Memory is counted, from what a step keeps, and is the same each time. What the process takes for
    that is measured, of a few.

    Args:
        ground: in any precision.
        settings: of training, complete.
        genotypes: with every form of the space, each small and large.
    """
    ground = ground.computing_in(settings.precision)
    shape, wanted = ground.backbone.shape, ground.work.costs
    layers = [n_trained_layers(genotype, shape) for genotype in genotypes]

    def timed(seconds: Callable[[Ground, TrainingSettings, Genotype], float]) -> list[float]:
        """All of them in turn, and again, so that a busy moment does not hit one alone."""
        rounds = [[seconds(ground, settings, g) for g in genotypes] for _ in range(ROUNDS)]
        return [MS * min(times) for times in zip(*rounds, strict=True)]

    taken = [kept_bytes(ground, settings, genotype) for genotype in genotypes]
    kept = [size - held_bytes(g, shape) for size, g in zip(taken, genotypes, strict=True)]
    step = latency = None
    if STEP in wanted:
        step = fit(layers, [products(g, shape) for g in genotypes], timed(step_of))
    if LATENCY in wanted:
        parts = [unmerged(g, shape) for g in genotypes]
        latency = fit([0] * len(parts), parts, timed(answer_of))
    return CostModel(
        start_bytes=start_bytes(ground, settings),
        overhead=measured_overhead(ground, settings, dict(zip(genotypes, taken, strict=True))),
        memory=fit(layers, [states(g, shape) for g in genotypes], kept),
        step=step,
        latency=latency,
    )


def measure_alone(
    ground: Ground, settings: TrainingSettings, costs: CostModel, genotype: Genotype
) -> dict[CostName, float]:
    """Measure what the model predicts of the study's costs, with nothing beside the genotype.

    Args:
        ground: in the precision of the settings.
        settings: of training, complete.
        costs: of the study; says what a worker held before it trained.
        genotype: a finalist.
    """
    wanted, found = ground.work.costs, dict[CostName, float]()
    backbone, task, rows = ground.backbone, ground.task, ground.train
    if MEMORY in wanted:
        grown = growth_bytes(backbone, genotype, task, settings, rows)
        found[MEMORY] = float(costs.start_bytes + grown)
    if STEP in wanted:
        found[STEP] = MS * step_seconds(backbone, [genotype], task, settings, rows, TIMES)
    if LATENCY in wanted:
        found[LATENCY] = MS * answer_seconds(backbone, genotype, task, settings, rows, TIMES)
    return found


def fit(layers: Sequence[int], parts: Sequence[Parts], values: Sequence[float]) -> Linear:
    """Coefficients from 0 that make the relative errors small, by least squares.

    Args:
        layers: that gradients pass through, of each genotype.
        parts: of each genotype.
        values: measured of each.
    """
    forms = sorted({form for one in parts for form in one})
    rows = [
        [1.0, float(n), *(amount for form in forms for amount in one.get(form, (0.0, 0.0)))]
        for n, one in zip(layers, parts, strict=True)
    ]
    table, found = np.array(rows), np.maximum(np.array(values, np.float64), 1e-9)
    units = np.maximum(table.max(axis=0), 1e-9)
    solved, _ = nnls(table / units / found[:, None], np.ones(len(found)))
    base, layer, *rest = (solved / units).tolist()
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return Linear(base, layer, dict(zip(forms, pairs, strict=True)))


def kept_bytes(ground: Ground, settings: TrainingSettings, genotype: Genotype) -> int:
    """Tensors that a training of the genotype alone takes."""
    return trial_bytes(
        ground.backbone, [genotype], task=ground.task, settings=settings, rows=ground.train
    )


def step_of(ground: Ground, settings: TrainingSettings, genotype: Genotype) -> float:
    """Seconds of a training step."""
    return step_seconds(ground.backbone, [genotype], ground.task, settings, ground.train, 1)


def answer_of(ground: Ground, settings: TrainingSettings, genotype: Genotype) -> float:
    """Seconds to answer to one row."""
    return answer_seconds(ground.backbone, genotype, ground.task, settings, ground.train, ROUNDS)


def start_bytes(ground: Ground, settings: TrainingSettings) -> int:
    """What a worker holds before it trains: on a CPU all of the process; and what it will keep."""
    splits = (ground.train, *ground.scored)
    kept = 0
    if settings.frozen_cache:
        kept += cache_bytes(ground.backbone.shape, splits, settings.precision)
    if settings.precision == "bf16" and ground.device.type == "cpu":
        kept += primitives_bytes(len({n for rows in splits for n in rows.lengths}))
    return held_before(ground.device) + kept


def measured_overhead(
    ground: Ground, settings: TrainingSettings, taken: Mapping[Genotype, int]
) -> float:
    """The same, as it is measured of those that take most.

    The smaller the tensors, the more of the heap is gaps between them: with rows of 64 tokens
    a process grew by 1.5 to 2 times what they take (`benchmarks/predictions.py`).

    Args:
        ground: in the precision of the settings.
        settings: of training, complete.
        taken: what the tensors take, by genotype.
    """
    usual = overhead(ground.device)
    if ground.device.type == "cuda":
        return usual
    largest = sorted(taken, key=lambda genotype: (-taken[genotype], genotype.hash))[:LARGEST]
    use_heap("exact", ground.state_bytes(settings))
    try:
        found = [
            growth_bytes(ground.backbone, genotype, ground.task, settings, ground.train)
            / taken[genotype]
            for genotype in largest
        ]
    finally:
        use_heap("pooled")
    return min(max(usual, *found), MOST_OVERHEAD)


def overhead(device: torch.device) -> float:
    """Memory that is taken, as a multiple of what tensors need."""
    return 1.0 if device.type == "cuda" else OVERHEAD["exact"]
