"""Ctrl-C, SIGTERM and SIGHUP: the first ends a search in order, the second at once."""

import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from autopeft.errors import InterruptedSearchError

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Run a search that can be interrupted; what was measured is on the disk at any moment.

    Args:
        folder: of the study.

    Raises:
        InterruptedSearchError: it was, with the command that continues it.
    """
    # A signal that is ignored stays so: that is what nohup is for.
    caught = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _first) for number in caught}
    try:
        yield
    except KeyboardInterrupt:
        again = f"autopeft resume {shlex.quote(str(folder))}"
        begun = (folder / "manifest.json").exists()
        raise InterruptedSearchError(
            f"interrupted; to continue where it stopped: {again}"
            if begun
            else "interrupted before the study had begun; nothing was written"
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first(_: int, __: FrameType | None) -> None:
    for number in _SIGNALS:
        signal.signal(number, _second)
    raise KeyboardInterrupt


def _second(_: int, __: FrameType | None) -> None:
    os._exit(InterruptedSearchError.exit_code)  # the wardens see it and end the workers
