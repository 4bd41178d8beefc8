"""A study that tags words, from rows to the test split."""

import json
from dataclasses import replace

import pytest
from command_line import run
from study_factory import BAD, GOOD, rows_of, write_jsonl

from autopeft.export.winner import winner_of
from autopeft.front_file import write_front
from autopeft.study.search import run_search
from autopeft.study.unseen import open_test

__all__ = ["run"]


@pytest.fixture
def data(tmp_path):
    """Rows whose good and bad words begin spans."""
    files = {}
    for seed, (name, n_rows) in enumerate({"train": 48, "validation": 24, "test": 20}.items()):
        words = [row["text"].split() for row in rows_of(n_rows, seed)]
        tags = {**dict.fromkeys(GOOD, "B-GOOD"), **dict.fromkeys(BAD, "B-BAD")}
        rows = [{"tokens": row, "tags": [tags.get(w, "O") for w in row]} for row in words]
        files[name] = str(write_jsonl(tmp_path / f"{name}.jsonl", rows))
    return files


def test_words_are_tagged_from_rows_to_the_test_split(spec_of, data, tmp_path):
    spec = spec_of(task="token_classification", data=data, trials=3, training={"epochs": 4})
    study = run_search(spec, tmp_path / "study")
    front = study.front()
    assert front.metric == "span_f1"
    for record in study.records():
        assert list(record.metrics) == ["span_f1", "accuracy"]
        scores = record.row_scores.values()
        assert len(scores) == 24
        assert scores.mean() == pytest.approx(record.metrics["span_f1"].value)
    write_front(study.folder, replace(front, recommended=front.points[-1].trial))
    opening = open_test(study)
    assert (opening.metric, opening.rows) == ("span_f1", 20)
    winner = winner_of(study, "best")
    assert winner.score(winner.logits) == pytest.approx(winner.record.metrics["span_f1"].value)


def test_words_behind_the_cut_of_the_test_rows_are_told(spec_of, data, tmp_path, run):
    rows = [{"tokens": ["good", "plot"], "tags": ["B-GOOD", "O"]}] * 4
    rows += [{"tokens": ["plot"] * 12, "tags": ["O"] * 12}]
    data = {**data, "test": str(write_jsonl(tmp_path / "long.jsonl", rows))}
    spec = spec_of(task="token_classification", data=data, trials=1, training={"max_length": 10})
    study = run_search(spec, tmp_path / "study")
    note = "20.0 % of the test rows are cut at 10 tokens; the words behind the cut, 20.0 % of all, "
    note += "count as wrong"
    opening = open_test(study)
    assert opening.notes == (note,)
    (ledger,) = json.loads(study.test_file.read_text(encoding="utf-8"))["openings"]
    assert ledger["notes"] == [note]
    _, _, err = run("test", study.folder)
    assert err.splitlines()[0] == f"note: {note}"


def test_two_columns_of_words_are_refused(spec_of, data):
    with pytest.raises(ValueError, match="one column, of lists of words"):
        spec_of(task="token_classification", data={**data, "text": ["a", "b"]})
