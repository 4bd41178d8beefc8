"""A short measurement before a study: which precision and attention are fast here, and how fast.

Never a guess about the machine: a few steps of the real model on a real batch decide.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from autopeft.model.attention import Kernel
from autopeft.model.backbone import Backbone, Precision, cast
from autopeft.space.genotype import Genotype
from autopeft.tasks.encode import Encoded
from autopeft.tasks.task import Task
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings

STEPS = 2
MARGIN = 1.15
"""How much faster the less exact or less usual way has to be to be taken."""


@dataclass(frozen=True)
class Probed:
    """What the probe found.

    Attributes:
        settings: with precision and attention decided.
        step_seconds: one training step of a cohort, by "precision-kernel", as measured.
        trial_seconds: expected seconds for one trial, evaluation included.
    """

    settings: TrainingSettings
    step_seconds: dict[str, float]
    trial_seconds: float


def probe(
    backbone: Backbone,
    genotypes: Sequence[Genotype],
    *,
    task: Task,
    settings: TrainingSettings,
    train: Encoded,
    validation: Encoded,
    precision: Precision | Literal["auto"],
    kernel: Kernel | Literal["auto"],
) -> Probed:
    """Decide how to compute, and estimate what a trial takes.

    Args:
        backbone: the model; unchanged afterwards.
        genotypes: a typical cohort.
        task: its loss.
        settings: of training; precision and kernel are replaced.
        train: training rows.
        validation: evaluation rows.
        precision: "auto" to decide by measurement.
        kernel: "auto" to decide by measurement.
    """
    timed: dict[str, float] = {}

    def seconds(p: Precision, k: Kernel) -> float:
        name = f"{p}-{k}"
        if name not in timed:
            trial = replace(settings, precision=p, kernel=k)
            timed[name] = _step_seconds(backbone, genotypes, task, trial, train)
        return timed[name]

    first: Kernel = "eager" if kernel == "auto" else kernel
    chosen: Precision = "fp32" if precision == "auto" else precision
    if precision == "auto" and seconds("fp32", first) > MARGIN * seconds("bf16", first):
        chosen = "bf16"
    if kernel == "auto" and seconds(chosen, "eager") > MARGIN * seconds(chosen, "sdpa"):
        first = "sdpa"
    decided = replace(settings, precision=chosen, kernel=first)
    step = seconds(chosen, first)
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    # A forward pass alone costs about a third of a step with its backward pass.
    tokens = sum(validation.lengths) / max(1.0, float(np.mean(train.lengths)))
    evaluation = step / 3 * tokens / settings.batch_size
    trial_seconds = (steps * step + evaluation) / len(genotypes)
    return Probed(decided, timed, trial_seconds)


def _step_seconds(
    backbone: Backbone,
    genotypes: Sequence[Genotype],
    task: Task,
    settings: TrainingSettings,
    rows: Encoded,
) -> float:
    """The fastest of a few steps on a batch of average length; the first one warms up."""
    mean = float(np.mean(rows.lengths))
    near = np.argsort(np.abs(np.asarray(rows.lengths) - mean), kind="stable")
    indices = near[: settings.batch_size].tolist()
    times = []
    backbone = cast(backbone, settings.precision)
    with Cohort(backbone, genotypes, range(len(genotypes)), task, settings) as cohort:
        parameters = [item.parameter for item in cohort.stacked()]
        device = parameters[0].device
        for _ in range(STEPS + 1):
            start = time.perf_counter()
            losses = task.loss(cohort.logits(rows, indices), rows.labels[indices].to(device))
            torch.autograd.grad(losses.sum(), parameters)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return min(times[1:])
