"""A cohort: K trials on one model, each as if it were alone."""

import math

import numpy as np
import pytest
import torch
from tiny import (
    FAMILIES,
    HEAD,
    LORA,
    MAM,
    N_OUTPUTS,
    TASK,
    as_params,
    assert_same_training,
    op_params,
    same_bits,
    state,
    tiny_backbone,
    tiny_batch,
    tiny_model,
    tiny_rows,
    train,
)

from autopeft.model.head import OPS_ATTRIBUTE
from autopeft.tasks.task import Regression
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings


@pytest.fixture(params=as_params(FAMILIES))
def backbone(request):
    return tiny_backbone(request.param)


def cohort_of(backbone, *company, **settings):
    return Cohort(backbone, company, range(len(company)), TASK, TrainingSettings(**settings))


def test_i2_a_trial_that_is_nan_from_the_start_changes_no_bit_of_the_others(backbone):
    def run(poison):
        with Cohort(backbone, [LORA, MAM, HEAD], [1, 2, 3], TASK, TrainingSettings()) as cohort:
            if poison:
                cohort.load(1, {n: t * math.nan for n, t in cohort.tensors(1).items()})
            losses = cohort.train(tiny_rows(), order_seed=0)
            predictions, finite = cohort.predict(tiny_rows(9, seed=1))
            return losses, predictions, finite.tolist(), [cohort.tensors(i) for i in (0, 2)]

    losses, predictions, finite, tensors = run(poison=False)
    spoilt_losses, spoilt_predictions, spoilt_finite, spoilt_tensors = run(poison=True)
    assert finite == [True, True, True]
    assert spoilt_finite == [True, False, True]
    assert spoilt_losses[:, 1].isnan().all()
    assert torch.equal(spoilt_losses[:, ::2], losses[:, ::2])
    np.testing.assert_array_equal(spoilt_predictions[::2], predictions[::2])
    assert all(map(same_bits, spoilt_tensors, tensors))


def test_i1_holds_for_one_output_and_long_batches(backbone):
    family = backbone.model.config.model_type
    regression = tiny_backbone(family, model=tiny_model(family, n_outputs=1))
    company = [LORA, HEAD]
    how = {"n_rows": 48, "batch_size": 16, "task": Regression()}
    together = train(regression, company, **how)
    for trial, one in enumerate(company):
        assert_same_training(train(regression, [one], [trial], **how)[0], together[trial])


def test_i1_holds_where_the_rows_leave_a_rest(backbone):
    company = [LORA, HEAD]
    together = train(backbone, company, n_rows=16)
    for trial, one in enumerate(company):
        assert_same_training(train(backbone, [one], [trial], n_rows=16)[0], together[trial])


def test_i3_without_ops_the_head_reads_the_backbone(backbone):
    model, rows = backbone.model, tiny_rows(5)
    with Cohort(backbone, [HEAD, HEAD], [0, 1], TASK, TrainingSettings()) as cohort:
        logits = cohort.logits(rows, range(5))
        for trial in (0, 1):
            head = {name: tensor.clone() for name, tensor in cohort.tensors(trial).items()}
            assert head.keys() == set(backbone.fresh)
            plain = tiny_model(model.config.model_type)
            plain.load_state_dict(plain.state_dict() | head)
            expected = plain(**tiny_batch(plain)).logits
            torch.testing.assert_close(logits[trial], expected, rtol=0, atol=1e-6)


def test_i6_only_ops_and_head_are_trained_and_the_model_is_restored(backbone):
    model, rows = backbone.model.requires_grad_(requires_grad=True), tiny_rows(5)
    before, modules = state(model), list(model.modules())
    plain = model(**tiny_batch(model)).logits
    with Cohort(backbone, [LORA, MAM], [0, 1], TASK, TrainingSettings()) as cohort:
        TASK.loss(cohort.logits(rows, range(5)), rows.labels).sum().backward()
        trained = {id(item.parameter) for item in cohort.stacked()}
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (id(parameter) in trained), name
            assert (parameter.grad is not None) == (id(parameter) in trained), name
    assert list(model.modules()) == modules
    assert same_bits(state(model), before)
    assert torch.equal(model(**tiny_batch(model)).logits, plain)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_i6_the_model_is_restored_after_an_error(backbone):
    def interrupt(*_):
        raise KeyboardInterrupt

    modules = list(backbone.model.modules())
    with pytest.raises(KeyboardInterrupt), cohort_of(backbone, LORA) as cohort:
        cohort.train(tiny_rows(), order_seed=0, progress=interrupt)
    assert list(backbone.model.modules()) == modules
    assert not hasattr(backbone.model, OPS_ATTRIBUTE)


