"""Crashes of a driver at its writes: before or after each call of what it lets last."""

import functools
import os

from autopeft import files
from autopeft.study import driver, prepared
from autopeft.study.ledger import Ledger

ANY = "any"
"""Every write to the disk or the database, whoever asks for it."""

BEGINNING = {
    "manifest": (prepared, "write_manifest"),
    "specs": (prepared, "_write_specs"),
}
WRITES = {
    "job": (driver, "write_job"),
    "entry": (Ledger, "enter"),
    "record": (driver, "write_record"),
    "told": (Ledger, "_tell"),
    "compiled": (driver, "write_jsonl"),
    "front": (driver, "write_front"),
}
DISPATCH = "dispatch"


def around(names):
    """Before and after each."""
    return tuple(f"{when} {name}" for name in names for when in ("before", "after"))


ONCE = around(BEGINNING)
"""Places that a driver reaches once."""

OFTEN = around((*WRITES, DISPATCH))
"""Places that it reaches with every job or trial."""


class Trap:
    """Crashes when a place has been reached so many times.

    Args:
        crash: ends everything, by an exception or a signal.
        engine: class of the engine, which jobs are dispatched to.
        replace: `setattr`, or one that is undone.
    """

    def __init__(self, crash, engine, replace=setattr):
        self._crash, self._replace = crash, replace
        self.release()
        for name, (owner, function) in (
            BEGINNING | WRITES | {DISPATCH: (engine, "submit")}
        ).items():
            self._guard(owner, function, f"before {name}", f"after {name}")
        self._guard(os, "fsync", ANY, None)
        self._guard(files, "_sync_folder", None, ANY)
        self._guard(Ledger, "_write", ANY, ANY)

    def set(self, place, times):
        """Let so many times pass."""
        self._place, self._left = place, times

    def release(self):
        """Let everything pass."""
        self._place, self._left = None, 0

    def _guard(self, owner, name, before, after):
        function = getattr(owner, name)

        @functools.wraps(function)
        def guarded(*args, **more):
            self._reach(before)
            result = function(*args, **more)
            self._reach(after)
            return result

        self._replace(owner, name, guarded)

    def _reach(self, place):
        if place is None or place != self._place:
            return
        self._left -= 1
        if self._left < 0:
            self.release()
            self._crash()
