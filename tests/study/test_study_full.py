"""A study with full fine-tuning among the baselines of its final selection."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from autopeft.advice import Advice
from autopeft.cli.selected import show_selection
from autopeft.dashboard.info import study_info
from autopeft.errors import ConfigError, DataError
from autopeft.export.run import export
from autopeft.front import front_of
from autopeft.selection_file import selection_from_dict
from autopeft.space.costs import CostModel, Linear
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.shipped import load_space
from autopeft.study.manifest import read_manifest
from autopeft.study.planner import words
from autopeft.study.prepare import prepare
from autopeft.study.search import run_search
from autopeft.study.setup import set_up
from autopeft.study.single import train_one
from autopeft.study.starting import FULL_RATES
from autopeft.study.unseen import open_test

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "selection.schema.json"


@pytest.fixture(scope="module")
def spec(spec_of):
    """Nine trials, and four contenders with two seeds each."""
    selection = {"seeds": 2, "share": 0.9}
    return spec_of(trials=9, full_finetune=True, selection=selection, training={"cohort": 3})


@pytest.fixture(scope="module")
def study(spec, tmp_path_factory):
    """To be read only."""
    return run_search(spec, tmp_path_factory.mktemp("full") / "study")


def searched(study):
    return [record for record in study.records() if record.is_first]


def full(study):
    return [record for record in study.records() if record.is_full]


def test_it_is_tuned_and_takes_slots_like_any_method(study):
    tried = [record for record in searched(study) if record.is_full]
    assert [record.trial for record in tried] == [2, 3, 4]
    rates = [record.genotype["training"]["learning_rate"] for record in tried]
    assert tuple(rates) == FULL_RATES
    n_params = read_manifest(study.manifest_file).model["backbone_params"]
    for record in full(study):
        assert (record.trainable_params, record.fraction) == (n_params, 1.0)
        assert (record.weights, record.precision, record.cohort) == (None, "fp32", (record.trial,))
        assert words(record.genotype) == "full fine-tuning"


def test_it_is_left_out_if_it_takes_too_much_memory(spec, study, tmp_path):
    facts = prepare(spec, tmp_path).facts
    costs = CostModel(1000, 1.0, Linear(0.0, 0.0, {}))
    tuned = genotype_from_dict(full(study)[0].genotype)
    needed = int(costs.memory_bytes(tuned, facts.shape))

    def tried(max_memory, costs):
        budget = spec.budget.model_copy(update={"max_memory": max_memory})
        limited = spec.model_copy(update={"budget": budget})
        setup = set_up(limited, load_space("unified"), facts, None, costs)
        told = any(note.startswith("full fine-tuning is left out") for note in setup.notes)
        return sum(start.genotype.full for start in setup.starts.first), told

    assert tried(needed, costs) == (len(FULL_RATES), False)
    assert tried(needed - 1, costs) == (0, True)
    assert tried(needed - 1, None) == (len(FULL_RATES), False), "before it can be predicted"


def test_it_is_a_contender_and_nothing_else(study):
    selection = study.selection()
    roles = {item.trial: item.role for item in selection.contenders}
    (trial,) = [trial for trial, role in roles.items() if role == "full"]
    best = max(r.metrics["accuracy"].value for r in searched(study) if r.is_full)
    assert selection.contender(trial).search_quality == best
    assert selection.recommended != trial
    assert trial not in {item.trial for item in selection.comparisons}
    assert not {2, 3, 4} & {point.trial for point in study.front().points}
    n_params = selection.contender(trial).trainable_params
    assert f"Full fine-tuning, {n_params:,} parameters, comes to" in selection.verdict
    written = json.loads(study.selection_file.read_text(encoding="utf-8"))
    assert selection_from_dict(written) == selection
    Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(written)


def test_no_budget_lets_it_onto_the_front(study):
    front = front_of(study.records(), "accuracy", "maximize", 10**9, words)
    assert front.points
    assert not {2, 3, 4} & {point.trial for point in front.points}


def test_trials_after_it_find_the_backbone_as_it_was(study, spec, tmp_path):
    later = searched(study)[-1]
    assert later.trial > max(record.trial for record in full(study))
    alone = train_one(spec, genotype_from_dict(later.genotype), tmp_path / "alone")
    assert (alone.seed, alone.metrics, alone.row_scores) == (
        later.seed,
        later.metrics,
        later.row_scores,
    )
    assert alone.weights_sha256 == later.weights_sha256


def test_people_see_it_as_a_baseline(study, capsys):
    show_selection(study.selection(), Advice(None))
    shown = capsys.readouterr().out
    assert "all weights" in shown
    assert "Full fine-tuning" in shown
    info = study_info(study)
    told = {trial.trial: (trial.method, trial.state) for trial in info.trials}
    assert [told[trial] for trial in (2, 3, 4)] == [("full fine-tuning", "over budget")] * 3
    assert "Full fine-tuning" in " ".join(info.verdict.points)
    assert {test.role for test in open_test(study).results} <= {
        "recommended",
        "tuned LoRA",
        "head only",
    }
    with pytest.raises(DataError, match="weights of trial 3 are not kept"):
        export(study, how="3", target="native", out=study.folder / "export", command="")


def test_it_is_shared_between_studies(spec, tmp_path):
    shared = spec.model_copy(update={"cache": True, "budget": _shorter(spec, 4)})
    one, two = (run_search(shared, tmp_path / name) for name in ("one", "two"))
    assert [bool(record.cached) for record in full(one)] == [False, False]
    assert [bool(record.cached) for record in full(two)] == [True, True]
    assert [r.metrics for r in full(two)] == [r.metrics for r in full(one)]


def _shorter(spec, trials):
    return spec.budget.model_copy(update={"trials": trials})


def test_it_makes_another_study_and_needs_a_selection(study, spec, spec_of):
    with pytest.raises(ConfigError, match=r"full_finetune: was true, is now null"):
        run_search(spec.model_copy(update={"full_finetune": False}), study.folder)
    with pytest.raises(ValidationError, match="has none"):
        spec_of(full_finetune=True)
