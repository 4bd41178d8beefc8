"""Time that workers spent and no record tells of: jobs that were killed, hung, or were split.

A time budget is of training in all, over every run on a folder. Records say what trials took that
were measured. Here is the rest, so that a job that is killed again and again is not free.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from autopeft.errors import DataError
from autopeft.files import read_json, write_atomic

WRITE_SECONDS = 10.0
"""Between two notes while jobs run; a kill leaves so much uncounted, or a step that is longer."""


class LostTime:
    """Counts it for one study, where there is a time budget.

    Args:
        path: file that keeps it over runs; None for a study without a time budget.
        clock: seconds from any origin.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._running: dict[int, float] = {}
        self._seconds = self._noted = _read(path)
        self._noted_at = clock()

    @property
    def seconds(self) -> float:
        """Lost by jobs that do not run now; those that do are paid for as they are expected."""
        return self._seconds

    def begins(self, job: int) -> None:
        """A job is dispatched."""
        self._running[job] = self._clock()

    def brings(self, job: int, record_seconds: float) -> None:
        """A job brought a record, which tells of so much of its time."""
        if job in self._running:
            self._running[job] += record_seconds

    def ends(self, job: int) -> None:
        """A job has brought all its records."""
        began = self._running.pop(job, None)
        if began is not None:
            self._seconds += max(0.0, self._clock() - began)
            self.note()

    def note(self) -> None:
        """Write it, if that has not been done for a while.

        Raises:
            DataError: it cannot be written.
        """
        if self._clock() - self._noted_at >= WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write it as it would be if this driver were killed now.

        Raises:
            DataError: it cannot be written.
        """
        now = self._clock()
        lost = self._seconds + sum(max(0.0, now - began) for began in self._running.values())
        if self._path is not None and lost != self._noted:
            write_atomic(self._path, json.dumps({"version": 1, "seconds": lost}) + "\n")
        self._noted, self._noted_at = lost, now


def _read(path: Path | None) -> float:
    if path is None or not path.exists():
        return 0.0
    data = read_json(path)
    seconds = data.get("seconds") if isinstance(data, dict) and data.get("version") == 1 else None
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise DataError(f"{path}: has to be version 1 with a number of seconds")
    if not math.isfinite(seconds) or seconds < 0:
        raise DataError(f"{path}: seconds is {seconds}, has to be finite and 0 or more")
    return float(seconds)
