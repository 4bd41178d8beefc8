"""One worker process as the driver sees it."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from autopeft.engines.outcome import Mishap
from autopeft.engines.protocol import Reply, Request, receive_reply, send
from autopeft.records import Failure

_END_SECONDS = 10
_LAST_WORDS_BYTES = 4096


class WorkerProcess:
    """A worker with its warden, in a session of their own: Ctrl-C reaches the driver alone.

    Args:
        command: starts it; the descriptor of a socket is appended.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._oom_kills = oom_kills()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.connection, theirs = multiprocessing.Pipe()
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._words,
            stderr=self._words,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.alive_at = time.monotonic()

    @property
    def pid(self) -> int:
        """Of the warden, whose child the worker is."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether worker and warden are gone."""
        return self._process.poll() is not None

    def send(self, request: Request) -> None:
        """Ask for something; that nobody is there shows when the answer is read."""
        self.alive_at = time.monotonic()
        with contextlib.suppress(OSError):
            send(self.connection, request)

    def ask(self, request: Request) -> Reply | Mishap:
        """Send a request and wait for the answer."""
        self.send(request)
        return self.receive()

    def receive(self) -> Reply | Mishap:
        """The next answer, waited for; what became of the worker if there is none."""
        try:
            reply = receive_reply(self.connection)
        except (EOFError, OSError, ValueError):
            return self.mishap()
        self.alive_at = time.monotonic()
        return reply

    def mishap(self) -> Mishap:
        """End the process, if it is not over; tell what it died of."""
        self.connection.close()
        code = self._wait()
        if code >= 0:
            words = self._last_words()
            said = f"; its last words: {words}" if words else ""
            return Mishap(Failure("crash", f"the worker ended with exit code {code}{said}"))
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL and oom_kills() > self._oom_kills:
            message = "the system killed the worker, since memory had run out"
            return Mishap(Failure("out_of_memory", message))
        from_outside = -code in {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        return Mishap(Failure("crash", f"the worker died of {name}"), from_outside)

    def kill(self) -> None:
        """End worker, warden, and whatever they started, at once."""
        self.connection.close()  # the warden sees it, also while the worker hangs
        self._wait()
        self._words.close()

    def _wait(self) -> int:
        try:
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def _last_words(self) -> str:
        """The last line that it wrote."""
        if self._words.closed:
            return ""
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - _LAST_WORDS_BYTES))
        lines = self._words.read().decode(errors="replace").split("\n")
        written = [line.strip() for line in lines if line.strip().isprintable() and line.strip()]
        return written[-1] if written else ""


def oom_kills() -> int:
    """Processes that the system has killed since memory ran out; 0 where it does not say."""
    counted = 0
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                counted = int(value)
    return counted
