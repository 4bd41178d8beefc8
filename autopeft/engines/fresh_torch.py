"""Torch as a process of its own finds it, for an engine that runs in somebody else's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch


def _attribute(owner: Any, name: str, value: object) -> tuple[Callable[[], Any], Any, object]:
    return partial(getattr, owner, name), partial(setattr, owner, name), value


_cuda = torch.backends.cuda
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any], object], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
    # `torch.get_float32_matmul_precision` raises where somebody has set these.
    _attribute(_cuda.matmul, "fp32_precision", "ieee"),
    _attribute(torch.backends.mkldnn.matmul, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
    (_cuda.flash_sdp_enabled, _cuda.enable_flash_sdp, True),
    (_cuda.mem_efficient_sdp_enabled, _cuda.enable_mem_efficient_sdp, True),
    (_cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp, True),
    (_cuda.math_sdp_enabled, _cuda.enable_math_sdp, True),
)
"""Of the process: how each is asked for, how it is set, and what it is in a worker."""


@contextmanager
def fresh_torch() -> Iterator[None]:
    """What results depend on is as in a worker, and afterwards as it was.

    Threads are the caller's: results do not depend on them.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.set_detect_anomaly(mode=False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for get, put, value in _SETTINGS:
            if (before := get()) != value:
                stack.callback(put, before)
                put(value)
        yield
