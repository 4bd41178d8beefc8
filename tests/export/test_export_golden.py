"""A folder that an earlier version wrote is loaded by this one."""

import json
from pathlib import Path

import torch

import autopeft
from autopeft.export import reload

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_first_version_still_loads():
    model, tokenizer = autopeft.load(GOLDEN / "export", backbone=GOLDEN / "backbone")
    told = json.loads((GOLDEN / "export" / "expected.json").read_text(encoding="utf-8"))
    question = {"texts": told["texts"], "max_length": 16, "batch_size": 8}
    found = reload.outputs(model, tokenizer, question)
    torch.testing.assert_close(found, torch.tensor(told["logits"]), rtol=1e-5, atol=1e-5)
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert (found[0] - found[1]).abs().max() > 1e-2


def test_it_is_small():
    files = [path for name in ("export", "backbone") for path in (GOLDEN / name).iterdir()]
    assert 0 < sum(path.stat().st_size for path in files) < 200_000
