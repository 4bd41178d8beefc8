"""Frozen states that are kept: they stand for the layers below a fork and change nothing else."""

import numpy as np
import pytest
import torch
from tiny import (
    FAMILIES,
    HEAD,
    LORA,
    N_LAYERS,
    PFEIFFER,
    as_params,
    assert_same_training,
    genotype,
    lora,
    op,
    same,
    same_bits,
    state,
    tiny_backbone,
    tiny_rows,
    train,
)

from autopeft.model.anatomy import Anatomy
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.training.frozen import FrozenCache, States, cache_bytes

TOP = genotype(lora(Tap.V, (0, 0, 3)), learning_rate=2e-2)
BLOCK = genotype(same(Form.BOTTLENECK, Tap.BLOCK_OUT, 4), learning_rate=2e-2)
GATED = genotype(
    op(Form.BOTTLENECK, Tap.FFN_NORM, Tap.FFN_OUT, 4, scale="gated"), learning_rate=2e-2
)
"""Its gate reads all tokens, where the head reads one."""
COMPANIES = [
    [TOP],
    [HEAD],
    [HEAD, HEAD],
    [PFEIFFER, TOP],
    [TOP, HEAD, LORA, PFEIFFER],
    [HEAD, GATED],
]


def cache_of(backbone):
    return FrozenCache(backbone, "eager", 7)


@pytest.fixture(params=as_params(FAMILIES))
def backbone(request):
    return tiny_backbone(request.param)


@pytest.mark.parametrize("company", COMPANIES)
def test_losses_are_those_without_it(backbone, company):
    plain = train(backbone, company, epochs=4)
    cached = train(backbone, company, epochs=4, cache=cache_of(backbone))
    for one, other in zip(plain, cached, strict=True):
        np.testing.assert_allclose(other.losses, one.losses, rtol=0, atol=1e-5)
        assert np.std(one.losses) > 1e-3, "it learns"


def test_a_trial_is_the_same_in_every_company(backbone):
    company = [TOP, HEAD, LORA, PFEIFFER]
    together = train(backbone, company, cache=cache_of(backbone))
    for trial, one in enumerate(company):
        (alone,) = train(backbone, [one], [trial], cache=cache_of(backbone))
        assert_same_training(alone, together[trial])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    "family", as_params([*FAMILIES, "deberta-v2", "modernbert", "gpt2", "llama"])
)
@pytest.mark.parametrize("company", [[HEAD, BLOCK], [BLOCK, HEAD], [HEAD, LORA, BLOCK]])
def test_ops_behind_the_last_layer_act_on_rows_of_their_own_trial(family, company, cached):
    """There the rows of a trial without ops begin, too."""
    backbone = tiny_backbone(family)
    cache = cache_of(backbone) if cached else None
    together = train(backbone, company, cache=cache)
    for trial, one in enumerate(company):
        (alone,) = train(backbone, [one], [trial], cache=cache)
        assert_same_training(alone, together[trial])
        assert np.std(alone.losses) > 1e-3, "it learns"


def test_frozen_layers_run_once(backbone):
    runs = [0] * N_LAYERS
    for i, layer in enumerate(Anatomy(backbone.model).layers):
        layer.register_forward_pre_hook(
            lambda *_, i=i: runs.__setitem__(i, runs[i] + 1)  # returns None
        )
    cache = cache_of(backbone)
    train(backbone, [TOP, HEAD], epochs=5, cache=cache)
    fill = 3 + 4  # batches of at most 7 of 15 and of 22 rows
    assert runs[:2] == [fill, fill]
    steps, scoring = 15, 3  # 22 rows are scored in batches of twice the size
    assert runs[2] == fill + steps + scoring
    train(backbone, [TOP, HEAD], epochs=5, cache=cache)
    assert runs[:2] == [fill, fill]


def test_filling_leaves_no_trace(backbone):
    before, modules = state(backbone.model), list(backbone.model.modules())
    cache_of(backbone).fill(tiny_rows(9), {0, 1, N_LAYERS})
    assert list(backbone.model.modules()) == modules
    assert same_bits(state(backbone.model), before)
    assert not any(
        hooks
        for module in backbone.model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    )


def test_rows_keep_their_own_length():
    states = States([2, 3, 1], 4, torch.zeros(1))
    given = torch.arange(24.0).view(2, 3, 4)
    states.put([2, 0], given)
    states.put([1], given[:1])
    taken = states.take([0, 2, 1])
    assert torch.equal(taken[0, :2], given[1, :2])
    assert not taken[0, 2:].any()
    assert torch.equal(taken[1, :1], given[0, :1])
    assert torch.equal(taken[2], given[0])


def test_what_is_kept_is_what_was_predicted():
    backbone, rows = tiny_backbone("bert"), [tiny_rows(9), tiny_rows(6, seed=1)]
    cache = cache_of(backbone)
    for split in rows:
        cache.fill(split, range(N_LAYERS + 1))
    kept = sum(states._flat.nbytes for states in cache._kept.values())
    assert kept == cache_bytes(backbone.shape, rows, "fp32")
    assert cache_bytes(backbone.shape, rows, "bf16") == kept / 2
