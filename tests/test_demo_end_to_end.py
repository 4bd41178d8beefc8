"""The main job as a new user runs it: `autopeft demo`, from nothing to an answer on unseen rows."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_ends_in_a_front_whose_recommendation_beats_the_head_alone(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    ran = subprocess.run(
        [sys.executable, "-m", "autopeft", "demo", "--out", "demo", "--format", "json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    front = json.loads(ran.stdout)
    assert len(front["points"]) >= 3
    (opening,) = json.loads((tmp_path / "demo" / "test.json").read_text())["openings"]
    scores = {r["role"]: r["metrics"]["accuracy"] for r in opening["results"]}
    assert opening["rows"] == 1000
    best, head = scores["recommended"], scores["head only"]
    assert best["value"] > head["value"] + 2 * head["stderr"]
