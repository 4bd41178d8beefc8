"""Batches in parts, and layers that are computed again: less memory, and the same results."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    D_MODEL,
    EVERY,
    HEAD,
    HEADLESS,
    HOULSBY,
    LORA,
    MAM,
    N_LAYERS,
    TASK,
    as_params,
    assert_same_training,
    genotype,
    lora,
    op,
    same,
    same_bits,
    tiny_backbone,
    tiny_model,
    tiny_rows,
    train,
)
from tiny_language import encoded, language, writing_backbone
from tiny_tokens import TASK as TAGGING
from tiny_tokens import tagged, tagging_backbone

from autopeft.model.anatomy import Anatomy
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.tasks.encode import IGNORED
from autopeft.tasks.task import Regression, encode_for
from autopeft.training.cohort import Cohort
from autopeft.training.footprint import trial_bytes
from autopeft.training.frozen import FrozenCache
from autopeft.training.full import train_full
from autopeft.training.settings import TrainingSettings

ON_TOP = genotype(lora(Tap.V, (0, 0, 3)), learning_rate=2e-2)
ACROSS = genotype(op(Form.BOTTLENECK, Tap.ATTN_IN, Tap.BLOCK_OUT, 5))
PARALLEL = genotype(op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 5))
COMPANY = [LORA, MAM, ON_TOP, HOULSBY, ACROSS]
WITHOUT_PREFIX = [LORA, PARALLEL, ON_TOP, HOULSBY, ACROSS]
PARTS = {"batch_size": 12, "n_rows": 24, "accumulation": 3}
"""Four rows in a part: fewer have other bits in company, whoever cuts them."""

QUICK = ("bert", "deberta-v2", "t5", "llama")
every = pytest.mark.parametrize("family", as_params(EVERY, twins={*EVERY} - {*QUICK}))
writing = pytest.mark.parametrize(
    "family", as_params(["t5", "llama", "bart", "gpt2"], twins=["bart", "gpt2"])
)


def company_of(family):
    return WITHOUT_PREFIX if family in HEADLESS else COMPANY


def cohort_of(backbone, company, task=TASK, **settings):
    settings = TrainingSettings(**({"epochs": 1, "batch_size": 12} | settings))
    return Cohort(backbone, company, range(len(company)), task, settings)


def gradients(backbone, company, task, rows, **settings):
    """Losses of one batch, and all gradients that it leaves."""
    with cohort_of(backbone, company, task, **settings) as cohort:
        losses = cohort.learn(rows, range(12))
        return losses, [item.parameter.grad for item in cohort.stacked()]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@every
def test_layers_computed_again_change_no_bit(family):
    backbone, company = tiny_backbone(family), company_of(family)
    plain = train(backbone, company)
    for one, other in zip(plain, train(backbone, company, checkpointing=True), strict=True):
        assert_same_training(one, other)


@writing
def test_layers_computed_again_change_no_bit_of_what_is_written(family):
    backbone, rows, company = writing_backbone(family), encoded(family), [LORA, MAM, ON_TOP]

    def run(**settings):
        with cohort_of(backbone, company, language(family), **settings) as cohort:
            losses = cohort.train(rows, order_seed=0)
            return losses, [cohort.tensors(trial) for trial in range(3)]

    (losses, tensors), (again, others) = run(), run(checkpointing=True)
    assert torch.equal(losses, again)
    assert all(map(same_bits, tensors, others))


def test_nor_do_they_where_ops_are_gated_or_scale_what_they_change():
    """In another precision, and with the attention of torch."""
    gated = genotype(
        same(Form.PREFIX, Tap.HEAD, 4, scale="gated"),
        op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 3, scale="gated"),
    )
    dora = genotype(op(Form.DORA, LINEAR_INPUT[Tap.V], Tap.V, 3), same(Form.SCALE, Tap.FFN_MID))
    backbone, how = tiny_backbone("bert"), {"precision": "bf16", "kernel": "sdpa"}
    plain = train(backbone, [gated, HEAD, dora], **how)
    again = train(backbone, [gated, HEAD, dora], checkpointing=True, **how)
    for one, other in zip(plain, again, strict=True):
        assert_same_training(one, other)


def test_states_that_are_kept_begin_layers_that_are_computed_again():
    backbone, company = tiny_backbone("bert"), [ON_TOP, HEAD]
    plain, again = (
        train(backbone, company, cache=FrozenCache(backbone, "eager", 7), checkpointing=how)
        for how in (False, True)
    )
    for one, other in zip(plain, again, strict=True):
        assert_same_training(one, other)


def test_a_layer_is_computed_once_more_if_gradients_come_back_to_it():
    """And not for each op, though some trials lack one."""
    backbone, runs = tiny_backbone("bert"), [0] * N_LAYERS
    layers = Anatomy(backbone.model).layers
    for i, layer in enumerate(layers):
        layer.attention.register_forward_pre_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
    upper = genotype(lora(Tap.Q, (0, 8, 8)), lora(Tap.FFN_UP, (0, 0, 8)))
    company = [upper, HEAD, genotype(same(Form.BOTTLENECK, Tap.FFN_OUT, (0, 4, 4)))]
    with cohort_of(backbone, company, checkpointing=True) as cohort:
        cohort.learn(tiny_rows(), range(12))
        assert runs == [1, 2, 2]
        with torch.no_grad():
            cohort.losses(tiny_rows(), range(12))
        assert runs == [2, 3, 3]
    assert not any("forward" in vars(layer) for layer in layers)


def test_nothing_of_a_layer_stays_once_it_was_computed_again():
    with cohort_of(tiny_backbone("bert"), [PARALLEL, ACROSS], checkpointing=True) as cohort:
        cohort.learn(tiny_rows(), range(12))
        assert not any(layer.now.seen for layer in cohort.injection.layers.values())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
def test_i1_trained_together_is_trained_alone(checkpointing):
    backbone, how = tiny_backbone("bert"), PARTS | {"checkpointing": checkpointing}
    together = train(backbone, COMPANY, **how)
    for trial, one in enumerate(COMPANY):
        (alone,) = train(backbone, [one], [trial], **how)
        assert_same_training(alone, together[trial])


@writing
def test_i1_holds_for_trials_that_write(family):
    backbone, rows, company = writing_backbone(family), encoded(family, 24), [LORA, ON_TOP]
    how = {"accumulation": 3, "checkpointing": True}
    with cohort_of(backbone, company, language(family), **how) as cohort:
        together = cohort.train(rows, order_seed=0)
    for trial, one in enumerate(company):
        settings = TrainingSettings(epochs=1, batch_size=12, **how)
        with Cohort(backbone, [one], [trial], language(family), settings) as cohort:
            assert torch.equal(cohort.train(rows, order_seed=0)[:, 0], together[:, trial])


def test_parts_of_a_batch_train_as_the_whole():
    backbone, whole = tiny_backbone("bert"), PARTS | {"accumulation": 1}
    plain = train(backbone, COMPANY, epochs=3, **whole)
    found = train(backbone, COMPANY, epochs=3, **PARTS)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_allclose(other.losses, one.losses, rtol=0, atol=1e-5)
        assert abs(one.losses[-1] - one.losses[0]) > 1e-2, "it learns"


def case(kind):
    """Backbone, task and rows; those of words are of unequal numbers of labels."""
    if kind == "classes":
        return tiny_backbone("bert"), TASK, tiny_rows()
    if kind == "numbers":
        model = tiny_model("bert", n_outputs=1)
        return tiny_backbone("bert", model=model), Regression(), tiny_rows(dtype=torch.float32)
    if kind == "tags":
        backbone = tagging_backbone("bert")
        return backbone, TAGGING, encode_for(TAGGING, tagged(24), backbone.tokenizer, 16)
    return writing_backbone(kind), language(kind, label_smoothing=0.1), encoded(kind, 24)


@pytest.mark.parametrize(
    "kind",
    [
        *("classes", "tags", "t5", "llama"),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("numbers", "bart", "gpt2")),
    ],
)
def test_gradients_of_parts_add_up_to_those_of_the_batch(kind):
    backbone, task, rows = case(kind)
    company = [LORA, PARALLEL]
    found = gradients(backbone, company, task, rows, accumulation=5, checkpointing=True)
    assert_close(found, gradients(backbone, company, task, rows))


def test_rows_without_a_label_have_no_part_in_the_mean():
    backbone, task, rows = case("tags")
    tags, labels = list(rows.tags.targets), rows.labels.clone()
    for row in range(3):
        tags[row] = [IGNORED] * len(tags[row])
        labels[row] = 0
    rows = replace(rows, labels=labels, tags=replace(rows.tags, targets=tags))
    found = gradients(backbone, [LORA], task, rows, accumulation=4)
    assert found[0].isfinite().all()
    assert_close(found, gradients(backbone, [LORA], task, rows))


@pytest.mark.parametrize("form", [Form.DIFF_PRUNING, Form.ADALORA])
def test_what_ops_add_to_a_loss_is_added_once(form, monkeypatch):
    trial = genotype(op(form, LINEAR_INPUT[Tap.Q], Tap.Q, 9))
    company = [trial] if trial.alone else [trial, HEAD]
    backbone, rows = tiny_backbone("bert"), tiny_rows()
    monkeypatch.setattr("autopeft.ops.dense.SPARSITY", 1e-3)
    found = gradients(backbone, company, TASK, rows, accumulation=3, checkpointing=True)
    assert_close(found, gradients(backbone, company, TASK, rows))


@pytest.mark.slow
def test_ops_choose_the_same_entries_by_parts():
    backbone = tiny_backbone("bert")
    fish = genotype(op(Form.FISH, LINEAR_INPUT[Tap.V], Tap.V, 6))

    def chosen(**settings):
        with cohort_of(backbone, [fish, HEAD], batch_size=12, **settings) as cohort:
            cohort.train(tiny_rows(), order_seed=0)
            return [op.own("entries", 0).tolist() for op in cohort.injection.stacks()]

    assert chosen() == chosen(accumulation=3) == chosen(accumulation=3, checkpointing=True)


def test_the_whole_backbone_is_trained_as_without():
    def losses(**settings):
        full = Genotype(N_LAYERS, (), 1e-3, full=True)
        settings = TrainingSettings(epochs=1, batch_size=12, **settings)
        splits = {"train": tiny_rows(), "validation": tiny_rows(9, seed=1)}
        how = {"task": TASK, "settings": settings, "order_seed": 0, **splits}
        return train_full(tiny_backbone("bert"), full, 0, **how)[0].losses

    plain = losses()
    assert losses(checkpointing=True) == plain
    np.testing.assert_allclose(losses(accumulation=3), plain, rtol=0, atol=1e-5)


def bytes_of(company, **settings):
    settings = TrainingSettings(**({"batch_size": 256} | settings))
    how = {"task": TASK, "settings": settings, "rows": tiny_rows()}
    return trial_bytes(tiny_backbone("bert"), company, **how)


def test_less_memory_is_predicted():
    plain = bytes_of([LORA, MAM])
    assert 0.24 < bytes_of([LORA, MAM], accumulation=4) / plain < 0.35
    again = bytes_of([LORA, MAM], checkpointing=True)
    # Of three layers one, what the two below read, and what is passing anyway.
    assert 1 / 3 < again / plain < 0.75
    assert bytes_of([LORA, MAM], checkpointing=True, accumulation=4) / again < 0.4


def test_the_trunk_below_the_lowest_op_keeps_nothing():
    """A state of every row for each layer that is computed again, and for no other."""
    low, high = (genotype(lora(Tap.V, sizes)) for sizes in ((8, 0, 8), (0, 8, 8)))
    more = bytes_of([low], checkpointing=True) - bytes_of([high], checkpointing=True)
    state = 256 * max(tiny_rows().lengths) * D_MODEL * 4
    assert more == pytest.approx(state, rel=0.05)
