"""Several studies on one PostgreSQL server, which is restarted under them."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest
from study_factory import tree

from autopeft.errors import DataError
from autopeft.study import ledger as ledger_module
from autopeft.study.ledger import Ledger

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

PASSWORD = "correct-horse-battery-staple"
TRIALS = 50


class Server:
    """A PostgreSQL server on loopback, from the system's packages; it refuses to run as root."""

    def __init__(self):
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        assert binaries, "needs PostgreSQL: apt-get install postgresql"
        self._bin, self._user = binaries[-1], "nobody" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="autopeft-pg-"))
        secret = self._folder / "password"
        secret.write_text(PASSWORD, encoding="ascii")
        if self._user:
            shutil.chown(self._folder, self._user)
            shutil.chown(secret, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        auth = ("-A", "scram-sha-256", "-U", "searcher", f"--pwfile={secret}")
        self._call("initdb", "-D", self._folder / "data", *auth)
        self.start()

    @property
    def url(self):
        return f"postgresql://searcher@127.0.0.1:{self.port}/postgres"

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        log = self._folder / "log"
        self._call("pg_ctl", "-D", self._folder / "data", "-w", "-l", log, "-o", options, "start")

    def stop(self):
        self._call("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "-w", "stop")

    def rows(self, query):
        with psycopg.connect(self.url, password=PASSWORD) as connection:
            return connection.execute(query).fetchall()

    def remove(self):
        self.stop()
        shutil.rmtree(self._folder)

    def _call(self, program, *arguments):
        command = [str(self._bin / program), *map(str, arguments)]
        with (self._folder.parent / f"{self._folder.name}.out").open("w+") as out:
            ran = subprocess.run(
                command, user=self._user, cwd="/", stdout=out, stderr=out, check=False, timeout=120
            )
            out.seek(0)
            told = out.read()
        Path(out.name).unlink()
        assert ran.returncode == 0, told


@pytest.fixture
def server():
    one = Server()
    yield one
    one.remove()


def test_studies_survive_restarts_of_their_server(drivers, server):
    studies = [drivers(TRIALS, name=f"study{i}", seed=i) for i in range(4)]
    secret = {"PGPASSWORD": PASSWORD, "STUB_SECONDS": "2.0"}
    search = ("search", "study.yaml", "--out", "out", "--storage", server.url)
    started = [study.start(*search, **secret) for study in studies]
    for restart in range(2):
        for study, driver in zip(studies, started, strict=True):
            study.wait_for(lambda s=study, n=8 * restart: s.n_records() > n, driver)
        server.stop()
        time.sleep(2)
        server.start()
    n_records = studies[0].n_records()
    studies[0].wait_for(lambda: studies[0].n_records() >= n_records + 2, started[0])
    started[0].send_signal(signal.SIGSTOP)  # it is not to end before the others are refused
    ended = [driver.communicate()[0] for driver in started if driver.poll() is not None]
    assert ended == []
    command_lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    assert any(server.url in line for line in command_lines)
    assert not any(PASSWORD in line for line in command_lines)
    refused = studies[0].run(*search, **secret)
    assert refused[0] == 3, refused
    assert "another search is running on out: process" in refused[1]
    copy = shutil.copytree(studies[0].study.folder, studies[0].folder / "copy")
    refused = studies[0].run("resume", copy.name, **secret)
    assert refused[0] == 3, refused
    assert "another search is running on study autopeft-" in refused[1]
    started[0].send_signal(signal.SIGCONT)
    ended = [driver.communicate(timeout=600)[0] for driver in started]
    assert [driver.returncode for driver in started] == [0] * 4, ended
    for study, told in zip(studies, ended, strict=True):
        keys = [(r.trial, r.rung, r.replicate) for r in study.study.records()]
        assert len(set(keys)) == len(keys)
        assert [trial for trial, rung, _ in keys if rung == 0] == list(range(TRIALS))
        assert not study.study.database.exists()
        written = tree(study.study.folder).values()
        assert not any(PASSWORD.encode() in content for content in written if content)
        assert PASSWORD not in told
    states = dict(server.rows("SELECT state::text, count(*) FROM trials GROUP BY state"))
    assert sum(states.values()) == 4 * TRIALS
    assert set(states) == {"COMPLETE", "FAIL", "PRUNED"}
    numbers = server.rows("SELECT study_id, count(DISTINCT number) FROM trials GROUP BY study_id")
    assert [count for _, count in numbers] == [TRIALS] * 4


def test_server_that_is_not_there_is_told(drivers, server):
    one = drivers(4)
    search = ("search", "study.yaml", "--out", "out", "--storage", server.url)
    code, out = one.run(*search, PGPASSWORD="wrong")
    assert code == 3, out
    assert "password authentication failed" in out
    assert "wrong" not in out


@pytest.fixture
def open_ledger(server, monkeypatch):
    """Opens ledgers of one study on the server, as drivers of copies of a folder do."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setattr(ledger_module, "LOOK_SECONDS", 0)
    opened = []

    def make():
        opened.append(Ledger(server.url, "autopeft-x"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def restart(server):
    server.stop()
    server.start()


def test_lock_that_a_restart_forgot_is_taken_again(server, open_ledger):
    first = open_ledger()
    restart(server)
    first.keep()
    with pytest.raises(DataError, match="another search is running on study autopeft-x of "):
        open_ledger()


@pytest.mark.parametrize("at", ["a step", "a write"])
def test_driver_whose_study_was_taken_during_a_restart_stops(server, open_ledger, at):
    first = open_ledger()
    restart(server)
    second = open_ledger()
    told = "was lost for a while, and another search has taken study autopeft-x since; this one st"
    with pytest.raises(DataError, match=told):
        first.keep() if at == "a step" else first._write(first._study.get_trials)
    second.keep()


def test_server_that_stays_away_is_told_with_its_place(server, open_ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "RETRY_SECONDS", (0.1, 0.2))
    one = open_ledger()
    server.stop()
    one.keep()
    told = rf"server 127\.0\.0\.1, port {server.port}, cannot be used, also after 0\.3 s of tries: "
    with pytest.raises(DataError, match=told) as refused:
        one._write(one._study.get_trials)
    assert PASSWORD not in str(refused.value)
    server.start()
    one.keep()
