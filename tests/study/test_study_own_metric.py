"""A study that maximises a function of its user."""

import pytest

from autopeft.cli.study_flags import merge
from autopeft.engines.ray.files import moved, roots_of
from autopeft.errors import ConfigError, MetricError, TooManyFailuresError
from autopeft.export.winner import winner_of
from autopeft.study.folder import Study
from autopeft.study.search import run_search
from autopeft.study.unseen import open_test

CODE = """
def recall(predictions, references):
    found = [p for p, r in zip(predictions, references) if r == "good"]
    return {"recall": found.count("good") / len(found), "rows": len(references)}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def test_function_is_what_is_searched_and_another_file_is_another_study(spec_of, tmp_path, file):
    spec = spec_of(metric="my.py:recall", trials=2, cache=True)
    study = run_search(spec, tmp_path / "study", base=tmp_path)
    records = study.records()
    front = study.front()
    assert front.metric == "my.py:recall"
    for record in records:
        assert list(record.metrics)[:2] == ["my.py:recall", "my.py:recall.rows"]
        assert record.row_scores.values().mean() == pytest.approx(
            record.metrics["my.py:recall"].value
        )
    assert open_test(study).metric == "my.py:recall"
    file.write_text(CODE + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="metric_sha256: was"):
        run_search(spec, tmp_path / "study", base=tmp_path)
    with pytest.raises(ConfigError, match="the metric's file has changed"):
        open_test(study)
    with pytest.raises(ConfigError, match="the metric's file has changed"):
        winner_of(study, "best")
    again = run_search(spec, tmp_path / "again", base=tmp_path)
    assert not any(record.cached for record in again.records())


def test_failure_on_what_a_trial_predicts_is_told_in_its_record(spec_of, tmp_path, file):
    code = CODE.replace(
        "    return", "    if predictions != references: raise ValueError('odd')\n    return"
    )
    file.write_text(code, encoding="utf-8")
    with pytest.raises(TooManyFailuresError, match="all 2 trials failed"):
        run_search(spec_of(metric="my.py:recall", trials=2), tmp_path / "study", base=tmp_path)
    failures = [record.failure for record in Study(tmp_path / "study").records()]
    assert {failure.kind for failure in failures} == {"error"}
    assert "my.py:recall` fails on 24 rows: ValueError: odd (my.py:4)" in failures[0].message


def test_function_that_fails_on_what_is_right_ends_the_search_before_a_trial(
    spec_of, tmp_path, file
):
    file.write_text("def recall(p, r): return p[0]", encoding="utf-8")
    with pytest.raises(MetricError, match="returned 'good'; it has to be a finite number"):
        run_search(spec_of(metric="my.py:recall"), tmp_path / "study", base=tmp_path)


def test_flag_is_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"train": "train.jsonl"}
    flags = {("model",): "m", ("metric",): "my.py:fn", ("data",): data}
    assert merge(None, flags, None).metric == f"{tmp_path}/my.py:fn"


def test_file_travels_to_another_machine(spec_of, tmp_path, file):
    work = spec_of(metric="my.py:recall").resolved(tmp_path).work
    assert str(file) in roots_of(work)
    there = moved(work, {str(file): tmp_path / "there" / "my.py"})
    assert there.metric == f"{tmp_path}/there/my.py:recall"
