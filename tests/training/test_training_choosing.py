"""Ops that choose by the data what to train: that they choose what their papers say, and when."""

import pytest
import torch
from tiny import LORA, TASK, assert_same_training, genotype, op, tiny_backbone, tiny_rows, train

from autopeft.model.anatomy import Anatomy
from autopeft.ops.dense import DenseDelta
from autopeft.space.forms import Form
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.training import cohort as module
from autopeft.training.batches import batch_order
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings

SIZE = 12
SETTINGS = TrainingSettings(batch_size=4, epochs=1)


def on(form, tap, size=SIZE, **more):
    return op(form, LINEAR_INPUT[tap], tap, size, **more)


def looked(cohort, rows):
    """The examples that a cohort looks at, once it has."""
    order = batch_order(rows.lengths, 4, 1, 0)
    cohort._look(rows, order)
    return [i for batch in order[:2] for i in batch]


@pytest.fixture(autouse=True)
def few_looks(monkeypatch):
    monkeypatch.setattr(module, "LOOKS", 8)


@pytest.mark.parametrize("tap", [Tap.Q, Tap.ATTN_OUT, Tap.FFN_UP])
def test_fish_takes_the_entries_with_the_largest_mean_squared_gradient(tap):
    """One example after the other through the plain weight, the others of the batch left out."""
    backbone, rows = tiny_backbone("bert"), tiny_rows()
    with Cohort(backbone, [genotype(on(Form.FISH, tap))], [3], TASK, SETTINGS) as cohort:
        examples = looked(cohort, rows)
        for layer, stack in enumerate(cohort.injection.stacks()):
            weight = Anatomy(backbone.model).point(layer, tap)[0].weight.requires_grad_()
            information = torch.zeros_like(weight)
            for i in examples:
                (loss,) = TASK.loss(cohort.logits(rows, [i]), rows.labels[[i]])
                information += torch.autograd.grad(loss, weight)[0].square()
            weight.requires_grad_(requires_grad=False)
            best = information.flatten().topk(SIZE).indices.sort().values
            assert stack.own("entries", 0).flatten().tolist() == best.tolist()
            assert not stack.values.any()


def test_sparse_adapters_take_the_entries_with_the_largest_influence(monkeypatch):
    backbone, rows = tiny_backbone("bert"), tiny_rows()
    adapter = op(Form.SPARSE_BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 2)
    with Cohort(backbone, [genotype(adapter)], [3], TASK, SETTINGS) as cohort:
        examples = looked(cohort, rows)
        stacks = list(cohort.injection.stacks())
        starts = [stack.start(0).requires_grad_() for stack in stacks]
        for stack, start in zip(stacks, starts, strict=True):
            monkeypatch.setattr(stack, "table", lambda _, start=start: start.view(1, -1, 65))
        losses = [
            TASK.loss(cohort.logits(rows, batch), rows.labels[batch]).sum()
            for batch in (examples[:4], examples[4:])
        ]
        gradients = torch.autograd.grad(sum(losses), starts)
        for stack, start, gradient in zip(stacks, starts, gradients, strict=True):
            influence = (start * gradient).abs()
            best = influence.topk(2 * 65).indices.sort().values
            assert stack.own("entries", 0).flatten().tolist() == best.tolist()
            assert torch.equal(stack.own("values", 0).flatten(), start[best])


def test_what_is_looked_at_follows_from_the_order_of_batches_alone():
    def entries(company, order_seed=0):
        with Cohort(tiny_backbone("bert"), company, [7] * len(company), TASK, SETTINGS) as cohort:
            torch.rand(3)
            rows = tiny_rows()
            cohort._look(rows, batch_order(rows.lengths, 4, 1, order_seed))
            return [t for name, t in cohort.tensors(0).items() if name.endswith("entries")]

    fish = genotype(on(Form.FISH, Tap.V))
    assert torch.equal(torch.cat(entries([fish])), torch.cat(entries([fish, LORA])))
    assert not torch.equal(torch.cat(entries([fish])), torch.cat(entries([fish], 1)))


