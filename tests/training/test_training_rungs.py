"""At a rung, as at the end, what is scored is what is stored, and no larger than is charged."""

import numpy as np
import pytest
import torch
from tiny import (
    assert_same_training,
    genotype,
    op,
    op_params,
    same_bits,
    tiny_backbone,
    tiny_model,
    tiny_rows,
    train,
)
from torch import nn

from autopeft.space.forms import FORMS, IN_HEADS, PROMPTS, Form
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.tasks.task import Regression
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings

STEPS = 18
RUNGS = [1, 2, 4, 9, 11, STEPS - 1, None]
"""Before AdaLoRA's first cut, within its cuts and behind them, before gates close and behind."""
HOW = {"epochs": 6, "task": Regression()}


@pytest.fixture(scope="module")
def backbone():
    model = tiny_model("bert")
    model.classifier = nn.Linear(32, 1)
    return tiny_backbone("bert", model=model)


def of_form(form):
    """Two ops of a form, where there is room for two, so that they could compete."""
    size = 4 if FORMS[form].sized else 1
    if form in PROMPTS:
        ops = [op(form, Tap.EMBED, Tap.EMBED, (size, 0, 0))]
    elif form in IN_HEADS:
        ops = [op(form, Tap.Q if form is Form.MULTIHEAD else Tap.HEAD, Tap.HEAD, size)]
    elif form in (Form.BIAS, Form.SCALE):
        ops = [op(form, tap, tap, size) for tap in (Tap.Q, Tap.V)]
    else:
        ops = [op(form, LINEAR_INPUT[tap], tap, size) for tap in (Tap.Q, Tap.V)]
    return genotype(*ops, learning_rate=5e-2)


def put_out(backbone, trained):
    """What the stored genotype puts out for the rows that were scored, loaded afresh."""
    rows = tiny_rows(22, seed=1, dtype=torch.float32)
    settings = TrainingSettings(batch_size=5)
    with Cohort(backbone, [trained.stored], [0], HOW["task"], settings) as cohort:
        cohort.load(0, trained.tensors)
        return cohort.predict(rows)[0][0]


CHANGING = [form for form in Form if FORMS[form].becomes]
CASES = [(form, until) for form in Form for until in (RUNGS if form in CHANGING else RUNGS[2:3])]


@pytest.mark.parametrize(("form", "until"), CASES)
def test_what_is_scored_is_what_is_stored(backbone, form, until):
    one = of_form(form)
    (trained,) = train(backbone, [one], until=until, **HOW)
    assert len(trained.losses) == (until or STEPS)
    assert (trained.paused is None) == (until is None)
    np.testing.assert_allclose(put_out(backbone, trained), trained.predictions, rtol=0, atol=1e-5)
    assert trained.stored.count_params(backbone.shape) == op_params(trained)
    assert op_params(trained) <= one.count_params(backbone.shape)


@pytest.mark.parametrize("form", CHANGING)
def test_scoring_at_a_rung_changes_no_bit_of_what_goes_on(backbone, form):
    one = of_form(form)
    (whole,) = train(backbone, [one], **HOW)
    paused = ()
    for until in (2, 9):
        (rung,) = train(backbone, [one], until=until, paused=paused, **HOW)
        with Cohort(backbone, [one], [0], HOW["task"], TrainingSettings(6, 5, 0.1)) as cohort:
            rows = tiny_rows(15, dtype=torch.float32)
            losses = cohort.train(rows, order_seed=0, until=until)
            unscored = cohort.pause(0, losses[:, 0].tolist())
        assert rung.paused.losses == unscored.losses
        assert same_bits(dict(rung.paused.tensors), dict(unscored.tensors))
        paused = [rung.paused]
    (last,) = train(backbone, [one], paused=paused, **HOW)
    assert_same_training(last, whole)
