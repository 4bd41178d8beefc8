"""Full fine-tuning, the baseline of a final selection that trains the whole backbone.

It is no trial of a cohort: it changes the backbone, so it has one of its own, in fp32, since the
steps of a pretrained weight are smaller than what bf16 can tell apart.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.model.backbone import Backbone
from autopeft.space.genotype import Genotype
from autopeft.tasks.encode import Encoded
from autopeft.tasks.task import AnyTask
from autopeft.training.batches import batch_order
from autopeft.training.cohort import Cohort, Progress, Trained
from autopeft.training.memory import release_memory
from autopeft.training.optimizer import BETA1, BETA2, EPS, schedule
from autopeft.training.settings import TrainingSettings

FULL_FLOATS = 4
"""For each parameter: itself, its gradient and two moments."""


def train_full(
    backbone: Backbone,
    genotype: Genotype,
    seed: int,
    *,
    task: AnyTask,
    settings: TrainingSettings,
    train: Encoded,
    validation: Encoded,
    order_seed: int,
    until: int | None = None,
    progress: Progress | None = None,
) -> tuple[Trained, float]:
    """Train backbone and head together, and score them.

    Batches, schedule, clip, optimizer and head are those of every other trial.

    Args:
        backbone: just loaded, for this training alone: it is another model afterwards.
        genotype: a full one; its learning rate is that of all parameters.
        seed: initialises the head.
        task: loss and predictions.
        settings: of the study; it is computed in fp32 whatever they say.
        train: training rows.
        validation: rows to predict at the end.
        order_seed: of the order of batches.
        until: steps from the start, of those of the whole training; all if None.
        progress: called with (steps done, steps in all); again with the same while rows are scored.

    Returns:
        What became of it, without tensors, and the seconds that it took.
    """
    start = time.perf_counter()
    order = batch_order(train.lengths, settings.batch_size, settings.epochs, order_seed)
    last = len(order) if until is None else until
    tell = progress or (lambda _, __: None)
    plain = replace(settings, precision="fp32", frozen_cache=False)
    head = Genotype(genotype.n_layers, (), genotype.learning_rate)
    with Cohort(backbone, [head], [seed], task, plain) as cohort:
        backbone.model.base_model.requires_grad_(requires_grad=True)
        parameters = [p for p in backbone.model.parameters() if p.requires_grad]
        step = _stepper(cohort, parameters, genotype, len(order))
        history = []
        for i, indices in enumerate(order[:last]):
            history.append(step(train, indices, i))
            tell(i + 1, last)
        losses = torch.cat(history).tolist()
        predictions, finite = cohort.predict(validation, beat=lambda: tell(last, last))
        trained = Trained(
            losses=tuple(losses),
            steps=last,
            predictions=predictions[0],
            stored=genotype,
            tensors={},
            head_params=cohort.head.count(),
            finite=bool(finite[0]) and all(map(math.isfinite, losses)),
        )
    release_memory()
    return trained, time.perf_counter() - start


def _stepper(
    cohort: Cohort, parameters: Sequence[nn.Parameter], genotype: Genotype, total: int
) -> Callable[[Encoded, Sequence[int], int], Float[Tensor, "1"]]:
    """One step on a batch, which says what the loss was."""
    settings, rate = cohort.settings, genotype.learning_rate
    optimizer = torch.optim.AdamW(
        parameters, rate, betas=(BETA1, BETA2), eps=EPS, weight_decay=genotype.weight_decay
    )

    def step(rows: Encoded, indices: Sequence[int], number: int) -> Float[Tensor, "1"]:
        loss = cohort.learn(rows, indices)
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(number, total, settings.warmup)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step
