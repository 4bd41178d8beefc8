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
    st.booleans(),
)
def test_ops_one_after_the_other_are_as_by_autograd(drawn, fresh, sole):
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
    given_on = upstream.clone()
    found = change(source * 1, N_BLOCKS, acts, fresh=fresh, sole=sole)
    got = torch.autograd.grad(found, leaves, given_on, allow_unused=True)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    for leaf, ours, theirs in zip(leaves, got, wanted, strict=True):
        none = torch.zeros_like(leaf)
        pair = [none if gradient is None else gradient for gradient in (ours, theirs)]
        assert torch.allclose(*pair, rtol=0, atol=1e-11)
    assert sole or torch.equal(upstream, given_on)
    with torch.no_grad():
        assert torch.equal(change(source * 1, N_BLOCKS, acts, fresh=fresh), found)


@given(st.lists(several, max_size=4), st.booleans())
def test_what_is_read_besides_has_the_gradient_of_autograd(readers, sole):
    source = state().double().requires_grad_()
    weights = [torch.randn(WIDTH, WIDTH).double() for _ in (*readers, None)]

    def loss(on, reads):
        read = [(x @ weight).exp().sum() for x, weight in zip(reads, weights, strict=False)]
        return (on @ weights[-1]).sin().sum() + sum(read)

    whole = (source * 1).view(N_BLOCKS, -1, WIDTH)
    expected = loss(whole, [whole[some] for some in readers])
    on, blocks = apart(source * 1, N_BLOCKS, readers, sole=sole)
    found = loss(on, [blocks.take(some) for some in readers])
    torch.testing.assert_close(found, expected)
    (wanted,), (got,) = (torch.autograd.grad(one, source) for one in (expected, found))
    torch.testing.assert_close(got, wanted)


def test_a_gradient_that_others_were_given_is_left_alone():
    source = state().requires_grad_()
    on, blocks = apart(source * 1, N_BLOCKS, [[1]])
    given_on = torch.ones_like(source)
    torch.autograd.backward(
        [on, blocks.take([1])], [given_on, torch.ones(1, BATCH * TOKENS, WIDTH)]
    )
    assert torch.equal(given_on, torch.ones_like(source))
    assert torch.equal(rows_of(source.grad, 1), torch.full((BATCH, TOKENS, WIDTH), 2.0))


def test_of_what_is_read_one_token_can_be_taken():
    x = state()
    for readers in ([[1]], [range(N_BLOCKS)]):
        (some,) = readers
        _, blocks = apart(x, N_BLOCKS, readers)
        assert blocks.rest == (TOKENS,)
        one = blocks.token(1)
        assert one.rest == (1,)
        for member, block in enumerate(some):
            assert torch.equal(one.take(some)[member], rows_of(x, block)[:, 1])


def test_a_scale_near_one_is_no_one_in_bf16():
    member = Member(0, 0, "layers.0.scale", 1)
    scale = FORM_CLASSES[Form.SCALE]([member], layout=[0], d_read=WIDTH, d_write=WIDTH)
    with torch.no_grad():
        scale.factors.fill_(1.003)  # which would be 1 in bf16
    h = state().to(torch.bfloat16).view(1, -1, WIDTH)
    exact = (h.double() * 1.003).to(torch.bfloat16)
    assert not torch.equal(exact, h)
    torch.testing.assert_close(scale(h, h), exact, rtol=2**-8, atol=0)
    assert (scale(h, h) == exact).float().mean() > 0.99


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
