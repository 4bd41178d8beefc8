"""VeRA's frozen factors are those of the paper, and what was stored with others is what it was."""

import pytest
import torch
from peft import VeraConfig, get_peft_model
from tiny import D_MODEL, TASK, genotype, op, tiny_backbone, tiny_model, tiny_rows

from autopeft.ops.vera import GAIN, random_factor
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.training.cohort import Cohort
from autopeft.training.paused import Paused, read_paused, write_paused
from autopeft.training.settings import TrainingSettings
from autopeft.training.tensors import read_kinds, read_tensors, tensors_of, write_tensors

# peft asks a model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
VERA = genotype(op(Form.VERA, Tap.ATTN_IN, Tap.Q, 4), learning_rate=1e-2)
SETTINGS = TrainingSettings(epochs=2, batch_size=5, warmup=0.3)
RANK = 64


def test_factors_are_as_wide_as_those_of_peft():
    config = VeraConfig(target_modules=["query"], r=RANK)
    theirs = get_peft_model(tiny_model("bert"), config).base_model
    for name, found in (("down", theirs.vera_A), ("up", theirs.vera_B)):
        own, other = random_factor(name, RANK, D_MODEL), found["default"]
        assert own.abs().max() == pytest.approx(float(other.abs().max()), rel=0.02)
        assert own.std() == pytest.approx(float(other.std()), rel=0.05)


def paused(until=None, before=()):
    with Cohort(tiny_backbone("bert"), [VERA], [0], TASK, SETTINGS) as cohort:
        losses = cohort.train(tiny_rows(15), order_seed=0, until=until, paused=before)
        return cohort.pause(0, losses[:, 0].tolist())


def of_before(tensors):
    """What a version wrote whose two factors were smaller by `GAIN` each."""
    factors = {"": GAIN**2, "m": 1 / GAIN**2, "v": 1 / GAIN**4}
    return {
        name.replace(".lambda_d", ".d"): tensor * factors[name.partition("/")[2]]
        if ".lambda_d" in name
        else tensor
        for name, tensor in tensors.items()
    }


def assert_alike(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=0)


def test_what_was_paused_before_goes_on(tmp_path):
    state = paused(3)
    path = tmp_path / "state.safetensors"
    write_paused(path, Paused(state.losses, of_before(state.tensors)))
    found = read_paused(path)
    assert any(".lambda_d/v" in name for name in found.tensors)
    assert_alike(found.tensors, state.tensors)
    whole, resumed = paused(6, [state]), paused(6, [found])
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-5)


def test_weights_of_before_are_read_as_what_they_were(tmp_path):
    state = paused(3)
    weights = {name: tensor for name, tensor in state.tensors.items() if "/" not in name}
    path = tmp_path / "weights.safetensors"
    sha256 = write_tensors(path, of_before(weights))
    assert_alike(read_tensors(path, sha256), weights)
    assert_alike(tensors_of(*read_kinds(path, sha256), weights, path), weights)
