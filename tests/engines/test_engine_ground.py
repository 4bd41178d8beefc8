"""What is loaded, and what is told of it."""

import pytest
from study_factory import ROWS, write_jsonl
from tiny import N_POSITIONS
from tiny_language import kind_of, texts, writing_backbone

from autopeft.engines import ground
from autopeft.engines.ground import load_ground
from autopeft.engines.outlined import outlined
from autopeft.errors import ConfigError


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


@pytest.mark.parametrize(
    ("family", "most"),
    [("gpt2", N_POSITIONS - 16), ("llama", N_POSITIONS - 16), ("bart", N_POSITIONS), ("t5", None)],
)
def test_no_more_is_written_than_there_are_positions_for(spec_of, tmp_path, family, most):
    backbone = writing_backbone(family)
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    rows = texts(4)
    pairs = zip(rows.texts, rows.labels, strict=True)
    told = [{"source": read, "target": answer} for (read,), answer in pairs]
    file = str(write_jsonl(tmp_path / "rows.jsonl", told))

    def work(n_new):
        return spec_of(
            model=str(tmp_path),
            task=kind_of(family),
            metric="exact_match",
            data={"train": file, "validation": file},
            training={"max_length": 16},
            generation={"max_target_length": 8, "max_new_tokens": n_new},
        ).work

    for look in (load_ground, outlined):
        look(work(most or 500))
        if most is not None:
            with pytest.raises(
                ConfigError, match=f"max_new_tokens: .* positions for; at most {most}"
            ):
                look(work(most + 1))
