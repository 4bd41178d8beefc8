"""One driver a study: an exclusive lock on its folder, with the holder's name.

The system releases the lock when the process ends, however it ends. So a name without a lock is
that of a driver that was killed.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from autopeft.errors import DataError
from autopeft.files import read_json, write_atomic

LOCK, HOLDER = ".lock", ".driver.json"
NAMING_SECONDS = 2.0
"""How long a refused driver waits for the holder's name."""


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold a folder, which is made if it is not there and removed if nothing was written to it.

    Yields:
        The driver that was killed while it held the folder, or None.

    Raises:
        DataError: another process holds it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        by = _named(folder)
        raise DataError(f"another search is running on {folder}{f': {by}' if by else ''}") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        stale = _holder(folder)
        me = {
            "host": platform.node(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomic(folder / HOLDER, json.dumps(me) + "\n")
        yield stale
    finally:
        with contextlib.suppress(OSError):  # what was raised before says more
            (folder / HOLDER).unlink(missing_ok=True)
            if is_new and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()
        lock.release()


def _named(folder: Path) -> str | None:
    """Who holds a folder; whoever has just taken it is about to write that."""
    until = time.monotonic() + NAMING_SECONDS
    while not (by := _holder(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    return by


def _holder(folder: Path) -> str | None:
    """Who holds or held a folder, in words."""
    path = folder / HOLDER
    if not path.exists():
        return None
    try:
        data = read_json(path)
        host, pid, since = (str(data[key])[:100] for key in ("host", "pid", "since"))
    except (DataError, KeyError, TypeError):
        return "a driver without a legible name"
    return f"process {pid} on {host} since {since}"
