"""Trials that fail, memory that runs out, drivers that are stopped."""

import math
import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import torch
from study_factory import ledger_states, record_files, results, weights

from autopeft.engines import decide, outcome, workbench
from autopeft.engines.workbench import Workbench
from autopeft.errors import ConfigError, DataError, DiskFullError, TooManyFailuresError
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.ledger import Ledger
from autopeft.study.manifest import read_manifest
from autopeft.study.search import run_search
from autopeft.training.memory import is_out_of_memory
from autopeft.training.train import train_cohort

DIVERGING = """
name: diverging
description: No learning rate in here is of this world.
slots:
  - {name: q, form: lowrank, read: weight, write: q+v, size: [1, 2, 4], layout: free}
training: {learning_rate: {low: 1e30, high: 1e32}}
"""


@pytest.fixture
def diverging(tmp_path):
    """A space all of whose trials become NaN."""
    path = tmp_path / "diverging.yaml"
    path.write_text(DIVERGING, encoding="utf-8")
    return str(path)


def test_trial_that_becomes_nan_fails_and_harms_no_other(done, spec_of, diverging, tmp_path):
    study = run_search(spec_of(space=diverging, trials=4), tmp_path / "study")
    assert ledger_states(study) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    records = study.records()
    assert records[2].cohort == (0, 1, 2, 3)
    for record in records[2:]:
        assert record.state == "failed"
        assert record.failure is not None
        assert record.failure.kind == "nan"
        assert record.failure.message.startswith("the loss at step ")
        assert not record.metrics
        assert not record.objectives
        assert record.weights is None
    assert {point.trial for point in study.front().points} <= {0, 1}
    assert results(study)[:2] == results(done)[:2]
    pair = run_search(spec_of(space=diverging, trials=2), tmp_path / "pair")
    assert set(weights(pair)) == {"000000-0-0.safetensors", "000001-0-0.safetensors"}
    assert weights(study) == weights(pair), "bit for bit as in other company"


def test_failures_in_a_row_end_the_search(spec_of, diverging, tmp_path):
    spec = spec_of(space=diverging, methods=[], trials=40, training={"cohort": 5})
    with pytest.raises(TooManyFailuresError, match=r"last 10 trials all failed, the last .* nan"):
        run_search(spec, tmp_path / "study")
    study = Study(tmp_path / "study")
    assert ledger_states(study) == ["FAIL"] * 10
    assert study.front().points == ()
    assert study.front().recommended is None


def _fail(monkeypatch, when):
    """Become NaN, if a job and a trial of it are like that."""
    train = Workbench._train

    def failing(self, job, progress):
        trained, seconds = train(self, job, progress)
        together = zip(job.trials, trained, strict=True)
        nan = [math.nan]
        return [replace(t, losses=nan) if when(job, trial) else t for trial, t in together], seconds

    monkeypatch.setattr(Workbench, "_train", failing)


def _selecting(spec_of):
    """Ten trials, and four of them twice with fresh seeds; three failures are too many."""
    engine = {"workers": 0, "max_failures": 3}
    return spec_of(trials=10, engine=engine, selection={"seeds": 2, "share": 0.9})


def test_whoever_continues_after_failures_gets_to_the_end(spec_of, tmp_path, monkeypatch):
    """The last trials by number are not the last by time, once the final selection has begun."""
    _fail(monkeypatch, lambda job, trial: trial.number > 6 and not job.replicate)
    spec, study = _selecting(spec_of), Study(tmp_path / "study")
    with pytest.raises(TooManyFailuresError, match="last 3 trials all failed"):
        run_search(spec, study.folder)
    assert len(study.records()) == 10
    assert run_search(spec, study.folder).selection() is not None


def test_failures_with_fresh_seeds_end_the_search(spec_of, tmp_path, monkeypatch):
    _fail(monkeypatch, lambda job, trial: job.replicate)
    with pytest.raises(TooManyFailuresError, match="last 3 trials all failed"):
        run_search(_selecting(spec_of), tmp_path / "study")
    records = Study(tmp_path / "study").records()
    assert [record.replicate for record in records if record.state == "failed"] == [1, 1, 1]


def test_accident_with_a_fresh_seed_leaves_the_others(spec_of, tmp_path, monkeypatch):
    """The records are those of an engine, which knows which rows it did not come to score."""
    train = Workbench._train

    def failing(self, job, progress):
        if job.replicate == 2 and 0 in job.numbers:
            raise RuntimeError("an accident")
        return train(self, job, progress)

    monkeypatch.setattr(Workbench, "_train", failing)
    selection = {"seeds": 3, "share": 0.9}
    study = run_search(spec_of(trials=14, selection=selection), tmp_path / "study")
    (failed,) = (record for record in study.records() if record.state == "failed")
    assert (failed.trial, failed.replicate, failed.split) == (0, 2, "fold")
    found = study.selection()
    assert "trial 0 failed with a fresh seed (error): its other seeds count" in found.notes
    assert found.contender(0).seeds == 2
    folder = study.folder / "records"
    (file,) = folder.glob("000000-*-2.json")
    file.write_text(file.read_text().replace('"fold"', '"validation"'))  # as it was told before
    (study.folder / "selection.json").unlink()
    assert run_search(spec_of(trials=14, selection=selection), study.folder).selection() == found


