"""A short measurement before a study: which precision and attention are fast here.

Never a guess about the machine: the products of one layer and its attention, at the lengths of
the task, decide. That takes a fraction of a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from autopeft.model.anatomy import Anatomy
from autopeft.model.backbone import DTYPES, Backbone
from autopeft.model.computing import Kernel, Precision
from autopeft.model.kernels import attend
from autopeft.space.genotype import Genotype
from autopeft.space.taps import Tap
from autopeft.tasks.encode import Encoded
from autopeft.tasks.task import AnyTask
from autopeft.training.alone import fastest, step_seconds
from autopeft.training.settings import TrainingSettings

MARGIN = 1.15
"""How much faster the less exact or less usual way has to be to be taken."""
MOST_ROWS = 16
"""Rows of a batch that are measured; rates hardly change beyond."""


@dataclass(frozen=True)
class Probed:
    """What the probe found.

    Attributes:
        precision: to compute in.
        kernel: of attention.
        layer_seconds: forward and backward of one layer, by "precision-kernel", as measured.
    """

    precision: Precision
    kernel: Kernel
    layer_seconds: dict[str, float]


def probe(
    backbone: Backbone,
    *,
    rows: Encoded,
    batch_size: int,
    precision: Precision | Literal["auto"],
    kernel: Kernel | Literal["auto"],
) -> Probed:
    """Decide how to compute.

    Args:
        backbone: in any precision; unchanged afterwards.
        rows: training rows; their mean length is measured.
        batch_size: examples in a batch of one trial.
        precision: "auto" to decide by measurement.
        kernel: "auto" to decide by measurement.
    """
    shape = (min(batch_size, MOST_ROWS), max(1, round(float(np.mean(rows.lengths)))))
    timed: dict[str, float] = {}

    def seconds(p: Precision, k: Kernel) -> float:
        if f"{p}-{k}" not in timed:
            timed[f"{p}-{k}"] = _layer_seconds(backbone, p, k, shape)
        return timed[f"{p}-{k}"]

    usual: Kernel = "eager" if kernel == "auto" else kernel
    chosen: Precision = "fp32" if precision == "auto" else precision
    if precision == "auto" and seconds("fp32", usual) > MARGIN * seconds("bf16", usual):
        chosen = "bf16"
    if kernel == "auto" and seconds(chosen, "eager") > MARGIN * seconds(chosen, "sdpa"):
        usual = "sdpa"
    return Probed(chosen, usual, timed)


def _layer_seconds(
    backbone: Backbone, precision: Precision, kernel: Kernel, shape: tuple[int, int]
) -> float:
    """Forward and backward of a layer's products and attention, the fastest of a few times."""
    anatomy, dtype = Anatomy(backbone.model, backbone.fresh), DTYPES[precision]
    n_rows, n_tokens = shape
    taps = (Tap.Q, Tap.K, Tap.V, Tap.ATTN_OUT, Tap.FFN_UP, Tap.FFN_OUT)
    there = anatomy.shape().matrices
    first = anatomy.attending[0]
    weights = [anatomy.point(first, tap).weight.detach().to(dtype) for tap in taps if tap in there]
    states = [weight.new_ones(n_rows * n_tokens, weight.shape[1]) for weight in weights]
    heads = int(backbone.model.config.num_attention_heads)
    d_head = anatomy.point(first, Tap.ATTN_OUT).weight.shape[1] // heads  # q may have gates, too
    q, k, v = (
        torch.ones(n_rows, n_heads, n_tokens, d_head).to(weights[0]).requires_grad_()
        for n_heads in (heads, len(weights[1]) // d_head, len(weights[2]) // d_head)
    )
    mask = q.new_zeros(n_rows, 1, n_tokens, n_tokens)

    def layer() -> None:
        for weight, state in zip(weights, states, strict=True):
            out = functional.linear(state, weight)
            functional.linear(out, weight.t())
        out = attend(kernel, q, k, v, mask, q.shape[-1] ** -0.5, 0.0)
        torch.autograd.grad(out.sum(), (q, k, v))

    return fastest(layer, q.device)


def trial_seconds(
    backbone: Backbone,
    genotypes: Sequence[Genotype],
    *,
    task: AnyTask,
    settings: TrainingSettings,
    train: Encoded,
    validation: Encoded,
) -> float:
    """What a trial of a typical cohort is expected to take, evaluation included.

    Args:
        backbone: in the precision of the settings; unchanged afterwards.
        genotypes: a typical cohort.
        task: its loss.
        settings: of training.
        train: training rows.
        validation: evaluation rows.
    """
    mean = float(np.mean(train.lengths))
    seconds = step_seconds(backbone, genotypes, task, settings, train)
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    # A forward pass alone costs about a third of a step with its backward pass.
    batches = sum(validation.lengths) / max(1.0, mean) / settings.batch_size
    return seconds * (steps + batches / 3) / len(genotypes)
