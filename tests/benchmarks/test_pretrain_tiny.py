"""`benchmarks/pretrain_tiny.py`: what it learns from, and that a run that was killed goes on."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def pretrain(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pretrain_tiny

    yield pretrain_tiny
    for name in ("pretrain_tiny", "tiny_text", "common"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "pairs"
    folder.mkdir(parents=True)
    rows = [
        {"source": f"the {i} dogs ran", "target": f"die {i} Hunde", "label": i} for i in range(200)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text)
    (folder / "validation.jsonl").write_text('{"source": "never", "target": "seen"}\n')
    return folder.parent


def run(pretrain, data, out, task="seq2seq", **more):
    """The result of a small run, its checkpoints in `out`."""
    few = {"steps": 6, "batch-size": 4, "width": 16, "layers": 1, "heads": 2, "words": 300}
    few |= {"checkpoint-every": 2, "precision": "fp32"} | more
    told = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    places = ["--data", data, "--out", out, "--results", out / "result.json"]
    pretrain.main([*map(str, places), "--task", task, *told])
    return json.loads((out / "result.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["seq2seq", "causal"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not(
    pretrain, data, tmp_path, monkeypatch, task
):
    whole = run(pretrain, data, tmp_path / "whole", task)
    take = pretrain.Run._take

    def killed(self):
        if self.step == 5:
            raise KeyboardInterrupt
        return take(self)

    with monkeypatch.context() as patched:
        patched.setattr(pretrain.Run, "_take", killed)
        with pytest.raises(KeyboardInterrupt):
            run(pretrain, data, tmp_path / "again", task)
    again = run(pretrain, data, tmp_path / "again", task)
    assert again[task]["curve"] == whole[task]["curve"]
    first, second = (
        torch.load(tmp_path / name / task / "checkpoint.pt")["losses"]
        for name in ("whole", "again")
    )
    assert first == second
    assert len(first) == 6


@pytest.mark.slow
def test_a_run_of_other_options_is_not_continued(pretrain, data, tmp_path):
    run(pretrain, data, tmp_path / "out")
    with pytest.raises(SystemExit, match="other options"):
        run(pretrain, data, tmp_path / "out", steps=8)


@pytest.mark.slow
def test_documents_are_of_the_training_sides_alone_and_words_return(pretrain, data):
    import tiny_text

    rows = tiny_text.rows_of(data)["pairs"]
    assert len(rows) == 200
    texts = tiny_text.documents(rows)
    assert "the 3 dogs ran\ndie 3 Hunde" in texts
    assert not any("never" in text for text in texts)
    tokenizer = tiny_text.tokenizer_of(texts, 300, 32)
    ids = tokenizer("die 3 Hünde \u2603")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "die 3 Hünde \u2603"
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_holes_take_their_share_and_leave_the_rest_in_order(pretrain):
    import tiny_text

    ids, mask = list(range(10, 50)), 4
    for seed in range(20):
        read = tiny_text.infilled(ids, mask, np.random.default_rng(seed))
        left = [i for i in read if i != mask]
        assert left == sorted(left)
        assert left[-1] == ids[-1]
        assert 12 <= len(ids) - len(left) < 12 + 12  # 30 %, and what the last span goes beyond
        places = [i for i, token in enumerate(read) if token == mask]
        assert all(b - a > 1 for a, b in pairwise(places))


@pytest.mark.slow
def test_an_epoch_has_every_document_at_most_once(pretrain):
    import tiny_text

    lengths = [i % 17 for i in range(1003)]
    batches = tiny_text.plan(lengths, 8, seed=0, epoch=1)
    assert len(batches) == 1003 // 8
    chosen = [i for batch in batches for i in batch]
    assert len(set(chosen)) == len(chosen)
    assert batches != tiny_text.plan(lengths, 8, seed=0, epoch=2)
