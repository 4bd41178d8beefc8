"""A study against a model of it: grown, killed at any write, robbed of files, continued."""

import contextlib
import os
import random
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from crashes import ANY, OFTEN, ONCE, Trap
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from stub_worker import measure
from study_factory import ledger_states, tree

from autopeft.engines.work import Decided
from autopeft.study import ledger, search
from autopeft.study.folder import Study
from autopeft.study.jobs import read_jobs
from autopeft.study.manifest import read_manifest
from autopeft.study.prepare import prepare
from autopeft.study.rungs import FEWEST_TRIALS
from autopeft.study.search import run_search
from autopeft.training.settings import TrainingSettings

CLOCKS = ("seconds", "started", "worker", "cohort")


class KilledError(BaseException):
    """Stands for SIGKILL: nobody catches it."""


class Engine:
    """Measures at once, without a model; remembers what it was asked for."""

    n_workers = 1

    def __init__(self, facts, asked):
        self._facts, self._asked, self._jobs = facts, asked, []

    def load(self):
        return self._facts

    def decide(self, genotypes, cohort):
        return Decided(settings=TrainingSettings(), cohort=4, trial_seconds=1.0, trial_bytes=1)

    def begin(self, decided, folder):
        pass

    def submit(self, job, wanted):
        self._asked.append(job)
        self._jobs.append((job, wanted))

    def results(self, stepped, meter):
        while self._jobs:
            job, wanted = self._jobs.pop(0)
            for trial in job.trials:
                if trial.number in wanted:
                    yield measure(self._facts, job, trial)

    def close(self):
        pass


