"""Task heads: which modules they are, and one of its own for every trial."""

import pytest
import torch
from tiny import (
    D_MODEL,
    N_OUTPUTS,
    TASK,
    genotype,
    numbers,
    op,
    same_bits,
    state,
    tiny_backbone,
    tiny_batch,
    tiny_model,
)
from torch import nn

from autopeft.errors import DataError
from autopeft.model.head import StackedHead, head_modules
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings

MODULES = {
    "bert": ["classifier"],
    "deberta-v2": ["pooler.dense", "classifier"],
    "roberta": ["classifier.dense", "classifier.out_proj"],
    "electra": ["classifier.dense", "classifier.out_proj"],
    "distilbert": ["pre_classifier", "classifier"],
    "modernbert": ["head.dense", "head.norm", "classifier"],
}
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
SEEDS = (3, 1, 2)


@pytest.fixture(params=MODULES)
def backbone(request):
    return tiny_backbone(request.param)


@torch.no_grad()
def logits(model, batch):
    return model(**batch).logits


def test_the_modules_of_the_head_in_the_order_of_the_forward_pass(backbone):
    found = dict(head_modules(backbone.model, backbone.fresh))
    assert list(found) == MODULES[backbone.model.config.model_type]


def test_a_pooler_is_head_only_if_it_is_fresh():
    model = tiny_model("bert")
    assert [name for name, _ in head_modules(model, ["classifier.weight"])] == ["classifier"]
    fresh = [*POOLER, "classifier.weight"]
    assert [name for name, _ in head_modules(model, fresh)] == ["bert.pooler.dense", "classifier"]


def for_each_trial(batch):
    return {name: tensor.repeat(len(SEEDS), 1) for name, tensor in batch.items()}


def test_each_trial_computes_with_its_own_head(backbone):
    model, batch = backbone.model, tiny_batch(backbone.model, 4)
    head = StackedHead(model, backbone.fresh, SEEDS)
    stacked = logits(model, for_each_trial(batch)).unflatten(0, (3, 4))
    tensors = [{n: t.clone() for n, t in head.tensors(trial).items()} for trial in range(3)]
    head.remove()
    for trial in range(3):
        model.load_state_dict(model.state_dict() | tensors[trial])
        torch.testing.assert_close(stacked[trial], logits(model, batch), rtol=0, atol=1e-6)
    assert not torch.allclose(stacked[0], stacked[1], atol=1e-3)


def test_a_fresh_pooler_is_stacked_too():
    backbone = tiny_backbone("bert", fresh_pooler=True)
    model, batch = backbone.model, tiny_batch(backbone.model, 4)
    head = StackedHead(model, backbone.fresh, SEEDS)
    assert head.count() == D_MODEL * D_MODEL + D_MODEL + N_OUTPUTS * D_MODEL + N_OUTPUTS
    stacked = logits(model, for_each_trial(batch)).unflatten(0, (3, 4))
    last = {name: tensor.clone() for name, tensor in head.tensors(2).items()}
    head.remove()
    model.load_state_dict(model.state_dict() | last)
    torch.testing.assert_close(stacked[2], logits(model, batch), rtol=0, atol=1e-6)


def is_weight(name):
    return name.endswith("weight") and "norm" not in name


def test_fresh_heads_are_initialised_by_seed_and_name_alone(backbone):
    alone = StackedHead(backbone.model, backbone.fresh, SEEDS[2:])
    own = {name: tensor.clone() for name, tensor in alone.tensors(0).items()}
    alone.remove()
    torch.rand(5)
    torch.set_default_dtype(torch.float64)
    try:
        company = StackedHead(backbone.model, backbone.fresh, SEEDS)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_bits(company.tensors(2), own)
    weights = [t for name, t in company.tensors(1).items() if is_weight(name)]
    others = [t for name, t in company.tensors(2).items() if is_weight(name)]
    assert not any(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
    std = torch.cat([tensor.flatten() for tensor in weights]).std()
    assert 0.7 < std / backbone.model.config.initializer_range < 1.3
    norms = [t for name, t in own.items() if name == "head.norm.weight"]
    assert all((gain == 1).all() for gain in norms)
    assert not any(t.any() for name, t in own.items() if name.endswith("bias"))


def test_a_head_from_the_checkpoint_is_where_every_trial_starts(backbone):
    model = backbone.model
    before = {name: t for name, t in state(model).items() if name in backbone.fresh}
    head = StackedHead(model, (), SEEDS)
    assert all(same_bits(head.tensors(trial), before) for trial in range(3))


def test_removal_puts_the_old_head_back(backbone):
    model, batch = backbone.model, tiny_batch(backbone.model)
    modules, before, plain = list(model.modules()), state(model), logits(model, batch)
    head = StackedHead(model, backbone.fresh, SEEDS)
    assert not torch.equal(logits(model, for_each_trial(batch))[: len(plain)], plain)
    head.remove()
    assert list(model.modules()) == modules
    assert same_bits(state(model), before)
    assert torch.equal(logits(model, batch), plain)


def test_heads_are_counted_apart_from_ops(backbone):
    parameters = dict(backbone.model.named_parameters())
    bias = genotype(op(Form.BIAS, Tap.V, Tap.V))
    with Cohort(backbone, [bias, genotype()], [0, 1], TASK, TrainingSettings()) as cohort:
        assert cohort.head.count() == sum(parameters[name].numel() for name in backbone.fresh)
        assert [numbers(cohort.injection.tensors(trial)) for trial in (0, 1)] == [3 * D_MODEL, 0]


def test_a_head_with_other_modules_is_refused_and_nothing_is_left_behind(backbone):
    model = backbone.model
    model.classifier = nn.Sequential(nn.Linear(D_MODEL, D_MODEL), nn.BatchNorm1d(D_MODEL))
    modules = list(model.modules())
    bias = genotype(op(Form.BIAS, Tap.V, Tap.V))
    with pytest.raises(DataError, match=r"`classifier.1` of the task head is a BatchNorm1d"):
        Cohort(backbone, [bias], [0], TASK, TrainingSettings())
    assert list(model.modules()) == modules
    assert model.config._attn_implementation == "eager"
    assert not any(module._forward_hooks for module in model.modules())
