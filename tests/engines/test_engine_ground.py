"""What is loaded, and what is told of it."""

import pytest
from study_factory import ROWS, write_jsonl

from autopeft.engines import ground
from autopeft.engines.ground import load_ground


def test_memory_that_tokenizers_took_is_released(spec_of, monkeypatch):
    done = []
    encode_for = ground.encode_for
    monkeypatch.setattr(ground, "encode_for", lambda *what: done.append(1) or encode_for(*what))
    monkeypatch.setattr(ground, "release_memory", lambda: done.append(0))
    load_ground(spec_of().work)
    assert done == [1, 1, 0]


@pytest.mark.parametrize("split", ["train", "validation", "selection"])
def test_rows_that_are_cut_are_told(spec_of, data_folder, tmp_path, split):
    data = {name: str(data_folder / f"{name}.jsonl") for name in ROWS}
    rows = [{"text": "good plot", "label": "good"}] * 3 + [{"text": "bad " * 9, "label": "bad"}]
    data[split] = str(write_jsonl(tmp_path / "some.jsonl", rows))
    notes = load_ground(spec_of(data=data, training={"max_length": 10}).work).notes
    told = [note for note in notes if "are cut" in note]
    assert told == [f"25.0 % of the {split} rows are cut at 10 tokens"]


@pytest.mark.parametrize(
    ("split", "what"), [("train", "are not learnt"), ("validation", "count as wrong")]
)
def test_words_behind_the_cut_are_told(spec_of, tmp_path, split, what):
    short = [{"tokens": ["good", "plot"], "tags": ["B-X", "O"]}] * 4
    long = [{"tokens": ["plot"] * 12, "tags": ["O"] * 12}]
    data = {
        name: str(write_jsonl(tmp_path / f"{name}.jsonl", short + long * (name == split)))
        for name in ("train", "validation")
    }
    spec = spec_of(task="token_classification", data=data, training={"max_length": 10})
    told = f"the words behind the cut, 20.0 % of all, {what}"  # 4 of 20
    assert (
        f"20.0 % of the {split} rows are cut at 10 tokens; {told}" in load_ground(spec.work).notes
    )
