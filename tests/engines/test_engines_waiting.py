"""Threads of a process that computes do not hold cores that others have need of."""

import os
import subprocess
import sys

import pytest

from autopeft.cli.main import main
from autopeft.engines.waiting import POLICY, SPINS, SPINS_OF_GNU, wait_briefly

VARIABLES = (SPINS_OF_GNU, POLICY)


def spins_of(code, **told):
    """What GNU's OpenMP says when torch brings it; nothing where torch has another one."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | told
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return [line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]


WAITS = "from autopeft.engines.waiting import wait_briefly\nwait_briefly()\nimport torch"


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP there")
@pytest.mark.parametrize(
    ("told", "expected"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_openmp_is_told_unless_the_user_has(told, expected):
    assert spins_of(WAITS, **told) == [expected]
    (usual,) = spins_of("import torch", **told)
    assert (usual == expected) == bool(told)


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP there")
def test_worker_is_told_before_it_imports_torch():
    """The driver hangs up before the first request."""
    code = (
        "import os, sys\n"
        "from autopeft.engines import worker\n"
        "worker.watch_over_worker = lambda driver: None\n"
        "read, write = os.pipe()\n"
        "os.close(write)\n"
        "sys.argv = ['worker', str(read)]\n"
        "worker.main()\n"
        "assert 'torch' in sys.modules\n"
    )
    assert set(spins_of(code)) == {SPINS}, "of torch, and perhaps of scikit-learn"


def test_command_line_is_told(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back, also where it was not there
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr("sys.argv", ["autopeft", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS


def test_too_late_nothing_is_changed(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setitem(sys.modules, "torch", sys)
    wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ
