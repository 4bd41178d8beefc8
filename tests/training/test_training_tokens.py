"""Trials that tag words: independence, losses, kept states, and that they learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import HEAD, LORA, MAM, genotype, lora, same
from tiny_tokens import TASK, tagged, tagging_backbone
from torch.nn.functional import cross_entropy

from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.tasks.encode import IGNORED, collate, padded
from autopeft.training.cohort import Cohort
from autopeft.training.frozen import FrozenCache
from autopeft.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=1, batch_size=5)
ON_TOP = genotype(lora(Tap.FFN_UP, (0, 0, 8)), learning_rate=5e-2)
TRIALS = [LORA, MAM, HEAD, ON_TOP]


def rows_of(backbone, n_rows=15, **more):
    return TASK.encode(tagged(n_rows, **more), backbone.tokenizer, 16)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "llama"])
def test_trials_do_not_depend_on_their_company(family):
    backbone = tagging_backbone(family)
    rows, check = rows_of(backbone), rows_of(backbone, 9, seed=1)
    with Cohort(backbone, TRIALS, range(4), TASK, SETTINGS) as together:
        losses = together.train(rows, order_seed=0)
        found, finite = together.predict(check)
    assert finite.all()
    for i, trial in enumerate(TRIALS):
        with Cohort(backbone, [trial], [i], TASK, SETTINGS) as alone:
            assert torch.equal(alone.train(rows, order_seed=0)[:, 0], losses[:, i])
            predictions, _ = alone.predict(check)
        for one, other in zip(predictions[0], found[i], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(set(losses[-1].tolist())) == 4


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
def test_loss_is_the_models_own_over_first_tokens(family):
    backbone = tagging_backbone(family)
    rows = rows_of(backbone)
    targets = padded([rows.tags.targets[row] for row in range(5)], IGNORED)
    own = backbone.model(**collate(rows, range(5), 0).inputs).logits
    expected = cross_entropy(own.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    with Cohort(backbone, [HEAD, LORA], [0, 1], TASK, SETTINGS) as trials:
        with torch.no_grad():
            for name, tensor in trials.head.tensors(0).items():
                tensor.copy_(backbone_tensor(trials, name))
        losses = trials.losses(rows, range(5))
    torch.testing.assert_close(losses[0], expected)


def backbone_tensor(trials, name):
    module, _, parameter = name.rpartition(".")
    return getattr(trials.head._old[module], parameter)


def test_kept_states_and_a_prompt_change_nothing():
    backbone = tagging_backbone("bert")
    rows, check = rows_of(backbone), rows_of(backbone, 9, seed=1)
    cache = FrozenCache(backbone, "eager", 10)
    for split in (rows, check):
        cache.fill(split, {trial.fork for trial in (HEAD, ON_TOP)})
    with Cohort(backbone, [HEAD, ON_TOP], [0, 1], TASK, SETTINGS) as plain:
        losses = plain.train(rows, order_seed=0)
    with Cohort(backbone, [HEAD, ON_TOP], [0, 1], TASK, SETTINGS, cache) as kept:
        torch.testing.assert_close(kept.train(rows, order_seed=0), losses)
        kept.predict(check)
    prompt = genotype(same(Form.PROMPT, Tap.EMBED, (3, 0, 0)))
    with Cohort(backbone, [prompt], [0], TASK, SETTINGS) as prompted:
        assert prompted.train(rows, order_seed=0).isfinite().all()
        found, _ = prompted.predict(check)
    assert [len(row) for row in found[0]] == [len(row) for row in check.truth]


def test_tags_are_learnt():
    backbone = tagging_backbone("bert")
    rows, check = rows_of(backbone, 200), rows_of(backbone, 60, seed=1)
    settings = replace(SETTINGS, epochs=12, batch_size=20)
    trial = replace(LORA, learning_rate=2e-2)
    with Cohort(backbone, [trial, HEAD], [0, 0], TASK, settings) as trials:
        losses = trials.train(rows, order_seed=0)
        found, _ = trials.predict(check)
    assert losses[-5:, 0].mean() < 0.4 * losses[0, 0]
    before = TASK.metrics(found[1], check.truth)["span_f1"].value
    assert TASK.metrics(found[0], check.truth)["span_f1"].value > max(0.6, before)
