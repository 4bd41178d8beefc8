"""Malformed study and data files, generated: no traceback, the right code, file and line named."""

import json
import random
import re

import pytest
from study_factory import rows_of, write_data

GOOD = """\
model: model
task: classification
data: {train: data/train.jsonl}
metric: accuracy
space: unified
methods: [head, lora]
budget: {max_params: 30%, trials: 2}
training: {epochs: 1, max_length: 16}
sampler: tpe
engine: {workers: 0}
seed: 0
"""
BAD_VALUES = (
    *("seed: -1", "seed: 1.5", "seed: soon", "seed: [0]", "seed: .nan", "seed: 1e999", "seed:"),
    *("budget: 3", "budget: {trials: 0}", "budget: {max_params: -1%}", "budget: {time: soon}"),
    *("training: {epochs: 0}", "training: {clip: .inf}", "training: {cohort: some}"),
    *("sampler: guess", "metric: beauty", "task: poetry", "methods: [nothing]", "model: ''"),
    *("data: {train: a.csv, hub: b}", "data: [1]", "engine: {workers: -1}", "engine: {gpus: 2}"),
    *("engine: {trial_timeout: 0}", "storage: mysql://x", "budget: {trials: 1000001}"),
)


def bad_yaml(rng):
    """A study file that is none, by a random change of a good one."""
    lines = GOOD.splitlines()
    at = rng.randrange(len(lines))
    kind = rng.randrange(7)
    if kind == 0:
        bad = rng.choice(BAD_VALUES)
        key = bad.split(":")[0]
        lines = [line for line in lines if not line.startswith(f"{key}:")]
        lines.insert(rng.randrange(len(lines) + 1), bad)
    elif kind == 1:
        lines.insert(at, f"{''.join(rng.choices('abcxyz', k=9))}: {rng.random()}")
    elif kind == 2:
        lines.append(lines[at])
    elif kind == 3:
        lines.insert(at, rng.choice(["\tseed: 1", "x: [1, 2", "y: {a: 1", "z: 'open", "]: 3"]))
    elif kind == 4:
        lines.insert(at, rng.choice(["x: &a 1", "x: !!python/name:os.system 1", "x: *a"]))
    elif kind == 5:
        lines.insert(at, "x: " + "[" * rng.randrange(60, 5000))
    else:
        raw = "\n".join(lines).encode()
        cut = rng.randrange(len(raw))
        return raw[:cut] + bytes([rng.randrange(0x80, 0xC0)]) + raw[cut:]
    return ("\n".join(lines) + "\n").encode()


def bad_rows(rng):
    """Training rows one of which is none, and its line."""
    lines = [json.dumps(row).encode() for row in rows_of(20, rng.randrange(1000))]
    at = rng.randrange(len(lines))
    row = json.loads(lines[at])
    kind = rng.randrange(7)
    if kind == 0:
        lines[at] = lines[at][: rng.randrange(1, len(lines[at]) - 1)]
    elif kind == 1:
        row.pop(rng.choice(["text", "label"]))
        lines[at] = json.dumps(row).encode()
    elif kind == 2:
        row["text"] = rng.choice([None, 3, ["a"], {"b": 1}, True])
        lines[at] = json.dumps(row).encode()
    elif kind == 3:
        row["label"] = rng.choice([None, [1], {"b": 1}])
        lines[at] = json.dumps(row).encode()
    elif kind == 4:
        lines[at] = rng.choice([b"[1, 2]", b"3", b'"text"', b"null"])
    elif kind == 5:
        cut = rng.randrange(2, len(lines[at]) - 2)
        lines[at] = lines[at][:cut] + b"\xff" + lines[at][cut:]
    else:
        lines[at] = b"[" * 100_000
    return b"\n".join(lines) + b"\n", at + 1


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    write_data(tmp_path / "data")
    (tmp_path / "study.yaml").write_text(GOOD, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_malformed_study_files(run, folder):
    rng = random.Random(0)
    for _ in range(200):
        content = bad_yaml(rng)
        (folder / "study.yaml").write_bytes(content)
        code, out, err = run("search", "study.yaml", "--out", "out")
        assert (code, out) == (2, ""), (content, err)
        assert re.search(r"study\.yaml(:\d+)?: ", err), (content, err)
        assert "Traceback" not in err
        assert not (folder / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_malformed_data_files(run, folder):
    rng = random.Random(0)
    for _ in range(200):
        content, line = bad_rows(rng)
        (folder / "data" / "train.jsonl").write_bytes(content)
        code, out, err = run("search", "study.yaml", "--out", "out")
        assert (code, out) == (3, ""), (content, err)
        assert f"data/train.jsonl:{line}: " in err, (content, err)
        assert "Traceback" not in err
        assert not (folder / "out").exists()
