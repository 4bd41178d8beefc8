"""The order of batches: examples of like length together, the same for every trial of a cohort.

The batches of an epoch are equal in size to within one. A rest of one to three examples would be a
noisy step, and on a CPU a product of so few rows has other bits alone than in company.
"""

from collections.abc import Sequence

import numpy as np

_POOL = 50
"""Batches' worth of examples that are sorted by length together."""


def batch_order(lengths: Sequence[int], batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """Indices of the examples of every batch of a training run.

    Args:
        lengths: tokens of each example.
        batch_size: examples in a batch at most.
        epochs: passes over the examples.
        seed: the order depends on it and on nothing else.

    Returns:
        One list of indices a step, epoch after epoch.
    """
    rng = np.random.default_rng(seed)
    tokens = np.asarray(lengths)
    order: list[list[int]] = []
    for _ in range(epochs):
        batches = _cut(rng.permutation(len(tokens)), batch_size)
        for start in range(0, len(batches), _POOL):
            some = slice(start, start + _POOL)
            pool = np.concatenate(batches[some])
            pool = pool[np.argsort(tokens[pool], kind="stable")]
            batches[some] = np.array_split(pool, len(batches[some]))
        order += [batches[i].tolist() for i in rng.permutation(len(batches))]
    return order


def evaluation_order(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of the examples of every evaluation batch, longest first."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [batch.tolist() for batch in _cut(order, batch_size)]


def parts(batch: Sequence[int], size: int) -> list[list[int]]:
    """A batch in parts of at most this many examples, as few as possible, equal to within one."""
    return [part.tolist() for part in _cut(np.asarray(batch), size)]


def _cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of at most this size, as few as possible, equal to within one."""
    return np.array_split(order, -(-len(order) // batch_size)) if len(order) else []
