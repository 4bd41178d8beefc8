"""AdamW for stacked parameters, against torch's own for each trial alone."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import get_linear_schedule_with_warmup

from autopeft.training.optimizer import CohortAdamW, Stacked, schedule

RATES = (1e-2, 3e-3, 5e-2)
DECAYS = (0.0, 0.1, 0.01)
CLIP = 1.0


def stacked_parameters():
    """Of three trials: all have the first, two have the second, one has two of the third."""
    generator = torch.Generator().manual_seed(0)

    def parameter(*shape):
        return nn.Parameter(torch.randn(shape, generator=generator))

    return [
        Stacked(parameter(3, 8, 5), (0, 1, 2), (8, 3, 1), True, ("a",) * 3),
        Stacked(parameter(2, 1, 7), (0, 2), (1, 1), False, ("b",) * 2),
        Stacked(parameter(2, 8, 4), (1, 1), (2, 5), True, ("b", "c")),
    ]


def zero_padding(stacked, tensors):
    for item, tensor in zip(stacked, tensors, strict=True):
        for member, rows in enumerate(item.rows):
            tensor[member, rows:] = 0


def gradients(stacked, step, sizes=(3.0, 1.0, 0.01)):
    """Random ones, large for the first trial and small for the last."""
    generator = torch.Generator().manual_seed(100 + step)
    out = []
    for item in stacked:
        gradient = torch.randn(item.parameter.shape, generator=generator)
        factors = torch.tensor([sizes[trial] for trial in item.trials])
        out.append(gradient * factors.view(-1, 1, 1))
    zero_padding(stacked, out)
    return out


def own(stacked, tensors, trial):
    """A trial's part of every tensor, and whether it decays."""
    return [
        (tensor[member, :rows], item.decays)
        for item, tensor in zip(stacked, tensors, strict=True)
        for member, (owner, rows) in enumerate(zip(item.trials, item.rows, strict=True))
        if owner == trial
    ]


@pytest.fixture
def stacked():
    items = stacked_parameters()
    zero_padding(items, [item.parameter.data for item in items])
    return items


def run(stacked, n_steps, *, spoil=None, **more):
    """Some steps; `spoil(step, gradients)` may change the gradients."""
    settings = {"learning_rates": RATES, "weight_decays": DECAYS, "clip": CLIP} | more
    optimizer = CohortAdamW(stacked, **settings)
    for step in range(n_steps):
        grads = gradients(stacked, step)
        if spoil is not None:
            spoil(step, grads)
        for item, gradient in zip(stacked, grads, strict=True):
            item.parameter.grad = gradient
        optimizer.step(schedule(step, n_steps, 0.2))
    return [item.parameter.detach() for item in stacked]


