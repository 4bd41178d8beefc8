"""I1 and I2 over 50 steps: trained in company is trained alone, to the last bit.

Batches are of different lengths, with padding. All runs of a setting are shared by its tests.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import (
    HEAD,
    HOULSBY,
    LORA,
    MAM,
    PFEIFFER,
    VECTORS,
    assert_same_training,
    tiny_backbone,
    train,
)

from autopeft.space.genotype import Genotype

LOST = Genotype(PFEIFFER.n_layers, PFEIFFER.ops, learning_rate=1e30)
SEEDS = {LORA: 11, MAM: 0, HOULSBY: 12, VECTORS: 13, HEAD: 14, LOST: 15}
SETTINGS = [
    ("bert", "fp32"),
    pytest.param(("bert", "bf16"), marks=pytest.mark.slow),
    pytest.param(("roberta", "bf16"), marks=pytest.mark.slow),
    pytest.param(("distilbert", "fp32"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=SETTINGS, ids="-".join)
def runs(request):
    """Each genotype alone, four together, and some of them in another order and company."""
    family, precision = request.param
    backbone = tiny_backbone(family)

    def run(*company):
        seeds = [SEEDS[one] for one in company]
        trained = train(backbone, company, seeds, n_rows=25, epochs=10, precision=precision)
        return dict(zip(company, trained, strict=True))

    return SimpleNamespace(
        alone=run(LORA) | run(MAM) | run(HOULSBY) | run(VECTORS),
        together=run(LORA, MAM, HOULSBY, VECTORS),
        with_a_lost_one=run(VECTORS, HEAD, LOST, LORA),
    )


def test_trials_learn_and_differ(runs):
    losses = [np.array(trained.losses) for trained in runs.alone.values()]
    assert all(len(loss) == 50 for loss in losses)
    assert all(loss[-5:].mean() < loss[:5].mean() - 0.03 for loss in losses)
    assert len({loss[-1] for loss in losses}) == len(losses)


def test_i1_losses_together_are_those_alone(runs):
    for one, trained in runs.together.items():
        np.testing.assert_allclose(trained.losses, runs.alone[one].losses, rtol=0, atol=1e-6)


def test_i1_every_bit_together_is_as_alone(runs):
    for one, trained in runs.together.items():
        assert_same_training(trained, runs.alone[one])


def test_i1_i2_neither_position_nor_company_nor_a_lost_trial_change_a_bit(runs):
    lost = runs.with_a_lost_one[LOST]
    assert not lost.finite
    assert math.isfinite(lost.losses[0])
    assert math.isnan(lost.losses[-1])
    for one in (VECTORS, LORA):
        assert runs.with_a_lost_one[one].finite
        assert_same_training(runs.with_a_lost_one[one], runs.alone[one])
