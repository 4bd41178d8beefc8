"""The order of batches: by the seed alone, every example once an epoch, like lengths together."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.training.batches import batch_order, evaluation_order

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=200)
batch_sizes = st.integers(1, 9)


def padding(order, lengths):
    tokens = np.asarray(lengths)
    return sum(len(batch) * tokens[batch].max() - tokens[batch].sum() for batch in order)


@given(lengths, batch_sizes, st.integers(1, 3), st.integers(0, 99))
def test_every_epoch_is_a_permutation(lengths, batch_size, epochs, seed):
    order = batch_order(lengths, batch_size, epochs, seed)
    n_batches = -(-len(lengths) // batch_size)
    assert len(order) == epochs * n_batches
    for start in range(0, len(order), n_batches):
        epoch = order[start : start + n_batches]
        assert sorted(i for batch in epoch for i in batch) == list(range(len(lengths)))


@given(lengths, batch_sizes)
def test_no_batch_is_much_smaller_than_another(lengths, batch_size):
    for order in (batch_order(lengths, batch_size, 1, 0), evaluation_order(lengths, batch_size)):
        sizes = {len(batch) for batch in order}
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


def test_batches_stay_even_over_several_pools():
    order = batch_order([5] * 1889, 32, 1, 0)
    assert len(order) == 60
    assert {len(batch) for batch in order} == {31, 32}


@given(lengths, batch_sizes, st.integers(0, 99))
def test_the_order_is_by_the_seed_alone(lengths, batch_size, seed):
    order = batch_order(lengths, batch_size, 3, seed)
    np.random.seed(1)  # noqa: NPY002
    assert batch_order(lengths, batch_size, 3, seed) == order
    assert batch_order(lengths, batch_size, 1, seed) == order[: len(order) // 3]


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [batch_order(range(100), 10, 2, seed) for seed in range(3)]
    epochs = [str(order[start : start + 10]) for order in orders for start in (0, 10)]
    assert len(set(epochs)) == 6


@given(lengths.map(lambda some: some[:50]), batch_sizes, st.integers(0, 99))
def test_like_lengths_are_together(lengths, batch_size, seed):
    """In one pool no batch begins before the one that is shorter has ended."""
    tokens = np.asarray(lengths)
    order = batch_order(lengths, batch_size, 1, seed)
    spans = sorted((tokens[batch].min(), tokens[batch].max()) for batch in order)
    assert all(high <= low for (_, high), (low, _) in pairwise(spans))


def test_most_of_the_padding_is_gone():
    tokens = np.random.default_rng(0).integers(3, 60, 1000).tolist()
    shuffled = np.random.default_rng(1).permutation(1000).reshape(-1, 10).tolist()
    assert padding(batch_order(tokens, 10, 1, 0), tokens) < padding(shuffled, tokens) / 10


def test_batches_of_one_length_do_not_come_in_a_row():
    tokens = sorted(np.random.default_rng(0).integers(3, 60, 300).tolist())
    longest = [max(tokens[i] for i in batch) for batch in batch_order(tokens, 10, 1, 0)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


@given(lengths, batch_sizes)
def test_evaluation_goes_from_long_to_short(lengths, batch_size):
    flat = [i for batch in evaluation_order(lengths, batch_size) for i in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)


@pytest.mark.parametrize("order", [batch_order([], 8, 2, 0), evaluation_order([], 8)])
def test_nothing_has_no_batches(order):
    assert order == []