def test_failures_that_another_study_has_measured_end_the_search(spec_of, diverging, tmp_path):
    more = {"space": diverging, "methods": [], "cache": True}
    with pytest.raises(TooManyFailuresError, match="all 4 trials failed"):
        run_search(spec_of(trials=4, **more), tmp_path / "study")
    engine = {"workers": 0, "max_failures": 3}
    with pytest.raises(TooManyFailuresError, match="last 3 trials all failed"):
        run_search(spec_of(trials=4, engine=engine, **more), tmp_path / "beside")


def test_search_in_which_all_failed_is_not_a_success(spec_of, diverging, tmp_path):
    spec = spec_of(space=diverging, methods=[], trials=2)
    for _ in range(2):
        with pytest.raises(TooManyFailuresError, match="all 2 trials failed; the records in"):
            run_search(spec, tmp_path / "study")
    assert len(Study(tmp_path / "study").records()) == 2


def _too_large(error, when):
    def train(backbone, genotypes, *args, **more):
        if when(genotypes):
            raise error
        return train_cohort(backbone, genotypes, *args, **more)

    return train


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("The size of tensor a (3) must match"), False),
        (ValueError(), False),
    ],
)
def test_signs_that_memory_ran_out(error, is_one):
    assert is_out_of_memory(error) == is_one


def test_memory_of_this_machine_runs_out_recognisably():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert is_out_of_memory(caught.value)


def test_cohort_that_is_too_large_is_split(done, spec_of, tmp_path, monkeypatch):
    error = torch.OutOfMemoryError("CUDA out of memory")
    train = _too_large(error, lambda genotypes: len(genotypes) > 2)
    monkeypatch.setattr(workbench, "train_cohort", train)
    study = run_search(spec_of(), tmp_path / "study")
    assert [record.cohort for record in study.records()] == [*[(0, 1)] * 2, *[(2, 3)] * 2, (4,)]
    assert results(study) == results(done)


def test_trial_that_is_too_large_alone_is_recorded(done, spec_of, tmp_path, monkeypatch):
    large = done.records()[3]
    train = _too_large(
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
        lambda genotypes: large.hash in {genotype.hash for genotype in genotypes},
    )
    monkeypatch.setattr(workbench, "train_cohort", train)
    study = run_search(spec_of(trials=4), tmp_path / "study")
    record = study.records()[3]
    assert record.failure is not None
    assert (record.failure.kind, record.failure.message) == ("out_of_memory", "CUDA out of memory.")
    assert record.cohort == (3,)
    assert record.trainable_params == large.trainable_params
    assert ledger_states(study) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
    assert results(study)[:3] == results(done)[:3]


def test_other_error_fails_the_guilty_trial_alone(done, spec_of, tmp_path, monkeypatch):
    guilty = done.records()[2].hash
    error = RuntimeError("a bug\nand more")
    train = _too_large(error, lambda gs: guilty in {genotype.hash for genotype in gs})
    monkeypatch.setattr(workbench, "train_cohort", train)
    study = run_search(spec_of(trials=4), tmp_path / "study")
    assert ledger_states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    records = study.records()
    assert [record.cohort for record in records] == [*[(0, 1)] * 2, (2,), (3,)]
    failure = records[2].failure
    assert failure.kind == "error"
    assert re.fullmatch(r"RuntimeError: a bug \(test_study_faults\.py:\d+\)", failure.message)
    expected = results(done)[:4]
    assert [*results(study)[:2], results(study)[3]] == [*expected[:2], expected[3]]


def test_clock_that_is_set_back_while_a_trial_fails_harms_nothing(spec_of, tmp_path, monkeypatch):
    told = []

    class SetBack(datetime):
        @classmethod
        def now(cls, tz=None):
            told.append(datetime.now(tz) - timedelta(hours=len(told)))
            return told[-1]

    monkeypatch.setattr(outcome, "datetime", SetBack)
    train = _too_large(RuntimeError("a bug"), lambda _: True)
    monkeypatch.setattr(workbench, "train_cohort", train)
    with pytest.raises(TooManyFailuresError, match="all 2 trials failed"):
        run_search(spec_of(trials=2), tmp_path / "study")
    records = Study(tmp_path / "study").records()
    assert all(0 <= record.seconds < 600 for record in records)
    assert {record.started for record in records} <= {moment.isoformat() for moment in told}


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_genotype_that_is_refused_fails_alone(done, spec_of, tmp_path, monkeypatch, kind):
    """As one that a model cannot have and that nothing has foreseen."""
    guilty = done.records()[2].hash
    refused = _too_large(kind("not\nhere"), lambda gs: guilty in {g.hash for g in gs})
    monkeypatch.setattr(workbench, "train_cohort", refused)
    study = run_search(spec_of(trials=4), tmp_path / "study")
    assert ledger_states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    failure = study.records()[2].failure
    assert (failure.kind, failure.message) == ("error", "not")
    assert run_search(spec_of(trials=4), tmp_path / "study").records() == study.records()