def test_a_lottery_ticket_is_what_moved_the_most_and_starts_anew(monkeypatch):
    moved, chosen = [], DenseDelta.choose

    def choose(self):
        moved.append(self.delta.detach().clone())
        chosen(self)

    monkeypatch.setattr(DenseDelta, "choose", choose)
    backbone, ticket = tiny_backbone("bert"), genotype(on(Form.LT_SFT, Tap.FFN_UP))
    (trained,) = train(backbone, [ticket])
    assert trained.steps == 2 * len(trained.losses)
    entries = [t for name, t in trained.tensors.items() if name.endswith("entries")]
    for delta, kept in zip(moved, entries, strict=True):
        assert kept.flatten().tolist() == delta[0, 0].abs().topk(SIZE).indices.sort()[0].tolist()
    (fresh,) = train(backbone, [genotype()])
    assert trained.losses[0] == fresh.losses[0], "the head is as at the start"
    assert trained.losses[1] != fresh.losses[1]


@pytest.mark.parametrize("form", [Form.LT_SFT, Form.DIFF_PRUNING])
def test_others_do_not_notice_what_a_dense_trial_does_beside_them(form):
    backbone = tiny_backbone("bert")
    others = [genotype(on(Form.FISH, Tap.V)), genotype(on(Form.ADALORA, Tap.Q, 2)), LORA]
    together = train(backbone, [*others, genotype(on(form, Tap.FFN_UP))], epochs=2)
    for trial, one in enumerate(others):
        (alone,) = train(backbone, [one], [trial], epochs=2)
        assert_same_training(alone, together[trial])
        assert alone.steps == together[trial].steps == len(alone.losses)


def test_gates_are_closed_midway_to_the_largest_and_what_remains_is_trained_on():
    pruned = genotype(on(Form.DIFF_PRUNING, Tap.FFN_UP), learning_rate=5e-2)
    with Cohort(tiny_backbone("bert"), [pruned], [0], TASK, SETTINGS) as cohort:
        stack = next(iter(cohort.injection.stacks()))
        order = batch_order(tiny_rows().lengths, 4, 1, 0)
        snapshots = []
        original = stack.choose

        def choose():
            snapshots.append(stack.current().detach().clone())
            original()

        stack.choose = choose
        cohort.train(tiny_rows(), order_seed=0)
        (at_choice,) = snapshots
        _, stored = stack.stored(0)
    assert len(order) == 6
    best = at_choice[0, 0].abs().topk(SIZE).indices.sort().values
    assert stored["entries"].flatten().tolist() == best.tolist()
    moved = (stored["values"].flatten() - at_choice[0, 0, best]).abs()
    assert moved.max() > 0.01, "two steps at the rate of entries, twenty times that of before"


def test_the_noise_of_the_gates_is_by_seed():
    backbone, pruned = tiny_backbone("bert"), genotype(on(Form.DIFF_PRUNING, Tap.FFN_UP))
    (one,), (again,), (other,) = (train(backbone, [pruned], [seed]) for seed in (1, 1, 2))
    assert_same_training(one, again)
    assert one.losses != other.losses


def test_the_penalty_closes_gates(monkeypatch):
    def logits():
        pruned = genotype(on(Form.DIFF_PRUNING, Tap.FFN_UP))
        with Cohort(tiny_backbone("bert"), [pruned], [0], TASK, SETTINGS) as cohort:
            cohort.train(tiny_rows(), order_seed=0)
            return next(iter(cohort.injection.stacks())).logits.mean().item()

    monkeypatch.setattr("autopeft.ops.dense.SPARSITY", 1.0)
    closing = logits()
    monkeypatch.setattr("autopeft.ops.dense.SPARSITY", 0.0)
    assert closing < logits()
