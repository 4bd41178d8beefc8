"""A warden sees the end of its driver, on each system in the way that works there."""

import select
import socket
from types import SimpleNamespace

import pytest

from autopeft.engines.warden import hang_up_of

poll = select.poll
READ, ADD, CLEAR, EOF = -1, 0x1, 0x20, 0x8000


class Queue:
    """As macOS has it: a socket is told of when something has come, with a mark at its end."""

    def control(self, changes, most, timeout=None):
        if changes:
            (self._wanted,) = changes
            assert (self._wanted.filter, self._wanted.flags) == (READ, ADD | CLEAR)
            return []
        assert (most, timeout) == (1, 0.05)
        poller = poll()
        poller.register(self._wanted.ident, select.POLLIN)
        flags = [EOF * bool(event & select.POLLHUP) for _, event in poller.poll(0)]
        return [SimpleNamespace(flags=ADD | CLEAR | some) for some in flags]


@pytest.fixture(params=["here", "darwin"])
def system(request, monkeypatch):
    """This system, and one on which poll is of no use."""
    if request.param == "darwin":
        monkeypatch.setattr("sys.platform", "darwin")
        monkeypatch.delattr(select, "poll")
        names = {"KQ_FILTER_READ": READ, "KQ_EV_ADD": ADD, "KQ_EV_CLEAR": CLEAR, "KQ_EV_EOF": EOF}
        for name, value in names.items():
            monkeypatch.setattr(select, name, value, raising=False)
        monkeypatch.setattr(select, "kqueue", Queue, raising=False)

        def event(ident, filter, flags):  # noqa: A002 - as it is called there
            return SimpleNamespace(ident=ident, filter=filter, flags=flags)

        monkeypatch.setattr(select, "kevent", event, raising=False)


@pytest.mark.usefixtures("system")
def test_the_end_is_seen_behind_what_nobody_has_read():
    driver, worker = socket.socketpair()
    with worker:
        hung_up = hang_up_of(worker.fileno())
        assert not hung_up()
        driver.send(b"a job")
        assert not hung_up()
        driver.close()
        assert hung_up()