def hasty(connection, _):
    """What the ledger asks of SQLite, but for waiting for the disk."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")


def killed():
    raise KilledError


def machine(spec_of, trap, asked, whole, fewest):  # noqa: C901 - a class of small rules
    """The state machine of one kind of study.

    Args:
        spec_of: makes study files.
        trap: kills.
        asked: jobs that engines were given.
        whole: a study that nobody interrupted, of the most trials.
        fewest: trials at the beginning.
    """
    expected = {record.trial: plain(record) for record in whole.records() if not record.rung}
    first = run_search(spec_of(trials=fewest, sampler="random"), whole.folder.with_name("first"))

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.base = Path(tempfile.mkdtemp(prefix="autopeft-machine-"))
            self.study = Study(self.base / "study")
            self.trials, self.settled = fewest, False
            asked.clear()

        def teardown(self):
            shutil.rmtree(self.base)

        def search(self):
            run_search(spec_of(trials=self.trials, sampler="random"), self.study.folder)
            self.settled = True

        def search_until_killed(self, place, times):
            trap.set(place, times)
            with contextlib.suppress(KilledError):
                self.search()
            trap.release()

        @rule(more=st.integers(1, 8))
        def grow(self, more):
            self.trials = min(len(expected), self.trials + more)
            self.settled = False

        @rule()
        def finish(self):
            self.search()

        @rule(operations=st.integers(0, 60))
        def kill(self, operations):
            self.search_until_killed(ANY, operations)

        @rule(place=st.sampled_from(ONCE + OFTEN), times=st.integers(0, 3))
        def kill_at(self, place, times):
            self.search_until_killed(place, times)

        @rule(name=st.sampled_from(["study.db", "front.json", "records.jsonl", "space.yaml"]))
        def lose(self, name):
            for path in self.study.folder.glob(f"{name}*"):
                path.unlink()
                self.settled = False

        @invariant()
        def agrees(self):
            found, keys = written(self.study, asked)
            assert len({trial for trial, *_ in keys}) <= self.trials
            for (trial, rung, _), record in found.items():
                assert plain(record) | {"rung": 0} == expected[trial]
                assert all(found[trial, below, 0].state == "complete" for below in range(rung))
            if self.settled:
                self.is_whole(found, keys)

        def is_whole(self, found, keys):
            """What holds after a search that ended."""
            assert set(found) == set(keys)
            assert len({trial for trial, *_ in keys}) == self.trials
            assert not list(self.study.folder.rglob("*.tmp"))
            top = len(read_manifest(self.study.manifest_file).rung_steps) - 1
            states = {}
            for (trial, rung, _), record in sorted(found.items()):
                ended = "COMPLETE" if rung == top else "PRUNED"
                states[trial] = ended if record.state == "complete" else "FAIL"
            in_ledger = ledger_states(self.study)
            if self.trials == fewest:
                assert in_ledger == list(states.values())
                assert self.study.front() == first.front()
                assert tree(self.study.folder / "jobs") == tree(first.folder / "jobs")
            elif not top:
                assert in_ledger == list(states.values())
            assert "RUNNING" not in in_ledger
            assert in_ledger.count("COMPLETE") == list(states.values()).count("COMPLETE")

    return Machine


def written(study, asked):
    """Records by key and keys of jobs, of a study that may have been killed at any moment."""
    if not study.folder.exists():
        return {}, []
    jobs, records = read_jobs(study.folder), study.records()
    assert [job for job in asked if job not in jobs] == [], "dispatched, not written"
    asked.clear()
    keys = [key for job in jobs for key in job.keys]
    found = {record.key: record for record in records}
    assert len(found) == len(records)
    assert len(set(keys)) == len(keys), "asked for twice"
    assert set(found) <= set(keys)
    numbers = [trial for trial, rung, _ in keys if not rung]
    assert numbers == list(range(len(numbers)))
    states = ledger_states(study) if has_tables(study.database) else []
    assert len({*states[len(numbers) :]} - {"COMPLETE"}) == 0, "entered, not written"
    for trial, state in enumerate(states[: len(numbers)]):
        assert state == "RUNNING" or is_measured(study, trial, state, found), "told, not written"
    return found, keys


def is_measured(study, trial, state, found):
    """Whether there is a record for what the ledger says of a trial that has ended."""
    if state == "COMPLETE":
        top = len(read_manifest(study.manifest_file).rung_steps) - 1
        return (trial, top, 0) in found
    ended = {"FAIL": "failed", "PRUNED": "complete"}[state]
    return any(key[0] == trial and record.state == ended for key, record in found.items())


def has_tables(database):
    if not database.exists():
        return False
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return bool(
            connection.execute("SELECT 1 FROM sqlite_master WHERE name='trials'").fetchall()
        )


def plain(record):
    return {key: value for key, value in record.to_dict().items() if key not in CLOCKS}


@pytest.fixture
def asked():
    """Jobs that engines were given."""
    return []


@pytest.fixture
def trap(spec_of, asked, monkeypatch, tmp_path):
    """Kills drivers, whose engines need no model."""
    facts = prepare(spec_of(), tmp_path).facts
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a process dies, not the machine
    monkeypatch.setattr(ledger, "_durable", hasty)
    monkeypatch.setattr(search, "make_engine", lambda _: Engine(facts, asked))
    return Trap(killed, Engine, monkeypatch.setattr)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(0, marks=pytest.mark.slow),
        *(pytest.param(i, marks=pytest.mark.chaos) for i in (1, 2, 3)),
    ],
)
def test_study_is_killed_at_each_of_its_writes(spec_of, tmp_path, asked, trap, seed):
    rng = random.Random(seed)
    spec = spec_of(trials=FEWEST_TRIALS + 6, sampler="random")
    whole = run_search(spec, tmp_path / "whole")
    study = Study(tmp_path / "study")
    asked.clear()
    for place in (*ONCE, *rng.sample(OFTEN, len(OFTEN))):
        trap.set(place, 0 if place in ONCE else rng.randrange(3))
        with pytest.raises(KilledError):
            run_search(spec, study.folder)
        written(study, asked)
    run_search(spec, study.folder)
    found, _ = written(study, asked)
    assert [plain(r) for r in found.values()] == [plain(r) for r in whole.records()]
    assert tree(study.folder / "jobs") == tree(whole.folder / "jobs")
    assert ledger_states(study) == ledger_states(whole)
    assert study.front() == whole.front()


@pytest.mark.parametrize(
    ("fewest", "most", "examples", "steps"),
    [
        (1, 16, 3, 12),
        pytest.param(1, 24, 50, 40, marks=pytest.mark.chaos),
        pytest.param(FEWEST_TRIALS, 36, 12, 20, marks=pytest.mark.chaos, id="rungs"),
    ],
)
@pytest.mark.timeout(1800)
def test_study_agrees_with_its_model(spec_of, tmp_path, asked, trap, fewest, most, examples, steps):
    whole = run_search(spec_of(trials=most, sampler="random"), tmp_path / "whole")
    assert any(record.rung for record in whole.records()) == (fewest >= FEWEST_TRIALS)
    run_state_machine_as_test(
        machine(spec_of, trap, asked, whole, fewest),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=(Phase.generate,),
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