@pytest.mark.parametrize("trial", [0, 1, 2])
def test_it_is_torchs_adamw_for_each_trial_alone(stacked, trial):
    parameters = [item.parameter.detach().clone() for item in stacked]
    theirs = [(nn.Parameter(t.clone()), decays) for t, decays in own(stacked, parameters, trial)]
    groups = [
        {"params": [p for p, decays in theirs if decays], "weight_decay": DECAYS[trial]},
        {"params": [p for p, decays in theirs if not decays], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW([g for g in groups if g["params"]], lr=RATES[trial])
    for step in range(20):
        for (parameter, _), (gradient, _) in zip(
            theirs, own(stacked, gradients(stacked, step), trial), strict=True
        ):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([p for p, _ in theirs], CLIP)
        for group in reference.param_groups:
            group["lr"] = RATES[trial] * schedule(step, 20, 0.2)
        reference.step()
    after = own(stacked, run(stacked, 20), trial)
    before = own(stacked, parameters, trial)
    for (parameter, _), (ours, _), (old, _) in zip(theirs, after, before, strict=True):
        torch.testing.assert_close(ours, parameter.data, rtol=0, atol=1e-6)
        assert (ours - old).abs().max() > 1e-3


def test_each_trial_is_clipped_by_its_own_norm(stacked):
    optimizer = CohortAdamW(stacked, learning_rates=RATES, weight_decays=DECAYS, clip=CLIP)
    grads = gradients(stacked, 0)
    for item, gradient in zip(stacked, grads, strict=True):
        item.parameter.grad = gradient
    expected = [
        torch.cat([t.flatten() for t, _ in own(stacked, grads, trial)]).norm() for trial in range(3)
    ]
    norms = gradient_norms(optimizer)
    torch.testing.assert_close(norms, torch.stack(expected))
    assert (norms > CLIP).tolist() == [True, True, False]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_i2_a_diverged_trial_changes_no_bit_of_the_others(stacked, value):
    def spoil(step, grads):
        if step >= 1:
            grads[0][1, 0, 0] = value

    start = [item.parameter.detach().clone() for item in stacked]
    healthy = [tensor.clone() for tensor in run(stacked, 5)]
    for item, tensor in zip(stacked, start, strict=True):
        item.parameter.data.copy_(tensor)
    spoilt = run(stacked, 5, spoil=spoil)
    for trial in (0, 2):
        for (one, _), (other, _) in zip(
            own(stacked, healthy, trial), own(stacked, spoilt, trial), strict=True
        ):
            assert torch.equal(one, other)
    assert not torch.equal(healthy[0][1], spoilt[0][1])


def test_i7_padding_stays_zero(stacked):
    after = run(stacked, 10)
    for item, tensor in zip(stacked, after, strict=True):
        for member, rows in enumerate(item.rows):
            assert not tensor[member, rows:].any()


def test_gradients_are_forgotten_and_have_to_be_there(stacked):
    run(stacked, 1)
    assert all(item.parameter.grad is None for item in stacked)
    optimizer = CohortAdamW(stacked, learning_rates=RATES, weight_decays=DECAYS, clip=CLIP)
    with pytest.raises(RuntimeError, match="took no part in the forward pass"):
        optimizer.step(1.0)


def test_schedule_rises_to_one_and_falls_to_zero():
    values = [schedule(step, 10, 0.3) for step in range(10)]
    expected = [1 / 3, 2 / 3, 1, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    assert values == pytest.approx(expected)
    assert schedule(10, 10, 0.3) == 0


def test_warm_up_has_the_nearest_number_of_steps():
    assert [schedule(step, 10, 0.28) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert [schedule(step, 10, 0.32) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert [schedule(step, 100, 0.29) for step in (28, 29)] == [1, 1], "0.29 * 100 is below 29"


def test_schedule_is_that_of_transformers_but_for_a_first_step_at_zero():
    total, rising = 20, 4
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, rising, total)
    values = []
    for _ in range(total):
        values.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    ours = [schedule(step, total, rising / total) for step in range(total)]
    assert ours[: rising - 1] == pytest.approx(values[1:rising])
    assert ours[rising:] == pytest.approx(values[rising:])


@given(st.integers(1, 300), st.floats(0, 1))
def test_schedule_is_positive_at_every_step_and_peaks_once(total, warmup):
    values = [schedule(step, total, warmup) for step in range(total)]
    peak = values.index(max(values))
    assert min(values) > 0
    assert max(values) == 1
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


def test_norms_do_not_depend_on_the_order_of_parameters():
    """In another company, what layers share may come earlier or later among them."""
    generator = torch.Generator().manual_seed(1)
    stacked = [
        Stacked(nn.Parameter(torch.zeros(1, 60, 3)), (0,), (n,), True, (str(n),))
        for n in (7, 31, 60)
    ]
    for item in stacked:
        item.parameter.grad = 10 * torch.randn(item.parameter.shape, generator=generator)
    norms = {
        gradient_norms(
            CohortAdamW(order, learning_rates=[1e-3], weight_decays=[0.0], clip=1.0)
        ).item()
        for order in itertools.permutations(stacked)
    }
    assert len(norms) == 1


def test_a_long_row_has_the_same_norm_alone_and_in_company():
    """Threads share the sum of a single long row, and none of several."""
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(8, 1, 40_000, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = [norms_of([gradient[None]]) for gradient in gradients]
        together = norms_of([gradients])
        apart = norms_of([gradient[None] for gradient in gradients])
    finally:
        torch.set_num_threads(before)
    assert [norm for (norm,) in alone] == together == apart


def norms_of(gradients):
    """Of trials one after the other, each with a member of one of some parameters."""
    stacked, trial = [], 0
    for gradient in gradients:
        trials = tuple(range(trial, trial + len(gradient)))
        parameter = nn.Parameter(torch.zeros(gradient.shape))
        parameter.grad = gradient
        names = tuple(map(str, trials))
        stacked.append(Stacked(parameter, trials, (1,) * len(trials), True, names))
        trial += len(gradient)
    same = [0.1] * trial
    optimizer = CohortAdamW(stacked, learning_rates=same, weight_decays=same, clip=CLIP)
    return gradient_norms(optimizer).tolist()


def gradient_norms(optimizer):
    """By which the next step would clip each trial."""
    return optimizer._norms([group.gradient() for group in optimizer._groups])
