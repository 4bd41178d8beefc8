"""Rows of several trials in one tensor, against loops over trials."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.ops.base import Member
from autopeft.ops.bias import Bias
from autopeft.ops.build import FORM_CLASSES
from autopeft.ops.rows import Act, apart, change
from autopeft.space.forms import Activation, Form

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
    _, read = apart(x, N_BLOCKS, [some])
    taken = read.take(some)
    for member, block in enumerate(some):
        assert torch.equal(taken[member].view(BATCH, TOKENS, WIDTH), rows_of(x, block))


def an_op(form, some, seed):
    """An op that is no longer the no-op it starts as."""
    members = [Member(trial, seed, f"layers.0.{form}.{seed}", 2) for trial in some]
    more = {"activation": Activation.TANH} if form is Form.BOTTLENECK else {}
    op = FORM_CLASSES[form](
        members, layout=range(N_BLOCKS), d_read=WIDTH, d_write=WIDTH, **more
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in op.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return op


forms = st.sampled_from([Form.LOWRANK, Form.BOTTLENECK, Form.BIAS, Form.SCALE])


@settings(deadline=None)
@given(
    st.lists(st.tuples(forms, several, st.sampled_from(["parallel", "sequential"])), max_size=4),
    st.booleans(),
)
def test_ops_one_after_the_other_are_as_by_autograd(drawn, fresh):
    """Values, and gradients of the state, of what is read elsewhere and of all parameters."""
    source, other = state().double().requires_grad_(), state(1).double().requires_grad_()
    ops = []
    for seed, (form, some, place) in enumerate(drawn):
        parallel = place == "parallel" and form not in (Form.BIAS, Form.SCALE)
        ops.append((an_op(form, some, seed), parallel))
    leaves = [source, other, *(p for op, _ in ops for p in op.parameters())]
    upstream = torch.randn(source.shape, generator=torch.Generator().manual_seed(9)).double()

    h = source * 1
    rows = list(h.view(N_BLOCKS, -1, WIDTH))
    reads = list((other * 1).view(N_BLOCKS, -1, WIDTH))
    for op, parallel in ops:
        old = torch.stack([rows[i] for i in op.blocks])
        x = torch.stack([reads[i] for i in op.blocks]) if parallel else old
        for i, new in zip(op.blocks, op(old, x), strict=True):
            rows[i] = new
    expected = torch.stack(rows).view(source.shape)
    wanted = torch.autograd.grad(expected, leaves, upstream, allow_unused=True)

    readers = [op.blocks for op, parallel in ops if parallel]
    _, seen = apart(other * 1, N_BLOCKS, readers)
    acts = [Act(op, seen.take(op.blocks) if parallel else None) for op, parallel in ops]
    kept = upstream.clone()
    found = change(source * 1, N_BLOCKS, acts, fresh=fresh)
    got = torch.autograd.grad(found, leaves, upstream, allow_unused=True)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    for leaf, ours, theirs in zip(leaves, got, wanted, strict=True):
        none = torch.zeros_like(leaf)
        pair = [none if gradient is None else gradient for gradient in (ours, theirs)]
        assert torch.allclose(*pair, rtol=0, atol=1e-11)
    assert torch.equal(upstream, kept)
    with torch.no_grad():
        assert torch.equal(change(source * 1, N_BLOCKS, acts, fresh=fresh), found)


def test_a_state_that_others_hold_is_left_alone():
    held = state()
    acts = [Act(an_op(Form.BIAS, [1], 0).float(), None)]
    before = held.clone()
    change(held, N_BLOCKS, acts, fresh=False)
    assert torch.equal(held, before)
    with torch.no_grad():
        change(held, N_BLOCKS, acts, fresh=False)
    assert torch.equal(held, before)


def test_a_state_that_somebody_kept_and_is_overwritten_is_refused():
    kept = state().requires_grad_().exp()  # its backward pass reads the outcome
    acts = [Act(an_op(Form.BIAS, [1], 0).float(), None)]
    changed = change(kept, N_BLOCKS, acts, fresh=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed.sum().backward()


def test_nothing_is_kept_without_gradients():
    """Or evaluation would hold what a backward pass needs."""
    kept = []
    op = an_op(Form.BOTTLENECK, [1], 0)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None), torch.no_grad():
        change(state().double(), N_BLOCKS, [Act(op, None)], fresh=True)
    assert kept == []


def test_states_of_one_token_are_rows_too():
    x = state()[:, :1]
    op = an_op(Form.BIAS, [2], 0).float()
    changed = change(x, N_BLOCKS, [Act(op, None)], fresh=False)
    assert torch.equal(rows_of(changed, 2), rows_of(x, 2) + op.bias.view(1, 1, -1))
    assert torch.equal(changed[:4], x[:4])


@pytest.mark.parametrize("trials", [(1, 1), (2, 0)])
def test_a_stack_has_a_trial_once_and_in_order(trials):
    members = [Member(trial, 0, f"layers.0.bias.{i}", 1) for i, trial in enumerate(trials)]
    with pytest.raises(ValueError, match="different trials"):
        Bias(members, layout=(0, 1, 2), d_read=WIDTH, d_write=WIDTH)
