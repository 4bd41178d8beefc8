"""What one more trial in a cohort takes of memory, found by looking at what a step keeps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autopeft.model.backbone import DTYPES, Backbone
from autopeft.model.quantized_linear import quantized
from autopeft.space.costs import FLOATS_PER_PARAMETER
from autopeft.space.genotype import Genotype
from autopeft.space.taps import Tap
from autopeft.tasks.encode import Encoded
from autopeft.tasks.language import Language
from autopeft.tasks.task import AnyTask
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings
from autopeft.training.trials import EVALUATION_FACTOR
from autopeft.training.words import passing_bytes

ROWS = (4, 2)
"""Rows of the batches that are looked at; what is kept is linear in them."""

PASSING = 2.5
"""Tensors of the widest state that a step holds besides what it keeps; measured."""


def trial_bytes(
    backbone: Backbone,
    genotypes: Sequence[Genotype],
    *,
    task: AnyTask,
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
    with Cohort(backbone, genotypes, range(len(genotypes)), task, settings) as cohort:
        parameters = [item.parameter for item in cohort.stacked()]
        held = _bytes(parameters)
        remembered = _bytes([b for op in cohort.injection.stacks() for b in op.buffers()])
        more, less = (_kept(cohort, rows, n_rows) for n_rows in ROWS)
        n_words = cohort.words.n_words if isinstance(task, Language) else 0
    of_a_row = (more - less) / (ROWS[0] - ROWS[1])
    whatever = max(0.0, less - ROWS[1] * of_a_row)
    batch = settings.batch_size
    widest = max(backbone.shape.widths[tap] for tap in Tap if tap in backbone.shape.widths)
    state = batch * max(rows.lengths) * widest * DTYPES[backbone.precision].itemsize
    passing = PASSING * state * len(genotypes)
    if n_words:
        passing += passing_bytes(batch * int(rows.labels.max()), n_words)
    # Of weights in few bits one matrix at a time is there as numbers, for all trials.
    matrices = [m.in_features * m.out_features for _, m in quantized(backbone.model)]
    passing += max(matrices, default=0) * DTYPES[backbone.precision].itemsize
    size = whatever + batch * of_a_row + passing + FLOATS_PER_PARAMETER * held
    # Evaluation keeps nothing, but its batches are larger.
    least = PASSING * EVALUATION_FACTOR * state
    return int(max((size + remembered) / len(genotypes), least))


def _kept(cohort: Cohort, rows: Encoded, n_rows: int) -> int:
    """What the longest rows make a step keep for its backward pass, in bytes."""
    longest = np.argsort(-np.asarray(rows.lengths), kind="stable")[:n_rows].tolist()
    module = cohort.backbone.model
    ours = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # or its place could be taken by another tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        cohort.losses(rows, longest)
    return sum(kept.values())


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
