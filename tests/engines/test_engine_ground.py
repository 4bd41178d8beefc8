"""What is loaded, and what is told of it."""

import json

import pytest
from study_factory import ROWS, write_jsonl
from tiny import N_POSITIONS
from tiny_language import kind_of, texts, writing_backbone

from autopeft.engines import ground
from autopeft.engines.ground import load_ground
from autopeft.engines.outlined import outlined
from autopeft.errors import ConfigError, DataError


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


@pytest.fixture
def writing(spec_of, tmp_path):
    """A study of a tiny model that writes, by its family and what is in its configuration."""

    def work(family, **config):
        backbone, rows = writing_backbone(family), texts(4)
        backbone.model.save_pretrained(tmp_path)
        backbone.tokenizer.save_pretrained(tmp_path)
        for name, told in config.items():
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | told))
        pairs = zip(rows.texts, rows.labels, strict=True)
        told = [{"source": read, "target": answer} for (read,), answer in pairs]
        file = str(write_jsonl(tmp_path / "rows.jsonl", told))
        return spec_of(
            model=str(tmp_path),
            task=kind_of(family),
            metric="exact_match",
            data={"train": file, "validation": file},
            training={"max_length": 16},
            generation={"max_target_length": 8},
        ).work

    return work


@pytest.mark.parametrize("family", ["bart", "t5"])
@pytest.mark.parametrize("look", [load_ground, outlined])
def test_model_that_does_not_say_how_an_answer_begins_is_refused(writing, family, look):
    work = writing(family, config={"decoder_start_token_id": None})
    with pytest.raises(DataError, match=r"which token an answer begins with, .*config\.json"):
        look(work)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_answers_that_no_tokens_can_write_are_refused(writing, family):
    work = writing(family)
    rows = [{"source": f"w{i} w4", "target": f"w{i} Rome"} for i in range(3, 7)]
    write_jsonl(work.data.validation, rows)
    with pytest.raises(ConfigError, match="4 of 4 come out as others, as 'w3 Rome' becomes 'w3'"):
        load_ground(work)


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        ({"eos_token_id": [2, 5]}, True),
        ({"forced_bos_token_id": 7}, True),
        ({"suppress_tokens": [7]}, True),
        ({"repetition_penalty": 3.0, "min_length": 9}, False),
        ({"temperature": 0.7, "do_sample": True}, False),
    ],
)
def test_tokens_of_writing_are_part_of_what_a_model_is(writing, told, changes):
    plain = load_ground(writing("bart"))
    other = load_ground(writing("bart", generation_config=told))
    assert (plain.reading_hash != other.reading_hash) == changes
    assert (plain.backbone.configuration != other.backbone.configuration) == changes


@pytest.mark.parametrize(
    ("family", "most"),
    [("gpt2", N_POSITIONS - 16), ("llama", N_POSITIONS - 16), ("bart", N_POSITIONS), ("t5", None)],
)
def test_no_more_is_written_than_there_are_positions_for(writing, family, most):
    plain = writing(family)

    def work(n_new):
        generation = plain.generation.model_copy(update={"max_new_tokens": n_new})
        return plain.model_copy(update={"generation": generation})

    for look in (load_ground, outlined):
        look(work(most or 500))
        if most is not None:
            with pytest.raises(
                ConfigError, match=f"max_new_tokens: .* positions for; at most {most}"
            ):
                look(work(most + 1))
