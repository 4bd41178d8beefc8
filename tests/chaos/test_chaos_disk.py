"""A disk that is really full: a file system of a few megabytes in memory."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time

import pytest
from chaos_outcome import outcome

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

PAGE_BYTES = 4096
ROOMS_PAGES = (0, 1, 2, 3, 5, 8)
"""Pages left: for nothing, for a job or a record, for a part of what SQLite writes."""


@pytest.fixture
def mount():
    """Mounts small file systems."""
    mounted = []

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except OSError as error:
            pytest.skip(f"needs `mount`: {error}")
        if ran.returncode:
            pytest.skip(f"needs the right to mount a tmpfs: {ran.stderr.strip()}")
        mounted.append(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True, timeout=60)


def fill(ballast, room_pages):
    """Leave so much room on the file system of a file."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(PAGE_BYTES))
    assert shutil.disk_usage(ballast.parent).free == 0
    os.truncate(ballast, max(0, ballast.stat().st_size // PAGE_BYTES - room_pages) * PAGE_BYTES)


def integrity(database, elsewhere):
    """What SQLite says of a copy of a database, since it has no room where it is."""
    elsewhere.mkdir()
    for path in database.parent.glob(f"{database.name}*"):
        shutil.copy(path, elsewhere)
    with contextlib.closing(sqlite3.connect(elsewhere / database.name)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall()


def test_study_on_a_full_disk_pauses_and_goes_on_when_there_is_room(drivers, mount, tmp_path):
    trials = 36
    whole, one = drivers(trials, name="whole"), drivers(trials, name="full")
    whole.search(STUB_SECONDS="0")
    mount(one.study.folder)
    ballast = one.study.folder / ".ballast.tmp"

    def paused(room_pages, is_time, **environment):
        """Records before a disk fills up at some time, and what is told."""
        driver = one.start("search", "study.yaml", "--out", "out", **environment)
        n_jobs, n_records = one.n_jobs(), one.n_records()
        one.wait_for(lambda: is_time(n_jobs, n_records), driver)
        fill(ballast, room_pages)
        out, _ = driver.communicate(timeout=240)
        assert driver.returncode == 3, (room_pages, out)
        assert "The study is paused, and what was measured is safe; make room, then:" in out
        assert "Traceback" not in out
        assert integrity(one.study.database, tmp_path / f"db{len(told)}") == [("ok",)]
        ballast.unlink()
        told.append(out)
        return n_records, out

    def trains(n_jobs, _):
        """A new job is, and the driver has nothing to write: records, then SQLite, come next."""
        if one.n_jobs() == n_jobs:
            return False
        with contextlib.suppress(FileNotFoundError):  # of a file that has another name now
            written = max(map(os.path.getmtime, one.study.folder.rglob("*")))
            return time.time() > written + 1
        return False

    told = []
    _, out = paused(0, trains, STUB_SECONDS="5")
    assert "cannot write out/records/" in out
    _, out = paused(1, trains, STUB_SECONDS="5")
    assert "out/study.db cannot be written: database or disk is full" in out
    for room_pages in ROOMS_PAGES:
        n_records, _ = paused(room_pages, lambda _, n_records: one.n_records() > n_records)
        assert len(one.study.records()) > n_records
    code, out = one.run("resume", "out")
    assert code == 0, out
    assert outcome(one.study) == outcome(whole.study)
