"""A cluster of this machine: nodes that `ray start` starts on loopback, with a token."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

LOOPBACK = Path(__file__).with_name("loopback.py")
MARK = "AUTOPEFT_TEST_NODE"
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For the head and drivers; a second node is refused with it."""

PATIENCE_SECONDS = 300


def free_port():
    """A port of the loopback address that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def marked(mark):
    """Processes that were started with a mark, zombies left aside."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(mark) and process.pid != os.getpid():
                found.append(process)
    return found


def kill_all(mark):
    """SIGKILL processes with a mark, and their children: some of Ray's overwrite their marks."""
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):
            for one in (*process.children(recursive=True), process):
                one.kill()


class Cluster:
    """Starts nodes of one CPU, and kills them.

    Its folder is a short one: the sockets of Ray lie below it.
    """

    def __init__(self, folder):
        self._mark, self.token = secrets.token_hex(8), secrets.token_hex(16)
        self.address = f"127.0.0.1:{free_port()}"
        self.client_port = str(free_port())
        self._temporary = tempfile.mkdtemp(prefix="ap-", dir="/tmp")
        self._environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "TMPDIR": str(folder),
        }
        self._n_nodes = 0

    def start_node(self):
        """Start a node, the head first."""
        head = ["--head", "--port", self.address.rpartition(":")[2], "--include-dashboard=false"]
        head += ["--temp-dir", self._temporary, "--ray-client-server-port", self.client_port]
        role = ["--address", self.address] if self._n_nodes else head
        program = [str(LOOPBACK)] if self._n_nodes else ["-m", "ray.scripts.scripts"]
        command = [sys.executable, *program, "start", *role, "--node-ip-address", "127.0.0.1"]
        command += ["--num-cpus", "1", "--object-store-memory", "100000000"]
        command += ["--min-worker-port", "0", "--max-worker-port", "0", "--disable-usage-stats"]
        log = Path(self._temporary) / f"node{self._n_nodes}.log"
        with log.open("wb") as out:
            code = subprocess.run(
                command,
                check=False,
                env=self._environment
                | {MARK: f"{self._mark}-{self._n_nodes}"}
                | ({} if self._n_nodes else LOOPBACK_ONLY),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=PATIENCE_SECONDS,
            ).returncode
        assert code == 0, log.read_text(encoding="utf-8")
        self._n_nodes += 1

    def kill_node(self, number):
        """SIGKILL everything of a node, as if its power had gone."""
        kill_all(f"{self._mark}-{number}")

    def stop(self):
        """Leave nothing behind."""
        end = time.monotonic() + PATIENCE_SECONDS
        while left := marked(self._mark):
            assert time.monotonic() < end, left
            kill_all(self._mark)
            time.sleep(0.1)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def is_running(self, number, method):
        """Whether the worker of a node is at a method of its actor, as the process's name says."""
        names = []
        for process in marked(f"{self._mark}-{number}"):
            with contextlib.suppress(psutil.Error):
                names += process.cmdline()
        return any(name.startswith(f"ray::Station.{method}") for name in names)

    @property
    def driver_environment(self):
        """Of a process that connects; elsewhere than on loopback it needs the token alone."""
        return {k: v for k, v in self._environment.items() if k != MARK} | LOOPBACK_ONLY
