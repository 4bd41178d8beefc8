"""A study with other objectives than quality and parameters, from its file to its front."""

import json
from contextlib import closing

import pytest

from autopeft.cli.console import amount
from autopeft.errors import ConfigError
from autopeft.front import front_of
from autopeft.objectives import PARAMS
from autopeft.records import Objective
from autopeft.study.ledger import Ledger
from autopeft.study.planner import words
from autopeft.study.search import run_search

EXACT = ["adapter_bytes", "metric", "trained_params"]


@pytest.fixture(scope="module")
def exact(spec_of, tmp_path_factory):
    """A study of exact costs; to be read only."""
    spec = spec_of(trials=6, objectives=EXACT, methods=["head", "lora", "fish"])
    return run_search(spec, tmp_path_factory.mktemp("exact") / "study")


def test_records_front_and_ledger_have_the_costs(exact):
    for record in exact.records():
        assert list(record.objectives) == ["accuracy", PARAMS, "trained_params", "adapter_bytes"]
    front = exact.front()
    assert list(front.worst) == ["trained_params", "adapter_bytes"]
    costs = dict.fromkeys(front.worst)
    assert front == front_of(exact.records(), "accuracy", "maximize", 1680, words, costs)
    with closing(Ledger(exact.database, n_costs=2)) as ledger:
        trials = ledger._study.get_trials()
        assert len(ledger._study.directions) == 3
    assert [len(trial.values) for trial in trials] == [3] * 6
    assert trials[0].values[1:] == [0.0, 0.0], "the head alone"


def test_study_file_says_what_counts(exact):
    told = json.loads(exact.manifest_file.read_text(encoding="utf-8"))
    assert told["fingerprint"]["objectives"] == {
        "metric": "maximize",
        "trained_params": "minimize",
        "adapter_bytes": "minimize",
    }
    text = exact.spec_file.read_text(encoding="utf-8")
    assert "objectives:\n- metric\n- trained_params\n- adapter_bytes\n" in text


def test_other_objectives_are_another_study(exact, spec_of):
    spec = spec_of(trials=7, methods=["head", "lora", "fish"])
    with pytest.raises(ConfigError, match=r"objectives: was .*adapter_bytes"):
        run_search(spec, exact.folder)


def test_amounts_for_people():
    assert amount(Objective(0.0, "B", None)) == "0 B"
    assert amount(Objective(1536.0, "B", None)) == "1.5 KiB"
    assert amount(Objective(6 * 2.0**30, "B", None)) == "6 GiB"
    assert amount(Objective(12.34, "ms", None)) == "12.3 ms"
    assert amount(Objective(12345.0, "parameters", None)) == "12,345"
