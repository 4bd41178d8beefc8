"""A search with rungs and a final selection, whole and interrupted."""

import contextlib
import math
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from study_factory import ledger_states, record_files, results, weights

from autopeft.engines import workbench
from autopeft.engines.workbench import Workbench
from autopeft.front import front_of, points_of
from autopeft.record_files import read_jsonl
from autopeft.records import Metric
from autopeft.study import rungs
from autopeft.study.contenders import contenders, kind_of
from autopeft.study.driver import Driver
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.jobs import read_jobs
from autopeft.study.ledger import Ledger
from autopeft.study.manifest import read_manifest
from autopeft.study.planner import words
from autopeft.study.promote import Standing, promotions
from autopeft.study.search import run_search

STEPS = (2, 3, 6)
"""Of rungs with reduction 2 in six steps: 1.5 is rounded to the even number."""


@pytest.fixture(autouse=True)
def _small_studies_have_rungs(monkeypatch):
    monkeypatch.setattr(rungs, "FEWEST_TRIALS", 8)


@pytest.fixture(scope="module")
def laddered(spec_of):
    """A study of 12 trials with rungs and a selection of at most three contenders."""

    def make(trials=12, **more):
        values = {
            "methods": ["head", "lora", "bitfit"],
            "rungs": 3,
            "reduction": 2,
            "selection": {"seeds": 2, "share": 0.6},
            "training": {"epochs": 2, "cohort": 3},
        }
        return spec_of(trials=trials, **(values | more))

    return make


