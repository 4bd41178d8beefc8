"""The parent of a worker: a small process that lets nothing outlive worker or driver.

It is started by the driver, forks the worker before anything heavy is imported, and waits. When
the worker has ended or the driver is gone, it kills all that is left below it, orphans included:
on Linux they become its own children (`PR_SET_CHILD_SUBREAPER`). It ends the way the worker ended.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
from collections.abc import Callable

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_POLL_MS = 50


def watch_over_worker(driver: int) -> None:
    """Fork; return in the worker alone. The warden never returns.

    Args:
        driver: descriptor of a connection to the driver.
    """
    _prctl(_SET_CHILD_SUBREAPER, 1)
    warden = os.getpid()
    worker = os.fork()
    if worker:
        _watch(worker, driver)
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != warden:  # it was killed before that took effect
        os._exit(1)
    _die_first()


def _watch(worker: int, driver: int) -> None:
    """Wait for the end of worker or driver, clean up, and end likewise."""
    hung_up = hang_up_of(driver)
    status = None
    while status is None and not hung_up():
        status = _reap(worker)
    while _kill_descendants():
        ended = _reap(worker)
        status = ended if status is None else status
    if status is None:
        os._exit(1)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one dump is enough
        with contextlib.suppress(OSError):  # nobody can catch SIGKILL
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def hang_up_of(connection: int) -> Callable[[], bool]:
    """What waits a moment for the other end of a connection to be closed, and says whether it is.

    What comes over the connection is left to whoever reads it.

    Args:
        connection: descriptor of a socket.
    """
    if sys.platform == "darwin":  # where poll tells nothing of sockets unless it is asked for data
        queue = select.kqueue()
        wanted = select.kevent(
            connection, select.KQ_FILTER_READ, select.KQ_EV_ADD | select.KQ_EV_CLEAR
        )
        queue.control([wanted], 0)

        def has_ended() -> bool:
            events = queue.control(None, 1, _POLL_MS / 1000)
            return any(event.flags & select.KQ_EV_EOF for event in events)

    else:
        poller = select.poll()
        poller.register(connection, 0)  # nothing but the end is waited for

        def has_ended() -> bool:
            return bool(poller.poll(_POLL_MS))

    return has_ended


def _reap(worker: int) -> int | None:
    """Collect children that have ended: the worker's status if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                found = ended[1]
    return found


def _kill_descendants() -> bool:
    """Kill all processes below this one; whether there were any."""
    import psutil  # noqa: PLC0415 - the worker forks without it

    below = psutil.Process().children(recursive=True)
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(below)


def _die_first() -> None:
    """Let the system choose the worker when memory runs out, rather than the driver."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("500")


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
