"""How long workers are at jobs, beside what records tell of it."""

import time
from collections.abc import Callable


class Meter:
    """Counts the seconds that no record tells of, from when a worker has an attempt on.

    Args:
        clock: seconds from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[int, float] = {}
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Lost by attempts that do not run now."""
        return self._seconds

    @property
    def seconds_if_killed(self) -> float:
        """Lost if all attempts ended now."""
        now = self._clock()
        return self._seconds + sum(max(0.0, now - began) for began in self._running.values())

    def begins(self, worker: int) -> None:
        """A worker is given an attempt: it has loaded, and goes about it at once."""
        self._running[worker] = self._clock()

    def brings(self, worker: int, record_seconds: float) -> None:
        """Its attempt brought a record, which tells of so much of its time."""
        if worker in self._running:
            self._running[worker] += record_seconds

    def ends(self, worker: int) -> None:
        """Its attempt is over, whatever it brought; once more changes nothing."""
        began = self._running.pop(worker, None)
        if began is not None:
            self._seconds += max(0.0, self._clock() - began)
