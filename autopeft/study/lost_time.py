"""Time that workers spent and no record tells of: jobs that were killed, hung, or were split.

A time budget is of training in all, over every run on a folder. Records say what trials took that
were measured. Here is the rest, so that a job that is killed again and again is not free.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from autopeft.engines.meter import Meter
from autopeft.errors import DataError
from autopeft.files import read_json, write_atomic

WRITE_SECONDS = 10.0
"""Between two notes while jobs run; a kill leaves so much uncounted, or a step that is longer."""


class LostTime(Meter):
    """Counts it for one study over all runs on it, where there is a time budget.

    Args:
        path: file that keeps it over runs; None for a study without a time budget.
        clock: seconds from any origin.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._path = path
        self._seconds = self._noted = _read(path)
        self._noted_at = clock()

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
        lost = self.seconds_if_killed
        if self._path is not None and lost != self._noted:
            write_atomic(self._path, json.dumps({"version": 1, "seconds": lost}) + "\n")
        self._noted, self._noted_at = lost, self._clock()


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
