"""Rows of several trials in one tensor, against loops over trials."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autopeft.ops.base import Member
from autopeft.ops.bias import Bias
from autopeft.ops.rows import Blocks

N_BLOCKS, BATCH, TOKENS, WIDTH = 4, 2, 3, 5

several = st.sets(st.integers(0, N_BLOCKS - 1), min_size=1).map(sorted)


def state(seed=0):
    return torch.randn(
        N_BLOCKS * BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)
    )


def rows_of(x, block):
    return x[block * BATCH : (block + 1) * BATCH]


@given(several)
def test_blocks_are_the_rows_of_their_trials(some):
    x = state()
    taken = Blocks(x, N_BLOCKS).take(some)
    for member, block in enumerate(some):
        assert torch.equal(taken[member].view(BATCH, TOKENS, WIDTH), rows_of(x, block))


@given(st.lists(several, max_size=5))
def test_ops_one_after_the_other_change_their_own_blocks(stacks):
    x = state()
    blocks, expected = Blocks(x, N_BLOCKS), x.clone()
    for i, some in enumerate(stacks):
        blocks.put(some, blocks.take(some) * (i + 2))
        for block in some:
            rows_of(expected, block).mul_(i + 2)
    assert torch.equal(blocks.state(), expected)


@given(several)
def test_gradients_reach_the_rows_they_came_from(some):
    x = state().requires_grad_()
    blocks = Blocks(x, N_BLOCKS)
    blocks.put(some, 3 * blocks.take(some))
    (gradient,) = torch.autograd.grad(blocks.state().sum(), x)
    for block in range(N_BLOCKS):
        assert (rows_of(gradient, block) == (3 if block in some else 1)).all()


def test_states_of_one_token_are_rows_too():
    x = state()[:, :1]
    blocks = Blocks(x, N_BLOCKS)
    blocks.put([2], blocks.take([2]) + 1)
    assert torch.equal(rows_of(blocks.state(), 2), rows_of(x, 2) + 1)
    assert torch.equal(blocks.state()[:4], x[:4])


@pytest.mark.parametrize("trials", [(1, 1), (2, 0)])
def test_a_stack_has_a_trial_once_and_in_order(trials):
    members = [Member(trial, 0, f"layers.0.bias.{i}", 1) for i, trial in enumerate(trials)]
    with pytest.raises(ValueError, match="different trials"):
        Bias(members, layout=(0, 1, 2), d_read=WIDTH, d_write=WIDTH)
