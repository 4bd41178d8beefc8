"""How much memory training takes, and how the C library's heap is used for it.

Batches of many lengths take and free tensors of many sizes, hundreds of times a step. As glibc
comes, it fetches large ones from the system page by page each time. Pooled, freed memory is used
again, which saves a sixth of the time, but the heap leaves gaps, since an aligned block never fits
exactly where one of its size has been. Exact, no gap is as large as a layer's state, and a step
takes up to half as long again.

Besides tensors there is the code that oneDNN makes for each shape of a product in bf16, anew when
it has forgotten it.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Literal

import psutil
import torch

from autopeft.training.groups import left_bytes

Heap = Literal["pooled", "exact"]

OVERHEAD: dict[Heap, float] = {"pooled": 1.65, "exact": 1.1}
"""Memory that the process grows by, as a multiple of what tensors take; measured
(`benchmarks/memory.py`)."""

RELEASE_ABOVE = 1.3
"""Growth between steps, as the same multiple, above which a pooled heap is trimmed."""

PRIMITIVES = 4096
"""Shapes of products that oneDNN keeps code for. It comes with a quarter, which mixed trials on
rows of many lengths exceed: then most code is made again each time, an eighth of all time."""

PRIMITIVE_BYTES = 300 * 2**10
PRIMITIVES_OF_A_LENGTH = 50
"""Shapes that a cohort of mixed trials has for each length of its batches; both measured
(`benchmarks/memory.py`)."""

_PRIMITIVES_SHARE = 1 / 16
_CAPACITY, _USUAL_CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LEAST_MAPPED, _MOST_MAPPED = 2**17, 4 * 2**20
_MANY = 2**31 - 1


def use_heap(heap: Heap, state: int = _MOST_MAPPED) -> None:
    """Let this process take memory in one way or the other; elsewhere than on glibc nothing.

    Args:
        heap: which way.
        state: bytes of a layer's state for the rows that run at once. An exact heap keeps no
            gap of that size or more, down from 4 MiB and up from 128 KiB.
    """
    if mallopt := _function("mallopt"):
        mallopt(_M_TRIM_THRESHOLD, _MANY)
        mallopt(_M_MMAP_THRESHOLD, max(_LEAST_MAPPED, min(state, _MOST_MAPPED)))
        mallopt(_M_MMAP_MAX, 0 if heap == "pooled" else _MANY)


def keep_primitives(max_memory: int | None = None, sharing: int = 1) -> None:
    """Let oneDNN keep more code, where there is memory for it and nobody has said how much.

    Has to be said before torch computes its first product.

    Args:
        max_memory: what the process may take, in bytes.
        sharing: processes that share the memory.
    """
    free = min(available_bytes(torch.device("cpu")), max_memory or sys.maxsize)
    most = int(free * _PRIMITIVES_SHARE / sharing / PRIMITIVE_BYTES)
    os.environ.setdefault(_CAPACITY, str(max(_USUAL_CAPACITY, min(most, PRIMITIVES))))


def primitives_bytes(n_lengths: int) -> int:
    """The code that oneDNN keeps for products in bf16.

    Args:
        n_lengths: different lengths of batches.
    """
    kept = os.environ.get(_CAPACITY, "")
    most = int(kept) if kept.isdigit() else _USUAL_CAPACITY
    return min(most, n_lengths * PRIMITIVES_OF_A_LENGTH) * PRIMITIVE_BYTES


def release_memory() -> int:
    """Return freed heap pages to the system, where the C library can.

    Returns:
        What the process still holds, in bytes.
    """
    if malloc_trim := _function("malloc_trim"):
        malloc_trim(0)
    return resident_bytes()


def resident_bytes() -> int:
    """Memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def unshared_bytes() -> int:
    """Memory that another process of the same kind would take once more, files left aside."""
    held = psutil.Process().memory_info()
    return int(held.rss - getattr(held, "shared", 0))


def available_bytes(device: torch.device) -> int:
    """Memory that this process could take more than it has."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    available = int(psutil.virtual_memory().available)
    left = left_bytes()
    return available if left is None else min(available, left)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; on a CPU torch says so by a plain RuntimeError."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def _function(name: str) -> Callable[..., int] | None:
    """A function of glibc; musl and other systems have neither."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
