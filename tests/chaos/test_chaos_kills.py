"""Kill -9 at random moments: nothing lost, nothing twice, nothing left, nothing else."""

import contextlib
import random
import shutil
import signal
import time

import psutil
import pytest
from chaos_outcome import outcome
from crashes import OFTEN
from study_factory import ledger_states, results, tree, weights

# forty starts of drivers and workers, on busy machines
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def kill_at_random(drivers, rng, *, trials, n_kills):
    """Kill what runs a study at random moments, its driver and its workers `n_kills` times each.

    The kills are spread over the trials, so that neither a quick machine is at the study's end
    before the last of them, nor a slow one still at its first job.
    """
    left = {"driver": n_kills, "worker": n_kills}
    driver = None
    while any(left.values()):
        if driver is None or driver.poll() is not None:
            driver = drivers.start("search", "study.yaml", "--out", "out")
            drivers.wait_for(lambda d=driver: len(drivers.below(d)) >= 2, driver)
        share = 1 - sum(left.values()) / (2 * n_kills + 1)
        drivers.wait_for(lambda s=share: drivers.n_records() >= s * trials * 0.8, driver)
        time.sleep(rng.uniform(0, 0.8))
        assert driver.poll() is None, f"it ended before all kills were done: {left}"
        if rng.random() < left["driver"] / sum(left.values()):
            drivers.kill(driver)
            left["driver"] -= 1
        elif victims := drivers.below(driver):
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(victims).kill()
                left["worker"] -= 1
    return driver


def test_killed_study_is_the_uninterrupted_one(drivers):
    trials, n_kills = 60, 20
    whole = drivers(trials, name="whole")
    whole.search(STUB_SECONDS="0")
    killed = drivers(trials, name="killed")
    # a job outlasts the pause between two kills, also on busy machines
    killed._environment |= {"STUB_SECONDS": "4.0"}
    driver = kill_at_random(killed, random.Random(trials), trials=trials, n_kills=n_kills)
    if driver.poll() is None:
        driver.communicate(timeout=240)
    code, out = killed.run("resume", "out")
    assert code == 0, out
    found = outcome(killed.study)
    keys = [(r["trial"], r["rung"], r["replicate"]) for r in found["records"]]
    assert len(set(keys)) == len(keys)
    assert [trial for trial, rung, _ in keys if rung == 0] == list(range(trials))
    assert "RUNNING" not in found["ledger"]
    expected = outcome(whole.study)
    for one in (found, expected):  # a worker that is killed again and again has its job split
        for record in one["records"]:
            record.pop("cohort")
    assert found == expected
    assert not list(killed.study.folder.rglob("*.tmp"))


def interrupt_at_random(drivers, rng, *, most_records):
    """Run a study until its driver is killed: at one of its own writes, or from outside."""
    if rng.random() < 0.5:
        crash = f"{rng.choice(OFTEN)} {rng.randrange(4)}"
        driver = drivers.start("search", "study.yaml", "--out", "out", CRASH_AT=crash)
        out, _ = driver.communicate(timeout=240)
        assert driver.returncode == -signal.SIGKILL, (crash, out)
        drivers.wait_for_orphans()
        return
    driver = drivers.start("search", "study.yaml", "--out", "out")
    more = drivers.n_records() + rng.randrange(most_records)
    drivers.wait_for(lambda: drivers.n_records() >= more, driver)
    time.sleep(rng.uniform(0, 0.5))
    assert driver.poll() is None, "it ended before it was killed"
    drivers.kill(driver)


@pytest.mark.parametrize(("seed", "n_points"), [(0, 2), (1, 5), (2, 5), (3, 5)])
def test_killed_driver_changes_nothing_at_all(drivers, seed, n_points):
    """With one worker that lives, cohorts too are those of the uninterrupted study."""
    rng = random.Random(seed)
    trials = 12 * n_points
    whole, killed = drivers(trials, name="whole"), drivers(trials, name="killed")
    whole.search(STUB_SECONDS="0")
    for _ in range(n_points):
        interrupt_at_random(killed, rng, most_records=8)
    killed.search()
    assert outcome(killed.study) == outcome(whole.study)


def test_killed_study_of_a_real_model_is_the_uninterrupted_one(drivers):
    rng = random.Random(24)
    whole, killed = (drivers(32, name=name, are_real=True, sampler="tpe") for name in ("a", "b"))
    whole.search()
    for least in (1, 9):
        driver = killed.start("search", "study.yaml", "--out", "out")
        n_records = least + rng.randrange(8)
        killed.wait_for(lambda n=n_records: killed.n_records() >= n, driver)
        time.sleep(rng.uniform(0, 0.5))
        assert driver.poll() is None, "it ended before it was killed"
        killed.kill(driver)
    code, out = killed.run("resume", "out")
    assert code == 0, out
    assert results(killed.study) == results(whole.study)
    assert weights(killed.study) == weights(whole.study)
    assert ledger_states(killed.study) == ledger_states(whole.study)
    assert killed.study.front() == whole.study.front()


@pytest.mark.parametrize("lost", ["study.db", "front.json", "records.jsonl", "space.yaml"])
def test_what_follows_from_jobs_and_records_is_made_again(drivers, lost):
    one = drivers(8)
    one.search(STUB_SECONDS="0")
    before = outcome(one.study)
    (one.study.folder / lost).unlink()
    code, out = one.run("resume", "out")
    assert code == 0, out
    assert outcome(one.study) == before


def test_torn_files_of_a_killed_writer_do_not_count(drivers):
    one = drivers(8)
    one.search(STUB_SECONDS="0")
    before = tree(one.study.folder)
    for name in ("records/.000004-0-0.json.00ff.tmp", "jobs/.000001.json.00ff.tmp", ".x.tmp"):
        (one.study.folder / name).write_bytes(b'{"version": 1, "tri')
    one.search()
    after = tree(one.study.folder)
    assert set(after) == set(before)
    assert {k: after[k] for k in after if k.startswith(("records/", "jobs/"))} == {
        k: before[k] for k in before if k.startswith(("records/", "jobs/"))
    }


def test_ledger_of_another_study_is_refused(drivers):
    one, other = drivers(8, name="one"), drivers(8, name="other", seed=5)
    one.search(STUB_SECONDS="0")
    other.search(STUB_SECONDS="0")
    shutil.copy(other.study.database, one.study.database)
    code, out = one.run("resume", "out")
    assert code == 3, out
    assert "is not that of the jobs beside it" in out
