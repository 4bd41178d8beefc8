"""What only a measurement on the machine can decide: precision, attention, cohort, heap.

Measured once, by the first worker; the study keeps it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch

from autopeft.engines.calibrate import overhead, start_bytes
from autopeft.engines.ground import Ground
from autopeft.engines.work import CohortSize, Decided
from autopeft.errors import ConfigError, DataError
from autopeft.model.computing import Precision
from autopeft.space.genotype import Genotype
from autopeft.training.footprint import trial_bytes
from autopeft.training.frozen import cache_bytes
from autopeft.training.memory import (
    OVERHEAD,
    Heap,
    available_bytes,
    is_out_of_memory,
    unshared_bytes,
)
from autopeft.training.probe import probe, trial_seconds

TYPICAL = 4
"""Genotypes that are measured before a study."""
MOST_ON_CPU = 4
"""Trials of a cohort; on a CPU more of them are not faster (`benchmarks/cohort.py`)."""
MOST_ON_CUDA = 32
MEMORY_SHARE = 0.6
"""Of the free memory, for a cohort."""
CACHE_SHARE = 0.125
"""Of the free memory, for frozen states."""

_TOO_LARGE = (
    "one trial alone is too large for the memory; set training.checkpointing, raise "
    "training.accumulation, or reduce training.max_length"
)


def decide(
    ground: Ground, genotypes: Sequence[Genotype], cohort: CohortSize, sharing: int = 1
) -> Decided:
    """Measure what the study file leaves to a measurement.

    Args:
        ground: in any precision.
        genotypes: typical ones, with ops; all or none of them are to be alone.
        cohort: trials to train together.
        sharing: workers that share the memory; this one is the first, the others are yet to start.

    Raises:
        DataError: not even one trial fits into memory.
    """
    training, rows = ground.work.training, ground.train
    coming = _coming_bytes(ground.device, sharing)
    probed = probe(
        ground.backbone,
        rows=rows,
        batch_size=ground.settings.part_size,
        precision=training.precision,
        kernel=training.attention,
    )
    ground = ground.computing_in(probed.precision)
    settings = replace(
        ground.settings,
        precision=probed.precision,
        kernel=probed.kernel,
        frozen_cache=_keeps_states(ground, probed.precision, sharing, coming),
    )
    backbone, task = ground.backbone, ground.task
    alone = any(genotype.alone for genotype in genotypes)
    some = list(genotypes[: 1 if alone else TYPICAL])
    each = trial_bytes(backbone, some, task=task, settings=settings, rows=rows)
    size = cohort_size(each * sharing, ground.device, coming) if cohort == "auto" else cohort
    if (most := ground.work.max_memory) is not None:
        left = most - start_bytes(ground, settings)
        size = max(1, min(size, int(left // (overhead(ground.device) * each))))
    wanted = size
    if alone:
        size = 1

    def seconds(n_trials: int) -> float:
        typical = list(islice(cycle(some), n_trials))
        return trial_seconds(
            backbone,
            typical,
            task=task,
            settings=settings,
            train=rows,
            validation=ground.validation,
        )

    fitting, expected = _halved_until_it_fits(size, seconds)
    return Decided(
        settings=settings,
        cohort=fitting if cohort == "auto" else wanted,
        trial_seconds=expected,
        trial_bytes=each,
    )


def _halved_until_it_fits(n_trials: int, measure: Callable[[int], float]) -> tuple[int, float]:
    """The largest cohort that fits into memory, and what was measured of it."""
    try:
        return n_trials, measure(n_trials)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if n_trials == 1:
        raise DataError(_TOO_LARGE)
    return _halved_until_it_fits(n_trials // 2, measure)


def _coming_bytes(device: torch.device, sharing: int) -> int:
    """What the workers that are yet to start will hold of model and rows, each as much as this."""
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else unshared_bytes()
    return (sharing - 1) * held


def cohort_size(each: int, device: torch.device, coming: int = 0) -> int:
    """How many trials to train together, if the study file does not say.

    Args:
        each: memory that one trial takes.
        device: where they are trained.
        coming: memory that is free and will not be.
    """
    free = (available_bytes(device) - coming) * MEMORY_SHARE
    if device.type == "cuda":
        return max(1, min(MOST_ON_CUDA, int(free // each)))
    fast, tight = (int(free // (OVERHEAD[heap] * each)) for heap in ("pooled", "exact"))
    return max(1, min(MOST_ON_CPU, fast or tight))


def most_that_fit(each: int, device: torch.device) -> int:
    """Trials of a cohort that a device has the memory for, however slow; one at least.

    Args:
        each: memory that one trial takes, times the workers that share the device.
        device: of a worker that did not decide the study's cohort.
    """
    free = available_bytes(device) * MEMORY_SHARE
    taken = each if device.type == "cuda" else OVERHEAD["exact"] * each
    return max(1, int(free // max(1, taken)))


def heap_of(decided: Decided, max_memory: int | None, sharing: int = 1) -> Heap:
    """How a study's workers take memory: the faster way, if there is enough for it.

    Args:
        decided: how the study is computed.
        max_memory: its limit in bytes, if there is one.
        sharing: workers that share the memory.
    """
    cohort = decided.trial_bytes * decided.cohort
    start = decided.costs.start_bytes if decided.costs else 0
    if max_memory is not None and start + OVERHEAD["pooled"] * cohort > max_memory:
        return "exact"
    return heap_for(cohort * sharing)


def heap_for(cohort_bytes: int) -> Heap:
    """The faster way to take memory, if there is enough for it."""
    free = available_bytes(torch.device("cpu")) * MEMORY_SHARE
    return "pooled" if OVERHEAD["pooled"] * cohort_bytes <= free else "exact"


def _keeps_states(ground: Ground, precision: Precision, sharing: int, coming: int) -> bool:
    wanted = ground.work.training.frozen_cache
    if ground.backbone.shape.apart:
        if wanted is True:
            raise ConfigError(
                "training.frozen_cache: true: trials of this model have rows of their own "
                "from the first layer on, so there are no states to keep; leave it out"
            )
        return False
    if wanted != "auto":
        return wanted
    size = cache_bytes(ground.backbone.shape, (ground.train, *ground.scored), precision)
    free = (available_bytes(ground.device) - coming) / sharing
    free = min(free, ground.work.max_memory or math.inf)
    return size <= free * CACHE_SHARE
