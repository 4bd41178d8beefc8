"""What makes the measurements of two workers differ."""

import pytest

from autopeft.engines.inline import InlineEngine
from autopeft.engines.local import LocalEngine
from autopeft.engines.work import Facts


@pytest.fixture(scope="module")
def facts(spec_of):
    return InlineEngine(spec_of().work).load()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model_hash": "0" * 64}, "another model"),
        ({"reading_hash": "0" * 64}, "another model"),
        ({"model_shape": {}}, "another model"),
        ({"head_hash": "0" * 64}, "another model"),
        ({"data_hash": "0" * 64}, "other rows"),
        ({"labels": ("good", "bad")}, "other rows"),
        ({"metric_hash": "0" * 64}, "another file of the metric"),
        ({"n_devices": 8, "notes": ("a note",)}, None),
    ],
)
def test_what_differs_is_told(facts, changed, told):
    assert facts.differs_from(facts) is None
    assert facts.model_copy(update=changed).differs_from(facts) == told


def test_modules_of_the_current_folder_are_not_those_of_a_worker(
    facts, spec_of, tmp_path, monkeypatch
):
    for name in ("multiprocessing", "transformers"):  # of the warden, and of the worker
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    engine = LocalEngine(spec_of().work, workers=1)
    try:
        assert engine.load().differs_from(facts) is None
    finally:
        engine.close()


@pytest.mark.parametrize(("selection_rows", "sizes"), [(None, [9] * 5), (12, [12]), (0, [])])
def test_rows_of_one_answer_are_those_of_the_final_selection(spec_of, selection_rows, sizes):
    spec = spec_of()
    data = spec.data.model_copy(update={"selection_rows": selection_rows})
    facts = InlineEngine(spec.model_copy(update={"data": data}).work).load()
    assert [len(rows.values()) for rows in facts.constant_rows] == sizes
    assert all(rows.values().mean() >= 0.5 for rows in facts.constant_rows), "of two classes"
    again = Facts.model_validate_json(facts.model_dump_json())
    assert again == facts
