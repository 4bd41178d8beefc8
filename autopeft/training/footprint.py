"""What one more trial in a cohort takes of memory, found by looking at what a step keeps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from autopeft.model.anatomy import Anatomy
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

OUTSIDE = -1
"""Of all layers."""


class Kept(NamedTuple):
    """What a step keeps for its backward pass, in bytes.

    Attributes:
        whole: all of it.
        layer: the most that one layer has of it.
    """

    whole: float
    layer: float


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
    seeds, batch = range(len(genotypes)), settings.part_size
    with Cohort(backbone, genotypes, seeds, task, settings) as cohort:
        held = _bytes([item.parameter for item in cohort.stacked()])
        remembered = _bytes([b for op in cohort.injection.stacks() for b in op.buffers()])
        kept = _kept(cohort, rows, batch).whole
        n_words = cohort.words.n_words if isinstance(task, Language) else 0
    if settings.checkpointing:  # one layer at a time is as it would be without
        plain = replace(settings, checkpointing=False)
        with Cohort(backbone, genotypes, seeds, task, plain) as cohort:
            kept += _kept(cohort, rows, batch).layer
    widest = max(backbone.shape.widths[tap] for tap in Tap if tap in backbone.shape.widths)
    state = batch * max(rows.lengths) * widest * DTYPES[backbone.precision].itemsize
    passing = PASSING * state * len(genotypes)
    if n_words:
        passing += passing_bytes(batch * int(rows.labels.max()), n_words)
    # Of weights in few bits one matrix at a time is there as numbers, for all trials.
    matrices = [m.in_features * m.out_features for _, m in quantized(backbone.model)]
    passing += max(matrices, default=0) * DTYPES[backbone.precision].itemsize
    size = kept + passing + FLOATS_PER_PARAMETER * held
    # Evaluation keeps nothing, but its batches are larger.
    least = PASSING * EVALUATION_FACTOR * state
    return int(max((size + remembered) / len(genotypes), least))


def _kept(cohort: Cohort, rows: Encoded, n_rows: int) -> Kept:
    """What so many of the longest rows make a step keep, told by a few of them."""
    more, less = (_looked_at(cohort, rows, n) for n in ROWS)
    found = []
    for one, other in zip(more, less, strict=True):
        of_a_row = (one - other) / (ROWS[0] - ROWS[1])
        found.append(max(0.0, other - ROWS[1] * of_a_row) + n_rows * of_a_row)
    return Kept(*found)


def _looked_at(cohort: Cohort, rows: Encoded, n_rows: int) -> Kept:
    """What the longest rows make a step keep."""
    longest = np.argsort(-np.asarray(rows.lengths), kind="stable")[:n_rows].tolist()
    module = cohort.backbone.model
    ours = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    where = [OUTSIDE]
    kept: dict[int, tuple[int, int]] = {}
    alive: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if (place := storage.data_ptr()) not in ours and place not in kept:
            kept[place] = where[0], storage.nbytes()
            alive.append(tensor)  # or its place could be taken by another tensor
        return tensor

    handles = []
    for i, layer in enumerate(Anatomy(module, cohort.backbone.fresh).layers):
        handles.append(layer.register_forward_pre_hook(partial(_be_at, where, i)))
        handles.append(layer.register_forward_hook(partial(_be_at, where, OUTSIDE)))
    try:
        with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
            cohort.losses(rows, longest)
    finally:
        for handle in handles:
            handle.remove()
    of_layers = Counter[int]()
    for i, size in kept.values():
        of_layers[i] += size
    whole = of_layers.total()
    del of_layers[OUTSIDE]
    return Kept(whole, max(of_layers.values(), default=0))


def _be_at(where: list[int], layer: int, *_: Any) -> None:
    """A hook before or after a layer."""
    where[0] = layer


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
