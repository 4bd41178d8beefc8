"""The probe: what it decides from what it measured, and that it leaves no trace."""

import pytest
import torch
from model.test_model_kin import tiny
from tiny import (
    FAMILIES,
    HEAD,
    LORA,
    N_OUTPUTS,
    TASK,
    as_params,
    same_bits,
    state,
    tiny_backbone,
    tiny_rows,
)
from transformers import AutoModelForSequenceClassification

from autopeft.training import alone
from autopeft.training import probe as module
from autopeft.training.probe import probe, trial_seconds
from autopeft.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=2, batch_size=8)


def run(backbone, precision="auto", kernel="auto"):
    return probe(backbone, rows=tiny_rows(20), batch_size=8, precision=precision, kernel=kernel)


def expected_seconds(backbone):
    splits = {"train": tiny_rows(20), "validation": tiny_rows(20)}
    return trial_seconds(backbone, [LORA, HEAD], task=TASK, settings=SETTINGS, **splits)


@pytest.fixture
def measured(monkeypatch):
    """Seconds of a layer by precision and kernel, instead of a stopwatch."""
    seconds = {}

    def look_up(_backbone, precision, kernel, _shape):
        return seconds[f"{precision}-{kernel}"]

    monkeypatch.setattr(module, "_layer_seconds", look_up)
    return seconds


@pytest.mark.parametrize(
    ("fp32_eager", "bf16_eager", "fp32_sdpa", "bf16_sdpa", "decided"),
    [
        (1.0, 1.0, 1.0, 1.0, ("fp32", "eager")),
        (1.0, 0.9, 0.9, 0.1, ("fp32", "eager")),
        (1.0, 0.5, 0.1, 0.5, ("bf16", "eager")),
        (1.0, 1.0, 0.5, 1.0, ("fp32", "sdpa")),
        (1.0, 0.5, 1.0, 0.2, ("bf16", "sdpa")),
    ],
)
def test_the_less_usual_way_is_taken_if_it_is_clearly_faster(
    measured, fp32_eager, bf16_eager, fp32_sdpa, bf16_sdpa, decided
):
    measured |= {"fp32-eager": fp32_eager, "bf16-eager": bf16_eager}
    measured |= {"fp32-sdpa": fp32_sdpa, "bf16-sdpa": bf16_sdpa}
    found = run(tiny_backbone("bert"))
    assert (found.precision, found.kernel) == decided


def test_what_is_asked_for_is_not_measured(measured):
    found = run(tiny_backbone("bert"), "bf16", "sdpa")
    assert (found.precision, found.kernel, found.layer_seconds) == ("bf16", "sdpa", {})


@pytest.mark.parametrize("n_keys", [1, 2])
def test_a_hybrid_is_measured_where_it_has_attention(n_keys):
    """Its first layer has none, and what puts out its queries puts out gates of them, too."""
    auto, more = AutoModelForSequenceClassification, {"num_key_value_heads": n_keys}
    model = tiny("qwen3_5_text", auto, num_labels=N_OUTPUTS, **more)
    found = run(tiny_backbone("qwen3_5_text", model=model))
    assert all(seconds > 0 for seconds in found.layer_seconds.values())
    assert len(found.layer_seconds) == 3


def test_a_trial_is_expected_to_take_its_steps_and_its_evaluation(monkeypatch):
    monkeypatch.setattr(alone, "fastest", lambda step, *_: (step() and None) or 0.6)
    # 2 epochs of 3 steps, then 2.5 batches of evaluation at a third of a step, for two trials
    assert expected_seconds(tiny_backbone("bert")) == pytest.approx((6 * 0.6 + 2.5 * 0.2) / 2)


def test_experts_are_not_measured():
    """Their weights are at no tap, and attention's tell which precision is fast, too."""
    model = tiny("mixtral", AutoModelForSequenceClassification, num_labels=N_OUTPUTS)
    found = run(tiny_backbone("mixtral", model=model))
    assert set(found.layer_seconds) >= {"fp32-eager", "bf16-eager"}


@pytest.mark.parametrize("family", as_params(FAMILIES))
def test_measuring_leaves_no_trace(family):
    backbone = tiny_backbone(family)
    before, generator = state(backbone.model), torch.random.get_rng_state()
    modules = list(backbone.model.modules())
    found = run(backbone)
    assert 2 <= len(found.layer_seconds) <= 3
    assert all(0 < seconds < 10 for seconds in found.layer_seconds.values())
    assert expected_seconds(backbone) > 0
    assert list(backbone.model.modules()) == modules
    assert same_bits(state(backbone.model), before)
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), generator)
