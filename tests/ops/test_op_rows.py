"""Rows of several trials in one tensor, against loops over trials."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from autopeft.ops.rows import Members, expand

N_TRIALS, BATCH, TOKENS, WIDTH = 4, 2, 3, 5

trials = st.lists(st.integers(0, N_TRIALS - 1), min_size=1, max_size=5)


def state(seed=0):
    return torch.randn(
        N_TRIALS * BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)
    )


def rows_of(x, trial):
    return x[trial * BATCH : (trial + 1) * BATCH]


def test_expand_repeats_the_batch_trial_by_trial():
    x = state()[:BATCH]
    expanded = expand(x, 3)
    assert all(torch.equal(rows_of(expanded, trial), x) for trial in range(3))
    assert expand(x, 1) is x


@given(trials)
def test_members_take_their_own_rows(trials):
    x = state()
    taken = Members(trials, N_TRIALS).take(x)
    for member, trial in enumerate(trials):
        assert torch.equal(taken[member].view(BATCH, TOKENS, WIDTH), rows_of(x, trial))


@given(trials)
def test_members_add_to_their_own_rows_one_after_the_other(trials):
    x = state()
    delta = torch.randn(len(trials), BATCH * TOKENS, WIDTH)
    added = Members(trials, N_TRIALS).add(x, delta)
    for trial in range(N_TRIALS):
        expected = rows_of(x, trial)
        for member in (m for m, owner in enumerate(trials) if owner == trial):
            expected = expected + delta[member].view_as(expected)
        assert torch.equal(rows_of(added, trial), expected)


@given(st.sets(st.integers(0, N_TRIALS - 1), min_size=1))
def test_members_replace_their_own_rows_alone(trials):
    x = state()
    new = torch.randn(len(trials), BATCH * TOKENS, WIDTH)
    put = Members(sorted(trials), N_TRIALS).put(x, new)
    for trial in range(N_TRIALS):
        expected = rows_of(x, trial)
        if trial in trials:
            expected = new[sorted(trials).index(trial)].view_as(expected)
        assert torch.equal(rows_of(put, trial), expected)


def test_a_broadcast_delta_is_added_to_every_row():
    x = state()
    delta = torch.randn(N_TRIALS, 1, WIDTH).expand(-1, BATCH * TOKENS, -1)
    added = Members(range(N_TRIALS), N_TRIALS).add(x, delta)
    assert torch.equal(added.view(N_TRIALS, -1, WIDTH), x.view(N_TRIALS, -1, WIDTH) + delta)


def test_a_trial_cannot_replace_its_rows_twice():
    with pytest.raises(AssertionError, match="twice"):
        Members([1, 1], N_TRIALS).put(state(), torch.zeros(2, BATCH * TOKENS, WIDTH))


def test_pooled_states_have_rows_too():
    x = state()[:, 0]
    added = Members([2], N_TRIALS).add(x, torch.ones(1, BATCH, WIDTH))
    assert torch.equal(rows_of(added, 2), rows_of(x, 2) + 1)
    assert torch.equal(added[:4], x[:4])


def test_shapes_are_checked_while_testing():
    wide = torch.zeros(1, BATCH * TOKENS, WIDTH + 1)
    with pytest.raises(TypeCheckError, match="delta"):
        Members([2], N_TRIALS).add(state(), wide)
