"""Studies of the tiny model whose drivers are processes with stub workers."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from study_factory import checkpoint, data_folder, done, spec_of

from autopeft.study.folder import Study
from autopeft.study.prepare import prepare
from autopeft.study.write import spec_yaml

__all__ = ["checkpoint", "data_folder", "done", "spec_of"]

DRIVE = Path(__file__).parents[1] / "drive.py"
PATIENCE_SECONDS = 600
"""Longer than anything here takes, on a machine that is busy with other things."""


@pytest.fixture(scope="session")
def facts(spec_of, tmp_path_factory):
    """What a worker says of the tiny model and text."""
    return prepare(spec_of(), tmp_path_factory.mktemp("facts")).facts


class Drivers:
    """Starts drivers, and finds what they started; workers are stubs unless they are to be real."""

    def __init__(self, folder, facts, *, are_real=False):
        self.folder, self.study = folder, Study(folder / "out")
        self._program = ("-m", "autopeft") if are_real else (str(DRIVE),)
        self.token = uuid.uuid4().hex
        self._environment = os.environ | {
            "AUTOPEFT_TEST": self.token,
            "STUB_FACTS": facts.model_dump_json(),
            "STUB_SECONDS": "0.2",
        }

    def start(self, *arguments, **environment):
        """A driver, its output piped."""
        return subprocess.Popen(
            [sys.executable, *self._program, *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment | environment,
        )

    def run(self, *arguments, **environment):
        """A driver to its end: exit code and output."""
        process = self.start(*arguments, **environment)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, out

    def search(self, **environment):
        """Search, or continue, to the end."""
        code, out = self.run("search", "study.yaml", "--out", "out", **environment)
        assert code == 0, out

    def below(self, driver):
        """Wardens and workers of a driver."""
        try:
            return psutil.Process(driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def left(self):
        """Processes that drivers have left."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("AUTOPEFT_TEST") == self.token:
                    found.append(process)
        return [p for p in found if p.pid != os.getpid()]

    def n_records(self):
        """Records that are on the disk."""
        return len(list((self.study.folder / "records").glob("[0-9]*.json")))

    def n_jobs(self):
        """Jobs that are on the disk, done or not."""
        return len(list((self.study.folder / "jobs").glob("[0-9]*.json")))

    def wait_for(self, condition, driver):
        """Wait until something holds, or the driver has ended."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition() and driver.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.02)

    def kill(self, driver):
        """Kill -9 a driver; what it started has to end by itself."""
        driver.kill()
        driver.communicate()
        self.wait_for_orphans()

    def wait_for_orphans(self):
        """Wait until whatever a killed driver has left has ended."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.left():
            assert time.monotonic() < end, "orphans"
            time.sleep(0.05)


@pytest.fixture
def drivers(spec_of, tmp_path, facts):
    """Drivers of a study of so many trials."""

    def make(trials=60, name="work", *, are_real=False, sampler="random", **more):
        folder = tmp_path / name
        folder.mkdir()
        engine = {"max_failures": 1000, "workers": 1, "trial_timeout": 120}
        spec = spec_of(trials=trials, engine=engine, sampler=sampler, **more)
        (folder / "study.yaml").write_text(spec_yaml(spec), encoding="utf-8")
        found = Drivers(folder, facts, are_real=are_real)
        made.append(found)
        return found

    made = []
    yield make
    left = [process for one in made for process in one.left()]
    for process in left:
        process.kill()
    assert left == []
