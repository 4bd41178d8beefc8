"""A cluster of two nodes: what is killed costs no trial, and what is wrong is told in a line."""

import subprocess
import sys
import time

import pytest
from cluster import PATIENCE_SECONDS, Cluster
from study_factory import ledger_states, results, weights

from autopeft.study.folder import Study
from autopeft.study.search import run_search
from autopeft.study.write import spec_yaml

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

TRIALS = 40


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "stations").mkdir()
    made = Cluster(tmp_path / "stations")
    yield made
    made.stop()


@pytest.fixture
def drive(cluster, tmp_path):
    """Start a driver in the test's folder."""

    started = []

    def start(*arguments, **environment):
        driver = subprocess.Popen(
            [sys.executable, "-m", "autopeft", *arguments],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=cluster.driver_environment | environment,
        )
        started.append(driver)
        return driver

    yield start
    for driver in started:
        if driver.poll() is None:
            driver.kill()
            driver.communicate()


def wait_for(condition, driver):
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_lost_node_and_killed_driver_cost_no_trial(cluster, drive, spec_of, tmp_path):
    spec = spec_of(trials=TRIALS, sampler="random", rungs=1, training={"epochs": 30, "cohort": 2})
    whole = run_search(spec, tmp_path / "whole")
    engine = {"kind": "ray", "address": cluster.address, "workers": 2, "max_failures": TRIALS}
    on_ray = spec.model_copy(update={"engine": type(spec.engine).model_validate(engine)})
    (tmp_path / "study.yaml").write_text(spec_yaml(on_ray), encoding="utf-8")
    study = Study(tmp_path / "out")

    def n_records():
        return len(list((study.folder / "records").glob("[0-9]*.json")))

    cluster.start_node()
    cluster.start_node()
    driver = drive("search", "study.yaml", "--out", "out")
    wait_for(lambda: n_records() >= 6 and cluster.is_running(1, "hear"), driver)
    cluster.kill_node(1)
    at_loss = n_records()
    assert at_loss < TRIALS - 8, "the node died after the study"
    wait_for(lambda: n_records() >= at_loss + 4, driver)
    driver.kill()
    driver.communicate()
    assert n_records() < TRIALS, "the driver died after the study"
    resumed = drive("resume", "out")
    out, _ = resumed.communicate(timeout=PATIENCE_SECONDS)
    assert resumed.returncode == 0, out
    assert [record.trial for record in study.records()] == list(range(TRIALS))
    assert results(study) == results(whole)
    assert ledger_states(study) == ["COMPLETE"] * TRIALS
    assert not list(study.folder.rglob("*.tmp"))


def test_what_is_wrong_with_a_cluster_is_told_in_a_line(cluster, drive, spec_of, tmp_path):
    cluster.start_node()
    engine = {"kind": "ray", "address": cluster.address, "workers": 1}
    spec = spec_of().model_copy(update={"engine": type(spec_of().engine).model_validate(engine)})
    (tmp_path / "study.yaml").write_text(spec_yaml(spec), encoding="utf-8")

    def search(name, *flags, **environment):
        return drive("search", "study.yaml", "--out", name, *flags, **environment)

    asked = {
        search("a", RAY_AUTH_TOKEN="0" * 32): (3, "does not accept this process's token"),
        search("b", RAY_AUTH_TOKEN="", HOME=str(tmp_path)): (3, "wants a token, and this proc"),
        search("c", "--address", "127.0.0.1:1"): (3, "no Ray cluster answers at 127.0.0.1:1"),
        search("d", "--gpus-per-worker", "0.5"): (2, "no node has as much: 1 CPU and 0 GPU"),
    }
    for driver, (code, told) in asked.items():
        out, _ = driver.communicate(timeout=PATIENCE_SECONDS)
        assert driver.returncode == code, out
        assert [line for line in out.splitlines() if line.startswith("error: ") and told in line]
        assert "Traceback" not in out
    assert not [name for name in "abcd" if (tmp_path / name).exists()]


def test_driver_outside_of_the_cluster(cluster, drive, done, spec_of, tmp_path):
    """It connects by Ray's client."""
    cluster.start_node()
    engine = {"kind": "ray", "address": f"ray://127.0.0.1:{cluster.client_port}", "workers": 1}
    spec = spec_of().model_copy(update={"engine": type(spec_of().engine).model_validate(engine)})
    (tmp_path / "study.yaml").write_text(spec_yaml(spec), encoding="utf-8")
    driver = drive("search", "study.yaml", "--out", "out")
    out, _ = driver.communicate(timeout=PATIENCE_SECONDS)
    assert driver.returncode == 0, out
    study = Study(tmp_path / "out")
    assert results(study) == results(done)
    assert weights(study) == weights(done)
