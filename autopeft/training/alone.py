"""Measuring one genotype with nothing beside it: a step, an answer, the memory of a training."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from autopeft.model.backbone import Backbone
from autopeft.space.genotype import Genotype
from autopeft.space.merge import is_mergeable
from autopeft.tasks.encode import Encoded
from autopeft.tasks.task import AnyTask
from autopeft.training.cohort import Cohort
from autopeft.training.memory import release_memory, resident_bytes
from autopeft.training.settings import TrainingSettings

TIMES = 3
STEPS = 3
"""Steps on the longest rows, during which the memory is watched."""
_LOOK_SECONDS = 0.001


def fastest(step: Callable[[], object], device: torch.device, times: int = TIMES) -> float:
    """Seconds of the fastest of a few times; the first one, which warms up, does not count."""
    taken = []
    for _ in range(times + 1):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def step_seconds(
    backbone: Backbone,
    genotypes: Sequence[Genotype],
    task: AnyTask,
    settings: TrainingSettings,
    rows: Encoded,
    times: int = TIMES,
) -> float:
    """A training step on a batch of rows of about the mean length, the fastest of a few times.

    Args:
        backbone: in the precision of the settings; unchanged afterwards.
        genotypes: of a cohort.
        task: its loss.
        settings: of training.
        rows: training rows.
        times: steps to measure.
    """
    near = _near_the_mean(rows)[: settings.batch_size]
    with Cohort(backbone, genotypes, range(len(genotypes)), task, settings) as cohort:
        return fastest(_step(cohort, rows, near), _device(backbone), times)


def answer_seconds(
    backbone: Backbone,
    genotype: Genotype,
    task: AnyTask,
    settings: TrainingSettings,
    rows: Encoded,
    times: int = TIMES,
) -> float:
    """The outputs for one row of mean length, the fastest of a few times.

    Args:
        backbone: in the precision of the settings; unchanged afterwards.
        genotype: measured as what is stored of it; one that merges, as the plain model that it
            becomes.
        task: its predictions.
        settings: of training.
        rows: any.
        times: rows to measure.
    """
    deployed = genotype.stored
    if is_mergeable(genotype, backbone.shape):
        deployed = replace(genotype, ops=())
    row = _near_the_mean(rows)[:1]
    with torch.no_grad(), Cohort(backbone, [deployed], [0], task, settings) as cohort:
        return fastest(lambda: cohort.logits(rows, row).cpu(), _device(backbone), times)


def growth_bytes(
    backbone: Backbone, genotype: Genotype, task: AnyTask, settings: TrainingSettings, rows: Encoded
) -> int:
    """What the memory grows by while a genotype trains alone, on the longest rows there are.

    Args:
        backbone: in the precision of the settings; unchanged afterwards.
        genotype: to train.
        task: its loss.
        settings: of training.
        rows: training rows.
    """
    device = _device(backbone)
    longest = np.argsort(-np.asarray(rows.lengths), kind="stable")[: settings.batch_size].tolist()
    before = held_before(device)
    with _watched(device) as peak, Cohort(backbone, [genotype], [0], task, settings) as cohort:
        step = _step(cohort, rows, longest)
        for _ in range(STEPS):
            step()
    release_memory()
    return max(before, *peak) - before


def held_before(device: torch.device) -> int:
    """Memory that is held now: by tensors on a GPU, else by the process."""
    release_memory()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()


@contextmanager
def _watched(device: torch.device) -> Iterator[list[int]]:
    """The most memory that is held meanwhile, once it is over; on a CPU by looking all the time."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device))
        return
    done, seen = threading.Event(), [0]

    def look() -> None:
        while not done.wait(_LOOK_SECONDS):
            seen[0] = max(seen[0], resident_bytes())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
    found += seen


def _step(cohort: Cohort, rows: Encoded, indices: Sequence[int]) -> Callable[[], None]:
    """A step that costs what any other does and moves nothing: its learning rate is 0."""
    optimizer = cohort.new_optimizer()

    def step() -> None:
        cohort.learn(rows, indices)
        optimizer.step(0.0)

    return step


def _near_the_mean(rows: Encoded) -> list[int]:
    """Rows by how near their length is to the mean."""
    mean = float(np.mean(rows.lengths))
    order: list[int] = np.argsort(np.abs(np.asarray(rows.lengths) - mean), kind="stable").tolist()
    return order


def _device(backbone: Backbone) -> torch.device:
    parameter: torch.Tensor = next(backbone.model.parameters())
    return parameter.device
