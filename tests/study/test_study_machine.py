"""A study against a model of it: grown, killed at any write, robbed of files, continued."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from stub_worker import measure
from study_factory import ledger_states

from autopeft import files
from autopeft.engines.work import Decided
from autopeft.study import search
from autopeft.study.folder import Study
from autopeft.study.jobs import read_jobs
from autopeft.study.ledger import Ledger
from autopeft.study.prepare import prepare
from autopeft.study.search import run_search
from autopeft.training.settings import TrainingSettings

MOST = 24
CLOCKS = ("seconds", "started", "worker", "cohort")


class KilledError(BaseException):
    """Stands for SIGKILL: nobody catches it."""


class Engine:
    """Measures at once, without a model."""

    n_workers = 1

    def __init__(self, facts):
        self._facts, self._jobs = facts, []

    def load(self):
        return self._facts

    def decide(self, genotypes, cohort):
        return Decided(settings=TrainingSettings(), cohort=4, trial_seconds=1.0, trial_bytes=1)

    def begin(self, decided, folder):
        pass

    def submit(self, job, wanted):
        self._jobs.append((job, wanted))

    def results(self, stepped):
        while self._jobs:
            job, wanted = self._jobs.pop(0)
            for trial in job.trials:
                if trial.number in wanted:
                    yield measure(self._facts, job, trial)

    def close(self):
        pass


class Fuse:
    """Kills at the n-th durable operation, before or after it took effect."""

    def __init__(self, monkeypatch):
        self.left = None
        fsync, sync_folder, write = os.fsync, files._sync_folder, Ledger._write
        monkeypatch.setattr(os, "fsync", lambda d: (self.burn(), fsync(d)))
        monkeypatch.setattr(files, "_sync_folder", lambda f: (sync_folder(f), self.burn()))
        monkeypatch.setattr(
            Ledger, "_write", lambda s, action: (self.burn(), write(s, action), self.burn())[1]
        )

    def burn(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise KilledError


def machine(spec_of, fuse, expected):  # noqa: C901 - a class of small rules
    """The state machine of one kind of study."""

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.base = Path(tempfile.mkdtemp(prefix="autopeft-machine-"))
            self.study = Study(self.base / "study")
            self.trials, self.settled = 1, False

        def teardown(self):
            shutil.rmtree(self.base)

        def search(self):
            run_search(spec_of(trials=self.trials, sampler="random"), self.study.folder)

        @rule(more=st.integers(1, 5))
        def grow(self, more):
            self.trials = min(MOST, self.trials + more)
            self.settled = False

        @rule()
        def finish(self):
            self.search()
            self.settled = True

        @rule(operations=st.integers(0, 60))
        def kill(self, operations):
            fuse.left = operations
            with contextlib.suppress(KilledError):
                self.search()
                self.settled = True
            fuse.left = None

        @rule(name=st.sampled_from(["study.db", "front.json", "records.jsonl", "space.yaml"]))
        def lose(self, name):
            for path in self.study.folder.glob(f"{name}*"):
                path.unlink()
                self.settled = False

        @invariant()
        def agrees(self):
            if not self.study.folder.exists():
                return
            records = self.study.records()
            found = {record.trial: plain(record) for record in records}
            assert len(found) == len(records)
            assert found == {trial: expected[trial] for trial in found}
            jobs = read_jobs(self.study.folder)
            numbers = [number for job in jobs for number in job.numbers]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) <= self.trials
            assert set(found) <= set(numbers)
            if self.settled:
                assert len(found) == self.trials
                states = [
                    "COMPLETE" if record["state"] == "complete" else "FAIL"
                    for _, record in sorted(found.items())
                ]
                assert ledger_states(self.study) == states
                assert not list(self.study.folder.rglob("*.tmp"))

    return Machine


def plain(record):
    return {key: value for key, value in record.to_dict().items() if key not in CLOCKS}


@pytest.mark.parametrize(
    ("examples", "steps"), [(6, 15), pytest.param(60, 40, marks=pytest.mark.chaos)]
)
@pytest.mark.timeout(1800)
def test_study_agrees_with_its_model(spec_of, tmp_path, monkeypatch, examples, steps):
    facts = prepare(spec_of(), tmp_path).facts
    monkeypatch.setattr(search, "make_engine", lambda _: Engine(facts))
    fuse = Fuse(monkeypatch)
    whole = run_search(spec_of(trials=MOST, sampler="random"), tmp_path / "whole")
    expected = {record.trial: plain(record) for record in whole.records()}
    run_state_machine_as_test(
        machine(spec_of, fuse, expected),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
