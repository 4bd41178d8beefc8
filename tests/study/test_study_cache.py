"""What a study has measured, the studies beside it do not train again; nothing else changes."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from record_factory import make_record
from study_factory import results, weights

from autopeft.engines.inline import InlineEngine
from autopeft.engines.workbench import Workbench
from autopeft.records import Cached, Failure
from autopeft.space.shipped import load_space
from autopeft.study import cache, manifest, rungs
from autopeft.study.cache import FOLDER, RecordCache, conditions_of
from autopeft.study.costs import Costs
from autopeft.study.events import Silent
from autopeft.study.folder import study_named
from autopeft.study.jobs import read_jobs
from autopeft.study.manifest import read_manifest
from autopeft.study.prepare import prepare
from autopeft.study.rungs import Rungs
from autopeft.study.search import run_search
from autopeft.study.setup import set_up


class Notes(Silent):
    """Keeps what it is told; stops the search at a record, as an interrupt would."""

    def __init__(self, stop_after=None):
        self.notes, self.left = [], stop_after

    def noted(self, note):
        self.notes.append(note)

    def measured(self, record, summary, front):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


class Plans(Silent):
    """Keeps the notes of a plan."""

    def planned(self, plan):
        self.notes = plan.notes


@pytest.fixture
def trained(monkeypatch):
    """The keys of all trials that were given to an engine."""
    given, original = [], InlineEngine.submit

    def submit(self, job, wanted):
        given.extend(key for key in job.keys if key[0] in wanted)
        original(self, job, wanted)

    monkeypatch.setattr(InlineEngine, "submit", submit)
    return given


@pytest.fixture
def one(spec_of, tmp_path, trained):
    """A study of three trials that others may learn from."""
    study = run_search(spec_of(trials=3, cache=True), tmp_path / "one")
    trained.clear()
    return study


def test_nothing_is_trained_twice_and_all_is_the_same(one, spec_of, tmp_path, trained):
    two = run_search(spec_of(trials=3, cache=True), tmp_path / "two")
    assert not trained
    assert results(two) == results(one)
    assert two.front() == one.front()
    assert weights(two) == weights(one)
    name = read_manifest(one.manifest_file).study
    for copy, record in zip(two.records(), one.records(), strict=True):
        assert record.cached is None
        assert copy.seconds == 0
        origin = (copy.cached.study, copy.cached.trial, copy.cached.seconds, copy.cached.started)
        assert origin == (name, record.trial, record.seconds, record.started)


def test_what_is_new_is_trained_alone_and_comes_to_the_same(done, one, spec_of, tmp_path, trained):
    folder = tmp_path / "two"
    spec = spec_of(cache=True, sampler="tpe")
    with pytest.raises(KeyboardInterrupt):
        run_search(spec, folder, watcher=Notes(stop_after=4))
    two = run_search(spec, folder)
    assert trained == [(3, 0, 0), (4, 0, 0)]
    assert results(two) == results(done)
    assert two.front().points == done.front().points
    records = two.records()
    assert [record.cohort for record in records] == [(0,), (1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("how", [{"cache": False}, {"training": {"epochs": 2}}, {"seed": 1}])
def test_other_studies_share_nothing(how, one, spec_of, tmp_path, trained):
    two = run_search(spec_of(trials=2, **({"cache": True} | how)), tmp_path / "two")
    assert trained == [(0, 0, 0), (1, 0, 0)]
    assert not any(record.cached for record in two.records())


def test_whatever_decides_a_measurement_is_part_of_the_key(one, spec_of, tmp_path):
    spec, told = spec_of(), read_manifest(one.manifest_file)
    setup = set_up(spec, load_space("unified"), prepare(spec, tmp_path).facts)
    known = conditions_of(setup, told)
    assert conditions_of(setup, replace(told, cohort=9, trial_seconds=9.0, study="x")) == known
    other = {"model_hash": "x", "data_hash": "x", "reading_hash": "x", "unseen": None}
    other |= {"device": "cuda", "head_hash": "x"}
    facts = [setup.facts.model_copy(update={key: value}) for key, value in other.items()]
    setups = [replace(setup, facts=changed) for changed in facts]
    changes = ({"precision": "bf16"}, {"clip": 2.0}, {"accumulation": 2})
    settings = [replace(told.settings, **change) for change in changes]
    again = replace(told.settings, checkpointing=True)
    assert conditions_of(setup, replace(told, settings=again)) == known
    manifests = [replace(told, settings=changed) for changed in settings]
    memory = spec.model_copy(update={"objectives": ("metric", "peak_memory_bytes")})
    low = spec.model_copy(update={"rung_metric": "likelihood"})
    positive = spec.model_copy(update={"positive": "bad"})
    found = [
        conditions_of(replace(setup, spec=positive), told),
        *(conditions_of(changed, told) for changed in setups),
        *(conditions_of(setup, changed) for changed in manifests),
        conditions_of(replace(setup, spec=memory), told),
        conditions_of(replace(setup, spec=memory), replace(told, study="x")),
        conditions_of(replace(setup, spec=low), told),
    ]
    assert len({json.dumps(one, sort_keys=True) for one in [known, *found]}) == len(found) + 1


def test_how_rows_are_parted_decides_what_is_scored_on_parts_alone(one, spec_of, tmp_path):
    spec, told = spec_of(), read_manifest(one.manifest_file)
    facts = prepare(spec, tmp_path).facts
    setup = set_up(spec, load_space("unified"), facts.model_copy(update={"unseen": "fold"}))
    now = conditions_of(setup, told)
    before = {key: value for key, value in now.items() if key != "folds"}
    assert now != before

    def cache(conditions):
        known = {"conditions": conditions, "name": "study", "note": pytest.fail}
        return RecordCache(tmp_path, one.folder, **known)

    job = read_jobs(one.folder)[0]
    without = dict.fromkeys(("weights", "weights_sha256", "row_scores"))
    failed = {"state": "failed", "failure": Failure("nan", "no"), "metrics": {}, "objectives": {}}
    record = replace(one.records()[0], **failed, **without)
    for replicate, is_shared in ((0, True), (1, False)):
        again = replace(job, replicate=replicate)
        cache(before).keep(again, job.trials[0], record)
        assert (cache(now).take(again, job.trials[0]) is not None) == is_shared


def test_measurements_are_those_of_the_libraries_that_made_them(
    spec_of, tmp_path, trained, monkeypatch
):
    """A study that was begun with others and continued says so, and shares under the new ones."""
    found = manifest._versions()

    def continued(name, trials, torch):
        monkeypatch.setattr(manifest, "_versions", lambda: found | {"torch": torch})
        trained.clear()
        plans = Plans()
        run_search(spec_of(trials=trials, cache=True), tmp_path / name, watcher=plans)
        return [key[0] for key in trained], [note for note in plans.notes if "torch" in note]

    assert continued("one", 2, "1.0") == ([0, 1], [])
    trials, (note,) = continued("one", 3, "2.0")
    assert trials == [2]
    assert note.startswith("since the study was begun, torch was 1.0 and is 2.0: ")
    assert continued("two", 3, "1.0") == ([2], [])
    assert continued("three", 3, "2.0") == ([0, 1], [])


def test_damaged_entries_are_told_and_not_used(one, spec_of, tmp_path, trained):
    by_trial = {}
    for path in (tmp_path / FOLDER / "records").iterdir():
        by_trial[json.loads(path.read_text())["record"]["trial"]] = path
    by_trial[0].write_text("{")
    by_trial[1].write_text(by_trial[2].read_text())
    sha = one.records()[2].weights_sha256
    file = tmp_path / FOLDER / "files" / f"{sha}.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    notes = Notes()
    two = run_search(spec_of(trials=3, cache=True), tmp_path / "two", watcher=notes)
    assert trained == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert results(two) == results(one)
    assert len(notes.notes) == 3
    assert "not strict JSON" in notes.notes[0]
    assert "not of the key that it is named by" in notes.notes[1]
    assert f"{file} is damaged" in notes.notes[2]


def test_cache_that_cannot_be_written_harms_nothing(done, spec_of, tmp_path):
    (tmp_path / FOLDER).write_text("a file")
    notes = Notes()
    study = run_search(spec_of(cache=True), tmp_path / "study", watcher=notes)
    assert results(study) == results(done)
    (note,) = notes.notes
    assert note.startswith("nothing more is kept in the record cache")


def test_cache_lies_beside_a_study_however_its_folder_is_named(
    one, spec_of, tmp_path, monkeypatch, trained
):
    monkeypatch.chdir(one.folder / "weights")
    name = read_manifest(one.manifest_file).study
    for folder in (Path(".."), one.folder, Path("../../one")):
        run_search(spec_of(trials=3, cache=True), folder)
        assert study_named(name, folder).folder.resolve() == one.folder
    run_search(spec_of(trials=4, cache=True), Path(".."))
    assert {path.name for path in tmp_path.iterdir()} == {"one", FOLDER}
    assert not list(one.folder.rglob(FOLDER))
    assert len(list((tmp_path / FOLDER / "records").iterdir())) == 4


def test_cache_of_somebody_else_harms_nothing(done, spec_of, tmp_path, monkeypatch):
    """One that cannot even be entered, and one whose files can be read alone."""
    run_search(spec_of(cache=True), tmp_path / "one")
    is_file = Path.is_file

    def refused(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(cache.os, "utime", refused)
    two = run_search(spec_of(cache=True), tmp_path / "two")
    assert all(record.cached for record in two.records())
    monkeypatch.setattr(
        Path, "is_file", lambda path: refused(path) if FOLDER in path.parts else is_file(path)
    )
    notes = Notes()
    study = run_search(spec_of(cache=True), tmp_path / "study", watcher=notes)
    assert results(study) == results(done)
    assert not any(record.cached for record in study.records())
    assert notes.notes == [f"the record cache {tmp_path / FOLDER} is left alone: Permission denied"]


def test_what_killed_writers_have_left_makes_room(one, spec_of, tmp_path, monkeypatch):
    files = tmp_path / FOLDER / "files"
    old = [tmp_path / FOLDER / folder / ".x.0f.tmp" for folder in ("files", "records")]
    for path in old:
        path.touch()
        os.utime(path, (0, 0))
    (files / ".y.0f.tmp").write_bytes(b"n" * 10**6)
    monkeypatch.setattr(cache, "MOST_BYTES", 10**6)
    run_search(spec_of(trials=1, cache=True, seed=1), tmp_path / "two")
    assert not any(path.exists() for path in old)
    assert [path.name for path in files.iterdir()] == [".y.0f.tmp"], "it may still be written"


def test_files_used_least_recently_make_room(one, spec_of, tmp_path, monkeypatch, trained):
    files = sorted(
        (tmp_path / FOLDER / "files").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )
    most = sum(path.stat().st_size for path in files[1:])
    monkeypatch.setattr(cache, "MOST_BYTES", most)
    run_search(spec_of(trials=1, cache=True, seed=1), tmp_path / "two")
    assert not files[0].exists()
    assert sum(path.stat().st_size for path in (tmp_path / FOLDER / "files").iterdir()) <= most
    trained.clear()
    run_search(spec_of(trials=1, cache=True), tmp_path / "three")
    assert trained == [(0, 0, 0)], "whose weights are gone"


def test_promotions_go_on_from_states_of_other_studies(spec_of, tmp_path, monkeypatch, trained):
    monkeypatch.setattr(rungs, "FEWEST_TRIALS", 8)
    spec = spec_of(
        trials=8,
        cache=True,
        rungs=2,
        reduction=2,
        methods=["head", "lora", "bitfit"],
        training={"epochs": 2, "cohort": 4},
    )
    one = run_search(spec, tmp_path / "one")
    promoted = [record.key for record in one.records() if record.rung]
    assert promoted
    trained.clear()
    assert results(run_search(spec, tmp_path / "two")) == results(one)
    assert not trained
    for path in (tmp_path / FOLDER / "records").iterdir():
        if json.loads(path.read_text())["key"]["until"] is None:
            path.unlink()
    states, original = [], Workbench._paused
    monkeypatch.setattr(
        Workbench, "_paused", lambda self, job: states.append(original(self, job)) or states[-1]
    )
    three = run_search(spec, tmp_path / "three")
    assert sorted(trained) == sorted(promoted)
    assert all(states), "or they have begun anew"
    assert results(three) == results(one)


def test_studies_that_run_at_once_share_one_cache(done, spec_of, tmp_path, trained):
    spec = spec_of(trials=5, cache=True)
    with ThreadPoolExecutor(3) as pool:
        studies = list(pool.map(lambda i: run_search(spec, tmp_path / str(i)), range(3)))
    assert [results(study) for study in studies] == [results(done)] * 3
    assert len(list((tmp_path / FOLDER / "records").iterdir())) == 5
    assert len(list((tmp_path / FOLDER / "files").iterdir())) == 5
    trained.clear()
    notes = Notes()
    last = run_search(spec, tmp_path / "last", watcher=notes)
    assert results(last) == results(done)
    assert (trained, notes.notes) == ([], [])


def test_what_was_taken_or_lost_says_nothing_of_what_a_training_costs():
    origin = Cached("another", 0, 3.0, "2026-01-31T12:00:00Z")
    taken = make_record(trial=0, rung=0, cohort=(0,), seconds=0.0, cached=origin)
    costs = Costs(Rungs((4,), 3), 5.0)
    assert costs.of_rung(0, [taken]) == 5.0
    lost = make_record(trial=2, rung=0, seconds=0.0)  # by another tuner
    assert costs.of_rung(0, [taken, lost]) == 5.0
    assert costs.of_rung(0, [taken, lost, make_record(trial=1, rung=0, seconds=2.0)]) == 2.0


def test_file_that_another_study_deletes_meanwhile_is_no_file(
    one, spec_of, tmp_path, monkeypatch, trained
):
    def gone(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(cache.os, "utime", gone)
    two = run_search(spec_of(trials=3, cache=True), tmp_path / "two")
    assert trained == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert results(two) == results(one)