def test_i8_the_order_of_batches_is_by_its_seed_alone(backbone):
    def losses(order_seed, trial_seed=0):
        with Cohort(backbone, [HEAD], [trial_seed], TASK, TrainingSettings(batch_size=4)) as cohort:
            return cohort.train(tiny_rows(), order_seed=order_seed)

    first = losses(0)
    torch.manual_seed(5)
    assert torch.equal(losses(0), first)
    assert not torch.equal(losses(1), first)


def test_what_is_reported_is_what_was_trained(backbone):
    head_params = sum(
        p.numel() for n, p in backbone.model.named_parameters() if n in backbone.fresh
    )
    for one, trained in zip([LORA, HEAD], train(backbone, [LORA, HEAD]), strict=True):
        assert op_params(trained) == one.count_params(backbone.shape)
        assert trained.head_params == head_params
        assert trained.predictions.shape == (22,)
        assert set(trained.predictions.tolist()) <= set(range(N_OUTPUTS))


def test_predictions_are_in_the_order_of_the_rows(backbone):
    rows = tiny_rows(22, seed=1)
    with cohort_of(backbone, LORA, HEAD, batch_size=2) as cohort, torch.no_grad():
        predictions, finite = cohort.predict(rows)
        one_by_one = [cohort.logits(rows, [row]).argmax(-1)[:, 0].tolist() for row in range(22)]
    assert finite.all()
    np.testing.assert_array_equal(predictions, np.array(one_by_one).T)
    assert len(np.unique(predictions)) > 1


def test_tensors_can_be_taken_to_anothercohort_of(backbone):
    rows = tiny_rows()
    with cohort_of(backbone, HEAD, LORA) as cohort:
        cohort.train(rows, order_seed=0)
        kept, logits = cohort.tensors(1), cohort.logits(rows, range(8))[1]
    with cohort_of(backbone, LORA, MAM) as other:
        assert not torch.equal(other.logits(rows, range(8))[0], logits)
        other.load(0, kept)
        assert torch.equal(other.logits(rows, range(8))[0], logits)
        assert same_bits(other.tensors(0), kept)


def test_tensors_of_another_trial_are_refused(backbone):
    with cohort_of(backbone, LORA, HEAD) as cohort:
        with pytest.raises(ValueError, match=r"other parameters than expected: .*lowrank"):
            cohort.load(0, cohort.tensors(1))
        name, tensor = next(iter(cohort.tensors(0).items()))
        with pytest.raises(ValueError, match=rf"{name}: shape \(2, 2\), not "):
            cohort.load(0, cohort.tensors(0) | {name: torch.zeros(2, 2)})
        assert same_bits({name: cohort.tensors(0)[name]}, {name: tensor})


def test_progress_is_told_after_every_step(backbone):
    told = []
    with cohort_of(backbone, HEAD, epochs=2, batch_size=10) as cohort:
        cohort.train(tiny_rows(24), order_seed=0, progress=lambda *at: told.append(at))
    assert told == [(step, 6) for step in range(1, 7)]


def test_no_rows_cannot_be_predicted(backbone):
    with cohort_of(backbone, HEAD) as cohort, pytest.raises(ValueError, match="no rows"):
        cohort.predict(tiny_rows(0))


def test_a_backbone_in_another_precision_is_refused():
    with pytest.raises(ValueError, match="a backbone in fp32 for bf16"):
        Cohort(tiny_backbone("bert"), [LORA], [0], TASK, TrainingSettings(precision="bf16"))