@pytest.fixture(scope="module")
def whole(laddered, tmp_path_factory):
    """The study, run at once; to be read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rungs, "FEWEST_TRIALS", 8)
        return run_search(laddered(), tmp_path_factory.mktemp("whole") / "study")


def searched(study):
    return [record for record in study.records() if not record.replicate]


def standing(record):
    values = (-record.metrics["accuracy"].value, math.log10(1 + record.trainable_params))
    baseline = kind_of(record.genotype) == "lora"
    return Standing(record.trial, record.rung, record.trainable_params, values, baseline=baseline)


def test_promotions_are_those_of_the_rule(whole):
    assert read_manifest(whole.manifest_file).rung_steps == STEPS
    records = searched(whole)
    assert [record.steps for record in records] == [STEPS[record.rung] for record in records]
    standings = [standing(record) for record in records]
    promoted = promotions(standings, trials=12, rungs=3, reduction=2)
    for rung, there in enumerate(promoted, 1):
        assert there, "or this tests nothing"
        assert sorted(r.trial for r in records if r.rung == rung) == sorted(there)
    assert sorted(r.trial for r in records if r.rung == 0) == list(range(12))


def test_the_best_lora_goes_on_though_it_is_dominated(laddered, tmp_path, monkeypatch):
    """Where the head alone, which costs nothing, is better than all LoRA."""
    record_of = workbench.record_of

    def poor(job, trial, *, metrics, **more):
        if trial.genotype.is_lora:
            worse = {"value": metrics["accuracy"].value / 10 - 1}
            metrics = {**metrics, "accuracy": replace(metrics["accuracy"], **worse)}
        return record_of(job, trial, metrics=metrics, **more)

    monkeypatch.setattr(workbench, "record_of", poor)
    records = searched(run_search(laddered(selection={"seeds": 0}), tmp_path / "study"))
    lowest = [replace(standing(r), baseline=False) for r in records if r.rung == 0]
    plain = promotions(lowest, trials=12, rungs=3, reduction=2)
    (best,) = {r.trial for r in records if r.rung == 1} - {*plain[0]}
    assert {kind_of(r.genotype) for r in records if r.trial == best} == {"lora"}
    assert {r.rung for r in records if r.trial == best} == {0, 1, 2}


def test_ledger_completes_the_top_and_prunes_the_rest(whole):
    top = {record.trial for record in searched(whole) if record.rung == 2}
    expected = ["COMPLETE" if trial in top else "PRUNED" for trial in range(12)]
    assert ledger_states(whole) == expected


def curves(study):
    """By trial, what its rungs have measured, by their steps."""
    found = {}
    for record in searched(study):
        found.setdefault(record.trial, {})[record.steps] = record.metrics["accuracy"].value
    return found


def test_tools_of_optuna_see_what_rungs_have_measured(whole):
    with contextlib.closing(Ledger(whole.database)) as ledger:
        plot = optuna.visualization.plot_intermediate_values(ledger._study)
        stored = ledger._study.get_trials()
    expected = curves(whole)
    assert [trial.intermediate_values for trial in stored] == [expected[n] for n in range(12)]
    assert {len(trial.values or ()) for trial in stored} == {0, 2}, "pruned ones have no objectives"
    drawn = {line.name: dict(zip(line.x, line.y, strict=True)) for line in plot.data}
    assert drawn == {f"Trial{number}": curve for number, curve in expected.items()}


def test_states_of_the_paused_are_kept_and_no_others(whole):
    tops = Counter()
    for record in searched(whole):
        tops[record.trial] = max(tops[record.trial], record.rung)
    found = {path.name for path in (whole.folder / "paused").iterdir()}
    assert found == {f"{t:06d}-{rung}.safetensors" for t, rung in tops.items() if rung < 2}


def test_selection_is_on_unseen_rows_with_fresh_seeds(whole):
    found = whole.selection()
    assert found is not None
    assert 2 <= len(found.contenders) <= 3
    assert {item.seeds for item in found.contenders} == {2}
    assert {item.role for item in found.contenders} >= {"lora"}
    again = [record for record in whole.records() if record.replicate]
    assert {record.split for record in again} == {"fold"}
    assert {record.steps for record in again} == {6}, "38 rows in batches of 16, twice"
    seeds = {record.trial: record.seed for record in searched(whole)}
    fresh = {(record.trial, record.seed) for record in again}
    assert len(fresh) == len(again)
    assert all(seeds[trial] != seed for trial, seed in fresh)
    for item in found.contenders:
        own = [r.metrics["accuracy"].value for r in again if r.trial == item.trial]
        assert item.quality == pytest.approx(sum(own) / 2)
    assert found.rows == 18, "nine rows left out of 48, twice"


def test_front_and_weights_are_those_of_the_search(whole):
    """And of contenders, whose fresh seeds have had a part of the rows alone, by folds."""
    front = whole.front()
    records = searched(whole)
    assert front == front_of(records, "accuracy", "maximize", 1680, words)
    tops = {record.trial: record for record in records}
    points = points_of(records, "accuracy", 1680)
    wanted = {point.trial for point in front.points} | contenders(points, front, 99).keys()
    assert len(wanted) < len(tops), "or this tests nothing"
    kept = {tops[trial].weights for trial in wanted}
    assert {f"weights/{name}" for name in weights(whole)} == kept
    assert read_jsonl(whole.folder / "records.jsonl") == whole.records()


def test_what_a_trial_beat_that_fell_later_has_weights(laddered, tmp_path, monkeypatch):
    """The head, which costs nothing, beats everything at the lowest rung, and nothing above.

    What is beaten at the end by trials that are paused has none.
    """
    take = Driver.take

    def flattered(driver, record):
        lowest = {0: 1.0, 9: 0.001}.get(record.trial, record.trainable_params / 2000)
        quality = Metric(0.0 if record.rung else lowest, 0.01)
        take(driver, replace(record, metrics={"accuracy": quality}))

    monkeypatch.setattr(Driver, "take", flattered)
    study = run_search(laddered(selection={"seeds": 0}), tmp_path / "study")
    front, tops = study.front(), {record.trial: record for record in searched(study)}
    assert tops[0].rung > 0
    assert any(tops[point.trial].rung == 0 for point in front.points), "or this tests nothing"
    kept = {tops[point.trial].weights for point in front.points}
    assert {f"weights/{name}" for name in weights(study)} == kept


def test_what_the_best_lora_beat_has_weights_when_that_falls(laddered, tmp_path, monkeypatch):
    """Folds hand over what the search has trained, and whoever is the best may be chosen."""
    take, loras = Driver.take, []

    def flattered(driver, record):
        kind, changes = kind_of(record.genotype), {}
        if not record.replicate:
            if kind == "lora" and not record.rung:
                loras.append(record.trial)
            first = loras[:1] == [record.trial]
            quality = {"head": 0.9, "lora": 0.5 - record.trial / 100}.get(kind or "", 0.1)
            quality = float(record.rung < len(STEPS) - 1) if first else quality
            changes = {"metrics": {"accuracy": Metric(quality, 0.01)}}
        take(driver, replace(record, **changes))

    monkeypatch.setattr(Driver, "take", flattered)
    alone = {"epochs": 2, "cohort": 1}  # so that the head is at the top while LoRA is not yet
    study = run_search(laddered(training=alone), tmp_path / "study")
    tops = {record.trial: record for record in searched(study)}
    assert tops[loras[0]].rung == len(STEPS) - 1
    (chosen,) = (c.trial for c in study.selection().contenders if c.role == "lora")
    assert chosen == loras[1]
    assert chosen not in {point.trial for point in study.front().points}
    assert tops[chosen].rung == 0, "it was beaten when it was measured"
    assert Path(tops[chosen].weights).name in weights(study)


class Stop(Silent):
    """Presses Ctrl-C once so many records have come."""

    def __init__(self, records):
        self.left = records

    def measured(self, record, summary, front):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [13, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 21))])
def test_interrupted_search_ends_as_the_uninterrupted_one(whole, laddered, tmp_path, after):
    folder = tmp_path / "study"
    with pytest.raises(KeyboardInterrupt):
        run_search(laddered(), folder, watcher=Stop(after))
    before = record_files(Study(folder))
    assert len(before) == after < len(record_files(whole))
    study = run_search(laddered(), folder)
    after_files = record_files(study)
    assert {name: after_files[name] for name in before} == before
    assert results(study) == results(whole)
    assert weights(study) == weights(whole)
    assert study.front() == whole.front()
    assert study.selection() == whole.selection()
    assert ledger_states(study) == ledger_states(whole)


def test_states_that_are_lost_are_trained_again(whole, laddered, tmp_path):
    """A trial without its paused state starts anew, and comes to the same."""
    folder = tmp_path / "study"
    with pytest.raises(KeyboardInterrupt):
        run_search(laddered(), folder, watcher=Stop(12))
    for path in (folder / "paused").iterdir():
        path.unlink()
    assert results(run_search(laddered(), folder)) == results(whole)


def test_going_on_from_a_rung_does_not_start_anew(laddered, tmp_path, monkeypatch):
    """The steps that are trained are those between the rungs."""
    seen = []
    run = Workbench.run

    def watched(self, job, wanted, progress):
        steps = []
        yield from run(self, job, wanted, lambda step, _: steps.append(step))
        seen.append((job.rung, *sorted(set(steps) - {0})))

    monkeypatch.setattr(Workbench, "run", watched)
    run_search(laddered(selection={"seeds": 0}), tmp_path / "study")
    assert set(seen) == {(0, 1, 2), (1, 3), (2, 4, 5, 6)}


def test_longer_search_goes_on_and_names_whom_it_continues(laddered, tmp_path):
    folder = tmp_path / "study"
    short = laddered(trials=9, selection={"seeds": 0})
    before = record_files(run_search(short, folder))
    study = run_search(laddered(trials=16, selection={"seeds": 0}), folder)
    after = record_files(study)
    assert {name: after[name] for name in before} == before
    tops = {record.trial for record in searched(study) if record.rung == 2}
    with contextlib.closing(sqlite3.connect(study.database)) as connection:
        rows = connection.execute(
            "SELECT value_json FROM trial_user_attributes WHERE key = 'continues'"
        ).fetchall()
    states = ledger_states(study)
    assert states.count("COMPLETE") == len(tops)
    assert len(states) == 16 + len(rows)
    assert "RUNNING" not in states
    assert results(run_search(laddered(trials=16, selection={"seeds": 0}), folder)) == results(
        study
    )


def test_one_slot_in_four_tunes_lora(whole, laddered, tmp_path):
    jobs = [job for job in read_jobs(whole.folder) if job.rung == job.replicate == 0]
    origins = {trial.number: trial.origin for job in jobs for trial in job.trials}
    kinds = {record.trial: kind_of(record.genotype) for record in whole.records()}
    tuning = {number: origin for number, origin in origins.items() if origin.startswith("lora ")}
    assert [*tuning] == [3, 7, 11]
    assert {*tuning.values()} <= {"lora rate", "lora tpe"}
    assert {kinds[number] for number in tuning} == {"lora"}
    known = {trial.number: trial.genotype for job in jobs for trial in job.trials}
    assert known[3] == replace(known[1], learning_rate=2 * known[1].learning_rate), "the only LoRA"
    assert tuning[3] == "lora rate"
    study = run_search(laddered(trials=4, selection={"seeds": 0}), tmp_path / "study")
    (job, *_) = reversed(read_jobs(study.folder))
    assert [trial.origin for trial in job.trials] == ["tpe"], "nothing is compared there"


@pytest.mark.usefixtures("metered")
def test_time_budget_pays_for_promotions_and_the_selection(laddered, tmp_path, monkeypatch):
    train = workbench.train_cohort

    def by_steps(*args, until=None, paused=(), **more):
        trained, seconds = train(*args, until=until, paused=paused, **more)
        steps = (until or STEPS[-1]) - (paused[0].steps if paused else 0)
        return trained, seconds * steps / STEPS[-1]

    monkeypatch.setattr(workbench, "train_cohort", by_steps)
    spec = laddered(trials=24)
    budget = spec.budget.model_copy(update={"time": 12.5})
    study = run_search(spec.model_copy(update={"budget": budget}), tmp_path / "study")
    records, late = searched(study), [r for r in study.records() if r.replicate]
    assert 4 < sum(record.seconds for record in records) <= 12.5 * (1 - 0.6)
    assert 5 < sum(record.seconds for record in late) <= 12.5 * 0.6
    assert 8 <= sum(record.is_first for record in records) < 24, "time has ended the search"
    assert any(record.rung for record in records), "and yet some went on"
    assert not [entry for entry in ledger_states(study) if entry == "RUNNING"]


def test_other_rungs_are_another_study(whole, laddered, tmp_path):
    folder = tmp_path / "study"
    run_search(laddered(trials=1), folder)
    from autopeft.errors import ConfigError

    with pytest.raises(ConfigError, match="rungs: was 3, is now 2"):
        run_search(laddered(trials=1, rungs=2), folder)


def test_small_study_trains_all_to_the_end(laddered, tmp_path):
    study = run_search(laddered(trials=7, selection={"seeds": 0}), tmp_path / "study")
    assert {(record.rung, record.steps) for record in study.records()} == {(0, 6)}
    assert not (study.folder / "paused").exists()
    assert ledger_states(study) == ["COMPLETE"] * 7
    assert study.selection() is None
