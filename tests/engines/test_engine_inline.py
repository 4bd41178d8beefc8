"""An engine in the caller's process trains as a worker does, whatever torch is set to."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from autopeft.engines.inline import InlineEngine
from autopeft.engines.job import Job, JobTrial
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.taps import Tap

LORA = Genotype(2, (Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (2, 1)),), 1e-2)


def _nobody(*_):
    """Hears of no steps."""


@contextmanager
def _default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@contextmanager
def _deterministic():
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@contextmanager
def _matmul_in_bf16():
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    yield
    matmul.fp32_precision = before


STATES = {
    "default dtype": _default_dtype,
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "deterministic": _deterministic,
    "matmul": _matmul_in_bf16,
    "kernel": lambda: sdpa_kernel(SDPBackend.MATH),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(mode=True, check_nan=False),
}


def _state():
    """All that `STATES` changes."""
    return (
        *(torch.get_default_dtype(), torch.get_default_device()),
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        *(torch.is_autocast_enabled("cpu"), torch.get_deterministic_debug_mode()),
        *(torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
    )


@pytest.fixture(scope="module")
def train(spec_of, tmp_path_factory):
    """Two trainings of a trial in a state of torch: their weights' hashes, and the states seen."""

    def run(state):
        settings = {"attention": "sdpa", "epochs": 1}
        with state():
            engine = InlineEngine(spec_of(training=settings).work)
            seen = [_state()]
            engine.load()
            seen.append(_state())
            decided = engine.decide([LORA], 1)
            engine.begin(decided, tmp_path_factory.mktemp("inline"))
            trial = JobTrial(0, LORA, 1, "given")
            for order in (2, 3):
                engine.submit(Job((trial,), 0, 0, order), {0})
            hashes = []
            for record in engine.results(_nobody):
                seen.append(_state())
                hashes.append(record.weights_sha256)
        return hashes, seen

    return run


@pytest.fixture(scope="module")
def plain(train):
    hashes, _ = train(nullcontext)
    return hashes


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_training_does_not_depend_on_the_callers_torch(train, plain, state):
    hashes, seen = train(state)
    assert hashes == plain
    assert None not in hashes
    assert len(set(seen)) == 1
