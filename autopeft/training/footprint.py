"""What one more trial in a cohort takes of memory, found by looking at what a step keeps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autopeft.model.backbone import DTYPES, Backbone
from autopeft.space.genotype import Genotype
from autopeft.space.taps import Tap
from autopeft.tasks.encode import Encoded
from autopeft.tasks.task import Task
from autopeft.training.cohort import EVALUATION_FACTOR, Cohort
from autopeft.training.settings import TrainingSettings

ROWS = 4
"""Rows of the batch that is looked at; what is kept grows with them linearly."""

PASSING = 2.5
"""Tensors of the widest state that a step holds besides what it keeps; measured."""

PER_PARAMETER = 4
"""Floats: a parameter, its gradient, and two of the optimizer."""


def trial_bytes(
    backbone: Backbone,
    genotypes: Sequence[Genotype],
    *,
    task: Task,
    settings: TrainingSettings,
    rows: Encoded,
) -> int:
    """The memory that each trial of a cohort takes while the longest rows are trained on.

    Args:
        backbone: in the precision of the settings.
        genotypes: typical ones; what they take is averaged.
        task: its loss.
        settings: of training.
        rows: training rows.
    """
    longest = np.argsort(-np.asarray(rows.lengths), kind="stable")[:ROWS].tolist()
    ours = {p.untyped_storage().data_ptr() for p in backbone.model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # or its place could be taken by another tensor
        return tensor

    with Cohort(backbone, genotypes, range(len(genotypes)), task, settings) as cohort:
        parameters = [item.parameter for item in cohort.stacked()]
        ours |= {p.untyped_storage().data_ptr() for p in parameters}
        with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
            losses = task.loss(cohort.logits(rows, longest), _labels(rows, longest, parameters[0]))
        trained = sum(p.numel() * p.element_size() for p in parameters) * PER_PARAMETER
        del losses
    batch = settings.batch_size
    size = sum(kept.values()) * batch / len(longest) + trained
    widest = max(backbone.shape.widths[tap] for tap in Tap if tap in backbone.shape.widths)
    state = batch * max(rows.lengths) * widest * DTYPES[backbone.precision].itemsize
    # Evaluation keeps nothing, but its batches are larger.
    least = PASSING * EVALUATION_FACTOR * state
    return int(max(size / len(genotypes) + PASSING * state, least))


def _labels(rows: Encoded, indices: Sequence[int], like: Tensor) -> Tensor:
    return rows.labels[list(indices)].to(like.device)
