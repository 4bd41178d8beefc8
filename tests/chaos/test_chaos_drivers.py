"""Many processes on one study: one driver, any number of readers."""

import os
import platform
import re
import subprocess
import sys
import time

import pytest
from study_factory import ledger_states

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

READER = """
import sqlite3, sys, time
from pathlib import Path
from autopeft.study.folder import Study
study, n = Study(Path("out")), 0
while n < int(sys.argv[1]):
    with sqlite3.connect(f"file:{study.database}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
    connection.close()
    assert [number for number, _ in rows] == list(range(len(rows)))
    records = study.records()
    finished = sum(state != "RUNNING" for _, state in rows)
    assert finished <= len(records)
    assert len(study.front().points) <= len(records)
    n = len(records)
    time.sleep(0.01)
"""


def test_one_of_several_drivers_wins(drivers):
    one = drivers(12)
    started = [one.start("search", "study.yaml", "--out", "out") for _ in range(8)]
    ended = [(p.communicate(timeout=240)[0], p.returncode, p.pid) for p in started]
    codes = sorted(code for _, code, _ in ended)
    assert codes == [0, *[3] * 7], ended
    (winner,) = [pid for _, code, pid in ended if code == 0]
    refusal = re.compile(
        rf"error: another search is running on out: process {winner} on "
        rf"{re.escape(platform.node())} since \d{{4}}-\d\d-\d\dT"
    )
    assert sum(bool(refusal.search(out)) for out, _, _ in ended) == 7
    assert ledger_states(one.study) == [
        "COMPLETE" if r.state == "complete" else "FAIL" for r in one.study.records()
    ]
    assert len(one.study.records()) == 12


def test_stale_lock_is_recognised(drivers):
    one = drivers(8)
    driver = one.start("search", "study.yaml", "--out", "out")
    one.wait_for(lambda: one.n_records() > 0, driver)
    one.kill(driver)
    assert (one.study.folder / ".driver.json").exists()
    code, out = one.run("resume", "out")
    assert code == 0
    assert f"the last search on this folder was killed (process {driver.pid} on " in out
    assert not (one.study.folder / ".driver.json").exists()


def test_worker_that_hangs_does_not_outlive_a_killed_driver(drivers):
    """It looks at nothing that would tell it: its warden has to."""
    one = drivers(8)
    driver = one.start("search", "study.yaml", "--out", "out", STUB_SECONDS="36000")
    one.wait_for((one.study.folder / "jobs" / "000000.json").exists, driver)
    time.sleep(3)  # the job is sent right after it was written
    assert len(one.below(driver)) == 2
    one.kill(driver)


def test_readers_see_a_study_that_is_whole(drivers):
    n_readers, trials = 16, 40
    one = drivers(trials)
    driver = one.start("search", "study.yaml", "--out", "out")
    one.wait_for(lambda: one.n_records() > 0, driver)
    one.wait_for((one.study.folder / "front.json").exists, driver)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(trials)],
            cwd=one.folder,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for _ in range(n_readers)
    ]
    told = [reader.communicate(timeout=600)[1] for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * n_readers, told
    out, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, out
