"""A job's training from its start to its end: a cohort is trained, scored and taken apart again."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from autopeft.model.backbone import Backbone
from autopeft.space.genotype import Genotype
from autopeft.tasks.encode import Encoded
from autopeft.tasks.task import AnyTask
from autopeft.training.cohort import Cohort, Progress, Trained
from autopeft.training.frozen import FrozenCache
from autopeft.training.paused import Paused
from autopeft.training.settings import TrainingSettings


def train_cohort(
    backbone: Backbone,
    genotypes: Sequence[Genotype],
    seeds: Sequence[int],
    *,
    task: AnyTask,
    settings: TrainingSettings,
    train: Encoded,
    validation: Encoded,
    order_seed: int,
    until: int | None = None,
    paused: Sequence[Paused] = (),
    cache: FrozenCache | None = None,
    trial_bytes: int | None = None,
    rest_bytes: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[Trained], float]:
    """Train a cohort and score it.

    Args:
        backbone: the frozen model; it is as before when this returns.
        genotypes: one for each trial.
        seeds: one for each trial.
        task: loss and predictions.
        settings: shared by all trials.
        train: training rows.
        validation: rows to predict at the end.
        order_seed: of the order of batches.
        until: steps from the start of the trials, after which they pause; all if None.
        paused: where each trial goes on from; none to start afresh.
        cache: of frozen states; what is missing there is computed.
        trial_bytes: memory that each trial is expected to take, to hold the process to it.
        rest_bytes: memory that the process holds when it trains nothing; as now if None.
        progress: called with (steps done, steps in all); again with the same while rows are
            scored or frozen states computed.

    Returns:
        What became of each trial, and the seconds that the cohort took.
    """
    start = time.perf_counter()
    whole = settings.epochs * -(-len(train) // settings.batch_size)
    steps, done = until or whole, paused[0].steps if paused else 0
    tell = progress or (lambda _, __: None)
    if cache is not None:
        for rows in (train, validation):
            forks = {genotype.fork for genotype in genotypes}
            cache.fill(rows, forks, beat=partial(tell, done, steps))
    with Cohort(backbone, genotypes, seeds, task, settings, cache) as cohort:
        losses = cohort.train(
            train,
            order_seed=order_seed,
            until=until,
            paused=paused,
            trial_bytes=trial_bytes,
            rest_bytes=rest_bytes,
            progress=progress,
        )
        every = [
            (*(paused[i].losses if paused else ()), *losses[:, i].tolist())
            for i in range(cohort.n_trials)
        ]
        pauses = [cohort.pause(*item) if steps < whole else None for item in enumerate(every)]
        cohort.settle()
        predictions, finite = cohort.predict(validation, beat=partial(tell, steps, steps))
        trained = []
        for i, own in enumerate(every):
            all_finite = bool(finite[i]) and all(map(math.isfinite, own))
            result = cohort.trained(i, own, predictions[i], finite=all_finite)
            trained.append(replace(result, paused=pauses[i]))
    return trained, time.perf_counter() - start
