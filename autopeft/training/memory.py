"""Handing memory back to the system between cohorts."""

import ctypes
import sys


def release_memory() -> None:
    """Return freed heap pages to the system, where the C library can.

    Batches of many lengths leave glibc's heap in pieces: without this, the memory of a process
    that trains one cohort after the other grows far beyond what any of them needs.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
