"""What only CUDA has: the same cohorts there, in bf16 and by SDPA, many at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    FAMILIES,
    HEAD,
    HOULSBY,
    LORA,
    MAM,
    PFEIFFER,
    TASK,
    VECTORS,
    tiny_backbone,
    tiny_rows,
    train,
)

from autopeft.engines.decide import MOST_ON_CUDA, cohort_size
from autopeft.training.cohort import Cohort
from autopeft.training.footprint import trial_bytes
from autopeft.training.frozen import FrozenCache
from autopeft.training.memory import available_bytes
from autopeft.training.probe import probe
from autopeft.training.settings import TrainingSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CUDA = torch.device("cuda")
COMPANY = [LORA, MAM, HOULSBY, VECTORS, HEAD, PFEIFFER]


@pytest.fixture(params=FAMILIES)
def backbone(request):
    found = tiny_backbone(request.param)
    return replace(found, model=found.model.to(CUDA))


def losses(trained):
    return np.array([trial.losses for trial in trained])


def test_losses_are_those_of_the_processor(backbone):
    there = losses(train(backbone, COMPANY, n_rows=25, epochs=2))
    backbone.model.to("cpu")
    here = losses(train(backbone, COMPANY, n_rows=25, epochs=2))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_together_is_alone(backbone, precision, kernel):
    settings = {"n_rows": 25, "epochs": 2, "precision": precision, "kernel": kernel}
    together = losses(train(backbone, COMPANY, **settings))
    tolerance = 1e-4 if precision == "fp32" else 5e-2
    for trial, one in enumerate(COMPANY):
        alone = losses(train(backbone, [one], [trial], **settings))
        np.testing.assert_allclose(alone[0], together[trial], rtol=0, atol=tolerance)


def test_a_lost_trial_stays_alone(backbone):
    lost = replace(LORA, learning_rate=1e30)
    together = train(backbone, [lost, MAM], n_rows=25, epochs=2)
    assert [trial.finite for trial in together] == [False, True]


def test_kept_states_change_nothing(backbone):
    plain = losses(train(backbone, [PFEIFFER, HEAD], epochs=3))
    cache = FrozenCache(backbone, "eager", 8)
    cached = losses(train(backbone, [PFEIFFER, HEAD], epochs=3, cache=cache))
    np.testing.assert_allclose(cached, plain, rtol=0, atol=1e-5)


def test_probe_decides_on_the_device(backbone):
    found = probe(backbone, rows=tiny_rows(), batch_size=8, precision="auto", kernel="auto")
    assert all(0 < seconds < 1 for seconds in found.layer_seconds.values())


def test_a_step_does_not_wait_for_the_device(backbone):
    """As `test_strict_device.py` says of every kind of op, here where it can be seen."""
    with Cohort(backbone, COMPANY, range(len(COMPANY)), TASK, TrainingSettings()) as cohort:
        optimizer, rows = cohort.new_optimizer(), tiny_rows()
        for mode in ("default", "error"):  # the first step is free to set things up
            torch.cuda.set_sync_debug_mode(mode)
            try:
                cohort.learn(rows, range(8))
                optimizer.step(1.0)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def test_memory_is_what_was_predicted():
    """A model that is large enough for the allocator's blocks not to matter."""
    settings = TrainingSettings(batch_size=4096)
    found = tiny_backbone("bert")
    backbone = replace(found, model=found.model.to(CUDA))
    rows = tiny_rows(4096)
    each = trial_bytes(backbone, [MAM], task=TASK, settings=settings, rows=rows)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with Cohort(backbone, [MAM] * 4, range(4), TASK, settings) as cohort:
        cohort.train(rows, order_seed=0)
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(4 * each, rel=0.15)


def test_a_cohort_fills_the_device():
    assert available_bytes(CUDA) > 0
    assert cohort_size(2**20, CUDA) == MOST_ON_CUDA
