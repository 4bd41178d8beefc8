"""The order of batches: examples of like length together, the same for every trial of a cohort."""

from collections.abc import Sequence

import numpy as np

_POOL = 50
"""Batches' worth of examples that are sorted by length together."""


def batch_order(lengths: Sequence[int], batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """Indices of the examples of every batch of a training run.

    Args:
        lengths: tokens of each example.
        batch_size: examples in a batch; the last of an epoch can be smaller.
        epochs: passes over the examples.
        seed: the order depends on it and on nothing else.

    Returns:
        One list of indices a step, epoch after epoch.
    """
    rng = np.random.default_rng(seed)
    tokens = np.asarray(lengths)
    order: list[list[int]] = []
    for _ in range(epochs):
        shuffled = rng.permutation(len(tokens))
        batches: list[np.ndarray] = []
        for start in range(0, len(shuffled), batch_size * _POOL):
            pool = shuffled[start : start + batch_size * _POOL]
            pool = pool[np.argsort(tokens[pool], kind="stable")]
            batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        order += [batches[i].tolist() for i in rng.permutation(len(batches))]
    return order


def evaluation_order(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of the examples of every evaluation batch, longest first."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
