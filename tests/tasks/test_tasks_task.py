"""Tasks: the contract that both kinds keep, then what each is for."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from autopeft.errors import ConfigError
from autopeft.tasks.data import Dataset
from autopeft.tasks.splits import Split
from autopeft.tasks.task import Classification, Regression, Task, make_task


class TaskContract:
    """What every task keeps."""

    task: Task

    def labels(self, n_rows: int) -> torch.Tensor:
        raise NotImplementedError

    def logits(self, n_trials: int, n_rows: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(n_trials, n_rows, self.task.n_outputs, generator=generator)

    def loss_and_gradient(self, logits: torch.Tensor):
        logits = logits.clone().requires_grad_()
        losses = self.task.loss(logits, self.labels(logits.shape[1]))
        losses.sum().backward()
        return losses.detach(), logits.grad

    @pytest.mark.parametrize("n_rows", [1, 7, 32, 500])
    def test_together_is_alone_bit_for_bit(self, n_rows):
        logits = self.logits(4, n_rows)
        losses, gradients = self.loss_and_gradient(logits)
        assert losses.shape == (4,)
        for trial in range(4):
            loss, gradient = self.loss_and_gradient(logits[trial : trial + 1])
            assert torch.equal(loss[0], losses[trial])
            assert torch.equal(gradient[0], gradients[trial])

    def test_rows_add_up_to_the_chosen_metric(self):
        predictions = self.task.predictions(self.logits(1, 40))[0].numpy()
        labels = self.labels(40).numpy()
        chosen = self.task.metrics(predictions, labels)[self.task.metric]
        rows = self.task.row_scores(predictions, labels)
        assert rows.mean() == pytest.approx(chosen.value)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_diverged_trial_changes_no_bit_of_the_others(self, bad):
        logits = self.logits(3, 8)
        losses, gradients = self.loss_and_gradient(logits)
        logits[1, 2] = bad
        bad_losses, bad_gradients = self.loss_and_gradient(logits)
        assert not torch.isfinite(bad_losses[1])
        for trial in (0, 2):
            assert torch.equal(losses[trial], bad_losses[trial])
            assert torch.equal(gradients[trial], bad_gradients[trial])

    def test_the_loss_is_fp32_whatever_the_logits_are(self):
        logits = self.logits(2, 16).bfloat16()
        losses = self.task.loss(logits, self.labels(16))
        assert losses.dtype == torch.float32
        assert torch.equal(losses, self.task.loss(logits.float(), self.labels(16)))

    def test_a_constant_shift_of_all_rows_is_not_free(self):
        logits = self.logits(1, 16)
        shift = torch.zeros(self.task.n_outputs)
        shift[-1] = 5
        before, after = (self.task.loss(x, self.labels(16)) for x in (logits, logits + shift))
        assert not torch.allclose(before, after)

    def test_predictions_have_a_row_for_each_trial(self):
        logits = self.logits(3, 8)
        predictions = self.task.predictions(logits)
        assert predictions.shape[:2] == (3, 8)
        assert torch.equal(predictions[1], self.task.predictions(logits[1:2])[0])

    def test_all_metrics_the_chosen_one_first(self):
        predictions = self.task.predictions(self.logits(1, 40))[0].numpy()
        measured = self.task.metrics(predictions, self.labels(40).numpy())
        assert next(iter(measured)) == self.task.metric
        assert set(measured) == self.names


class TestClassification(TaskContract):
    task = Classification(n_labels=3, metric="mcc")
    names = frozenset({"accuracy", "f1", "mcc"})

    def labels(self, n_rows):
        return torch.arange(n_rows) % 3

    def test_loss_is_cross_entropy(self):
        logits = self.logits(2, 9)
        expected = [cross_entropy(trial, self.labels(9)) for trial in logits]
        assert torch.allclose(self.task.loss(logits, self.labels(9)), torch.stack(expected))

    def test_prediction_is_the_likeliest_class(self):
        logits = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]])
        assert self.task.predictions(logits).tolist() == [[1, 0]]


class TestMacro(TaskContract):
    task = Classification(n_labels=2, metric="f1_macro")
    names = frozenset({"f1_macro", "accuracy", "f1", "mcc"})

    def labels(self, n_rows):
        return torch.arange(n_rows) % 2


class TestRegression(TaskContract):
    task = Regression(metric="spearman", label_mean=2.5, label_std=1.5)
    names = frozenset({"pearson", "spearman"})

    def labels(self, n_rows):
        return torch.linspace(0, 5, n_rows)

    def test_loss_is_in_variances_of_the_labels(self):
        labels = torch.tensor([1.0, 4.0])
        assert self.task.loss(torch.zeros(1, 2, 1), labels).item() == pytest.approx(1.0)
        perfect = torch.tensor([[[-1.0], [1.0]]])
        assert self.task.loss(perfect, labels).item() == 0

    def test_prediction_is_on_the_scale_of_the_labels(self):
        assert self.task.predictions(torch.tensor([[[-1.0], [0.0], [2.0]]])).tolist() == [
            [1.0, 2.5, 5.5]
        ]


def dataset(labels, names=()):
    split = Split("train", tuple((f"t{i}",) for i in range(len(labels))), tuple(labels))
    return Dataset(split, split, label_names=names)


def test_the_builder_reads_the_data_set():
    task = make_task("classification", None, dataset([0, 1, 2], ("a", "b", "c")))
    assert task == Classification(n_labels=3, metric="accuracy")
    task = make_task("regression", None, dataset([1.0, 2.0, 6.0]))
    assert task == Regression("pearson", label_mean=3.0, label_std=float(np.std([1, 2, 6])))
    assert make_task("regression", "spearman", dataset([1.0, 2.0])).metric == "spearman"


def test_f1_is_of_the_class_that_is_asked_for():
    names, truth = ("fraud", "legit"), np.array([0, 1, 1, 1])
    predictions = np.array([1, 1, 1, 0])
    data = dataset([0, 1, 1, 1], names)
    usual = make_task("classification", "f1", data)
    asked = make_task("classification", "f1", data, positive="fraud")
    assert make_task("classification", "f1", data, positive="legit") == usual
    for task, value in ((usual, 2 / 3), (asked, 0.0)):
        assert task.metrics(predictions, truth)["f1"].value == pytest.approx(value)
        assert task.row_scores(predictions, truth).mean() == pytest.approx(value)
    same = ("accuracy", "mcc")
    mine, theirs = (task.metrics(predictions, truth) for task in (usual, asked))
    assert [mine[name].value for name in same] == pytest.approx([theirs[n].value for n in same])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("legit", "scam"), "'fraud' is not one of the classes 'legit', 'scam'"),
        (("a", "b", "fraud"), "there are 3 classes, and f1 is the mean over them"),
    ],
)
def test_a_class_that_f1_cannot_be_of_is_refused(names, told):
    with pytest.raises(ConfigError, match=f"positive: {told}"):
        make_task("classification", "f1", dataset([0, 1], names), positive="fraud")


@pytest.mark.parametrize(
    ("kind", "metric", "allowed"),
    [
        ("classification", "pearson", "accuracy, f1, mcc, f1_macro"),
        ("regression", "accuracy", "pearson, spearman"),
        ("regression", "", "pearson, spearman"),
    ],
)
def test_a_metric_that_does_not_suit_is_refused(kind, metric, allowed):
    data = dataset([0, 1], ("a", "b")) if kind == "classification" else dataset([0.0, 1.0])
    with pytest.raises(ConfigError) as caught:
        make_task(kind, metric, data)
    assert str(caught.value) == f"metric: '{metric}' does not suit {kind}; allowed: {allowed}"
