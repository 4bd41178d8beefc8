"""Full fine-tuning: what a plain loop over the whole model comes to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import HEAD, LORA, N_LAYERS, TASK, tiny_backbone, tiny_model, tiny_rows
from torch import nn

from autopeft.errors import ConfigError
from autopeft.model.inject import Injection
from autopeft.space.genotype import Genotype
from autopeft.tasks.encode import collate
from autopeft.training.batches import batch_order
from autopeft.training.cohort import Cohort
from autopeft.training.full import train_full
from autopeft.training.optimizer import schedule
from autopeft.training.settings import TrainingSettings

FULL = Genotype(N_LAYERS, (), 3e-3, 0.01, full=True)
SETTINGS = TrainingSettings(epochs=1, batch_size=5, warmup=0.3, clip=0.5)
STEPS = 5


def run(backbone, until=None, **more):
    rows = {"train": tiny_rows(25), "validation": tiny_rows(11, seed=1)}
    arguments = {"task": TASK, "settings": SETTINGS, "order_seed": 4, "until": until}
    trained, _ = train_full(backbone, FULL, 7, **rows, **arguments, **more)
    return trained


def plain(family):
    """The losses of a plain loop over the model, head included, and its predictions."""
    backbone = tiny_backbone(family)
    with Cohort(backbone, [HEAD], [7], TASK, SETTINGS) as cohort:
        head = cohort.tensors(0)
    model = tiny_model(family)
    for name, tensor in head.items():
        model.get_parameter(name).data = tensor.reshape(model.get_parameter(name).shape)
    model.requires_grad_(requires_grad=True)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    rows, losses = tiny_rows(25), []
    for i, indices in enumerate(batch_order(rows.lengths, 5, 1, 4)):
        logits = model(**collate(rows, indices, model.config.pad_token_id).inputs).logits
        loss = nn.functional.cross_entropy(logits, rows.labels[indices])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 3e-3 * schedule(i, STEPS, 0.3)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    unseen = tiny_rows(11, seed=1)
    logits = model(**collate(unseen, range(11), model.config.pad_token_id).inputs).logits
    return losses, logits.argmax(-1).numpy(), model


@pytest.mark.parametrize("family", ["bert", "gpt2", "phi3"])
def test_it_is_what_a_plain_loop_comes_to(family):
    losses, predictions, model = plain(family)
    backbone = tiny_backbone(family)
    trained = run(backbone)
    np.testing.assert_allclose(trained.losses, losses, rtol=2e-5)
    np.testing.assert_array_equal(trained.predictions, predictions)
    word = backbone.model.get_input_embeddings().weight
    torch.testing.assert_close(word, model.get_input_embeddings().weight, atol=1e-5, rtol=1e-4)
    assert not torch.equal(word, tiny_model(family).get_input_embeddings().weight)
    counted = sum(parameter.numel() for parameter in backbone.model.base_model.parameters())
    assert counted == FULL.count_params(backbone.shape) == backbone.shape.backbone_params
    assert (trained.tensors, trained.steps, trained.finite) == ({}, STEPS, True)


def test_rung_is_the_beginning_of_the_whole():
    seen = []
    short = run(tiny_backbone("bert"), 2, progress=lambda *step: seen.append(step))
    assert short.losses == run(tiny_backbone("bert")).losses[:2]
    assert seen[:2] == [(1, 2), (2, 2)]
    assert set(seen[2:]) == {(2, 2)}


def test_nothing_else_takes_it_for_a_genotype_with_ops():
    model = tiny_model("bert")
    with pytest.raises(ConfigError, match="nothing is attached"):
        Injection(model, [FULL], [0], None)
    with pytest.raises(ConfigError, match="has no ops"):
        replace(FULL, ops=LORA.ops)