def test_driver_that_cannot_go_on_blames_no_trial(spec_of, tmp_path):
    class Lost(Silent):
        def stepped(self, trials, step, steps):
            raise DataError("another driver has the study")

    with pytest.raises(DataError, match="another driver"):
        run_search(spec_of(), tmp_path / "study", watcher=Lost())
    assert not Study(tmp_path / "study").records()


@pytest.mark.parametrize("name", ["_save", "_paused", "_rows"])
def test_what_is_wrong_around_a_trial_ends_the_search(spec_of, tmp_path, monkeypatch, name):
    def full(*_):
        raise DiskFullError("no room")

    monkeypatch.setattr(workbench.Workbench, name, full)
    with pytest.raises(DiskFullError):
        run_search(spec_of(), tmp_path / "study")


def test_prompts_are_as_long_as_there_is_room_for(spec_of, tmp_path):
    told = []

    class Notes(Silent):
        def planned(self, plan):
            told.extend(plan.notes)

    spec = spec_of(
        trials=10,
        space="prompts",
        methods=["prompt_tuning"],
        max_params="100%",
        training={"max_length": 24},
        sampler="random",
    )
    study = run_search(spec, tmp_path / "study", watcher=Notes())
    assert ledger_states(study) == ["COMPLETE"] * 10
    lengths = [
        max(op["sizes"])
        for record in study.records()
        for op in record.genotype["ops"]
        if op["write"] == "embed"
    ]
    assert lengths[0] == 8, "the method at its largest size that there is room for"
    assert len(lengths) > 1
    assert max(lengths) == 8
    assert sum("leave 8 of the model's positions" in note for note in told) == 2


def test_error_while_deciding_is_not_swallowed(spec_of, tmp_path, monkeypatch):
    train = _too_large(RuntimeError("a bug"), lambda _: True)
    monkeypatch.setattr(decide, "trial_seconds", train)
    with pytest.raises(RuntimeError, match="a bug"):
        run_search(spec_of(), tmp_path / "other")


def test_probe_that_is_too_large_takes_half(spec_of, tmp_path, monkeypatch):
    sizes, measure = [], decide.trial_seconds

    def small(backbone, genotypes, **more):
        sizes.append(len(genotypes))
        if len(genotypes) > 2:
            raise torch.OutOfMemoryError
        return measure(backbone, genotypes, **more)

    monkeypatch.setattr(decide, "trial_seconds", small)
    auto = spec_of(trials=1, training={"cohort": "auto"})
    study = run_search(auto, tmp_path / "study")
    assert read_manifest(study.manifest_file).cohort == 2
    asked = run_search(spec_of(trials=1), tmp_path / "asked")
    assert read_manifest(asked.manifest_file).cohort == 4
    assert sizes == [4, 2, 4, 2]


class Stop(Silent):
    """Presses Ctrl-C after so many steps of a cohort, or as a trial has been measured."""

    def __init__(self, *, step: int | None = None, trial: int | None = None) -> None:
        self.step, self.trial = step, trial

    def stepped(self, trials, step, steps):
        if step == self.step:
            raise KeyboardInterrupt

    def measured(self, record, summary, front):
        if record.trial == self.trial:
            raise KeyboardInterrupt


def _stop_at_tell(monkeypatch):
    """Stop once, when trial 1 is on disk and the ledger does not know yet."""
    complete = Ledger.complete

    def stop(self, number, values):
        if number == 1:
            monkeypatch.setattr(Ledger, "complete", complete)
            raise KeyboardInterrupt
        complete(self, number, values)

    monkeypatch.setattr(Ledger, "complete", stop)


@pytest.mark.parametrize(
    ("stop", "measured", "states"),
    [
        ("in training", 0, ["RUNNING"] * 4),
        ("before the ledger", 2, ["COMPLETE", "RUNNING", "RUNNING", "RUNNING"]),
        ("inside a cohort", 3, ["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING"]),
        ("between cohorts", 4, ["COMPLETE"] * 4),
    ],
)
def test_stopped_search_ends_as_an_uninterrupted_one(
    done, spec_of, tmp_path, monkeypatch, stop, measured, states
):
    watcher = {
        "in training": Stop(step=2),
        "inside a cohort": Stop(trial=2),
        "between cohorts": Stop(trial=3),
    }.get(stop, Silent())
    if stop == "before the ledger":
        _stop_at_tell(monkeypatch)
    study = Study(tmp_path / "study")
    with pytest.raises(KeyboardInterrupt):
        run_search(spec_of(), study.folder, watcher=watcher)
    before = record_files(study) if measured else {}
    assert len(before) == measured
    assert ledger_states(study) == states

    seen = []

    class Count(Silent):
        def measured(self, record, summary, front):
            seen.append(record.trial)

    run_search(spec_of(), study.folder, watcher=Count())
    assert seen == list(range(measured, 5)), "nothing measured is trained again"
    after = record_files(study)
    assert {name: after[name] for name in before} == before
    assert ledger_states(study) == ["COMPLETE"] * 5
    assert results(study) == results(done)
    assert weights(study) == weights(done)
    assert study.front() == done.front()
