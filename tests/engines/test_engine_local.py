"""Worker processes: what they measure, what becomes of those that misbehave, what they leave."""

import json
import os
import random
import signal
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from study_factory import ledger_states, results, weights

from autopeft.engines import local
from autopeft.engines.local import LocalEngine
from autopeft.engines.meter import Meter
from autopeft.engines.work import Decided
from autopeft.errors import DataError
from autopeft.study.events import Silent
from autopeft.study.jobs import read_jobs
from autopeft.study.prepare import prepare
from autopeft.study.search import run_search
from autopeft.training.settings import TrainingSettings

TIMEOUT = 30.0
"""Seconds without progress; a trial of the tiny model takes less than one."""

STUB = (sys.executable, str(Path(__file__).parents[1] / "stub_worker.py"))
"""The command of a worker without torch."""

DECIDED = Decided(settings=TrainingSettings(), cohort=4, trial_seconds=1, trial_bytes=1)

KINDS = {
    "segfault": ("crash", "the worker died of SIGSEGV"),
    "exit": ("crash", "the worker ended with exit code 3"),
    "orphan": ("crash", "the worker ended with exit code 7"),
    "hang": ("timeout", "no progress in 30 s"),
    "stuck": ("timeout", "no progress in 30 s"),
    "kill": ("crash", "the worker died of SIGKILL"),
    "memory": ("out_of_memory", "DefaultCPUAllocator"),
    "error": ("error", "ValueError: a bug (faulty_worker.py:"),
    "refuse": ("error", "not with this model"),
    "nan": ("nan", "the loss at step 2 of 3 is not a number"),
    "inf": ("diverged", "the loss at step 2 of 3 is infinite"),
}


@pytest.fixture
def mark(monkeypatch):
    """Marks all processes that the test starts; afterwards none of them is left."""
    token = uuid.uuid4().hex
    monkeypatch.setenv("AUTOPEFT_TEST", token)
    yield token
    left = marked(token)
    for process in left:
        process.kill()
    assert left == []


def marked(token):
    """Processes that were started with a mark, zombies left aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AUTOPEFT_TEST") == token and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def faults(monkeypatch, tmp_path, mark):
    """Makes the trials with these genotypes misbehave."""

    def make(by_hash):
        script = Path(__file__).parents[1] / "faulty_worker.py"
        monkeypatch.setattr(local, "WORKER", (sys.executable, str(script)))
        monkeypatch.setenv("FAULTS", json.dumps(by_hash))
        (tmp_path / "markers").mkdir()
        monkeypatch.setenv("FAULT_MARKERS", str(tmp_path / "markers"))

    return make


def in_workers(spec, **engine):
    """The same study in worker processes."""
    changed = spec.engine.model_copy(update={"workers": 1, "trial_timeout": TIMEOUT, **engine})
    return spec.model_copy(update={"engine": changed})


@pytest.mark.usefixtures("mark")
def test_workers_measure_what_the_driver_would_measure(done, spec_of, tmp_path):
    seen = []

    class Steps(Silent):
        def stepped(self, trials, step, steps):
            seen.append((trials, step, steps))

    study = run_search(in_workers(spec_of()), tmp_path / "study", watcher=Steps())
    assert results(study) == results(done)
    assert weights(study) == weights(done)
    assert study.front() == done.front()
    assert {record.worker for record in study.records()} != {done.records()[0].worker}
    assert len({record.worker for record in study.records()}) == 1, "one worker for all jobs"
    assert seen
    assert all(0 < step <= steps == 3 for _, step, steps in seen)
    assert len(seen) == len(set(seen)), "a step is told once"


@pytest.mark.parametrize(
    "by_fault",
    [
        pytest.param({"segfault": 1, "refuse": 2, "nan": 4}, marks=pytest.mark.slow),
        pytest.param({"orphan": 0, "exit": 2, "memory": 3, "inf": 4}, marks=pytest.mark.chaos),
        pytest.param({"hang": 2, "error": 4}, marks=pytest.mark.chaos),
        pytest.param({"stuck": 1, "kill": 3}, marks=pytest.mark.chaos),
    ],
    ids=" ".join,
)
def test_misbehaving_trials_fail_alone(done, spec_of, tmp_path, faults, by_fault):
    faults({done.records()[number].hash: fault for fault, number in by_fault.items()})
    study = run_search(in_workers(spec_of()), tmp_path / "study")
    guilty = {number: fault for fault, number in by_fault.items()}
    for record in study.records():
        if record.trial in guilty:
            kind, told = KINDS[guilty[record.trial]]
            assert record.failure is not None
            assert record.failure.kind == kind
            assert told in record.failure.message
            assert "\n" not in record.failure.message
            assert record.weights is None
    innocent = [i for i in range(5) if i not in guilty]
    assert [results(study)[i] for i in innocent] == [results(done)[i] for i in innocent]
    assert len(study.records()) == 5
    states = ["FAIL" if i in guilty else "COMPLETE" for i in range(5)]
    assert ledger_states(study) == states


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_study_with_every_fault_five_times_is_whole(spec_of, tmp_path, faults):
    spec = spec_of(
        trials=60, sampler="random", rungs=1, training={"cohort": 2}, engine={"max_failures": 60}
    )
    whole = run_search(in_workers(spec, workers=2), tmp_path / "whole")
    assert ledger_states(whole) == ["COMPLETE"] * 60
    kinds = ("memory", "segfault", "nan", "inf", "hang", "exit", "orphan")
    places = random.Random(60).sample(range(60), 5 * len(kinds))
    guilty = dict(zip(places, 5 * kinds, strict=True))
    faults({whole.records()[number].hash: fault for number, fault in guilty.items()})
    study = run_search(in_workers(spec, workers=2, trial_timeout=20.0), tmp_path / "study")
    assert [record.trial for record in study.records()] == list(range(60))
    assert [record.hash for record in study.records()] == [r.hash for r in whole.records()]
    found = {r.trial: r.failure.kind for r in study.records() if r.failure is not None}
    assert found == {number: KINDS[fault][0] for number, fault in guilty.items()}
    innocent = [number for number in range(60) if number not in guilty]
    assert [results(study)[i] for i in innocent] == [results(whole)[i] for i in innocent]
    states = ["FAIL" if number in guilty else "COMPLETE" for number in range(60)]
    assert ledger_states(study) == states


@pytest.mark.slow
def test_worker_that_is_killed_costs_no_trial(done, spec_of, tmp_path, faults):
    faults({record.hash: "kill once" for record in done.records()[1:3]})
    study = run_search(in_workers(spec_of()), tmp_path / "study")
    assert results(study) == results(done)
    assert study.records()[0].cohort == (0, 1, 2, 3), "the job was repeated whole"
    assert len(list((tmp_path / "markers").iterdir())) == 2


@pytest.mark.slow
def test_nothing_is_left_when_the_driver_stops(spec_of, tmp_path, mark, faults, done):
    faults({done.records()[1].hash: "stuck"})
    seen = []

    class Stop(Silent):
        def planned(self, plan):
            seen.extend(marked(mark))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(in_workers(spec_of()), tmp_path / "study", watcher=Stop())
    assert len(seen) == 2, "worker and warden"


@pytest.mark.slow
def test_warden_that_is_killed_takes_the_worker_along(spec_of, tmp_path, mark):
    engine = LocalEngine(spec_of().resolved(tmp_path).work)
    try:
        facts = engine.load()
        warden = engine._workers[0].pid
        (worker,) = psutil.Process(warden).children()
        os.kill(warden, signal.SIGKILL)
        assert psutil.wait_procs([worker], timeout=60)[0], "it died with its warden"
        engine._end(0)
        assert engine._start(0) == facts
    finally:
        engine.close()


@pytest.mark.usefixtures("mark")
def test_worker_is_not_to_blame_for_a_driver_that_does_not_listen(spec_of, tmp_path, monkeypatch):
    """As one that waits for its database."""
    monkeypatch.setattr(local, "WORKER", STUB)
    facts = prepare(spec_of(), tmp_path).facts
    monkeypatch.setenv("STUB_FACTS", facts.model_dump_json())
    monkeypatch.setenv("STUB_SECONDS", "1")

    class Slow(Silent):
        def measured(self, record, summary, front):
            if record.trial == 0:
                time.sleep(4)

    spec = in_workers(spec_of(trials=8), workers=2, trial_timeout=3.0)
    study = run_search(spec, tmp_path / "study", watcher=Slow())
    cohorts = {record.cohort for record in study.records()}
    assert cohorts == {(0, 1, 2, 3), (4, 5, 6, 7)}, "nothing was tried again"


class Deaf(Meter):
    """Hears of no records: all that it counts is from when jobs begin to when they end."""

    def brings(self, worker, record_seconds):
        pass


@pytest.mark.usefixtures("mark")
@pytest.mark.parametrize("dies", [False, True])
def test_no_time_is_lost_by_loading(done, spec_of, tmp_path, monkeypatch, dies):
    """Neither of jobs that wait for a worker, nor of those beside it, nor where one is replaced."""
    monkeypatch.setattr(local, "WORKER", STUB)
    monkeypatch.setenv("STUB_FACTS", prepare(spec_of(), tmp_path).facts.model_dump_json())
    monkeypatch.setenv("STUB_SECONDS", "0.2")
    monkeypatch.setenv("STUB_DIES", str(tmp_path / "marker"))
    engine, meter, (job, *_) = LocalEngine(spec_of().work, 2), Deaf(), read_jobs(done.folder)
    try:
        engine.load()
        engine.begin(DECIDED, tmp_path)
        monkeypatch.setenv("STUB_LOADING", "0.6")
        if dies:
            (tmp_path / "marker").touch()
        for _ in range(5):
            engine.submit(job, {0})
        assert len(list(engine.results(lambda *_: None, meter))) == 5
        assert len(engine._workers) == 2
    finally:
        engine.close()
    assert 0 <= meter.seconds - 0.2 * (5 + dies) < 0.4


@pytest.mark.usefixtures("mark")
def test_further_worker_that_never_loads_ends_the_study(done, spec_of, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WORKER", STUB)
    monkeypatch.setenv("STUB_FACTS", prepare(spec_of(), tmp_path).facts.model_dump_json())
    monkeypatch.setenv("STUB_SECONDS", "60")
    engine, (job, *_) = LocalEngine(spec_of().work, 2), read_jobs(done.folder)
    try:
        engine.load()
        engine.begin(DECIDED, tmp_path)
        monkeypatch.setattr(local, "WORKER", (sys.executable, "-c", "raise SystemExit(9)"))
        for _ in range(2):
            engine.submit(job, {0})
        with pytest.raises(DataError, match=r"no worker gets ready: the worker ended with .* 9"):
            list(engine.results(lambda *_: None))
    finally:
        engine.close()


@pytest.mark.usefixtures("mark")
def test_worker_that_never_starts_ends_the_study(spec_of, tmp_path, monkeypatch):
    program = "import sys; print('no such thing', file=sys.stderr); sys.exit(9)"
    monkeypatch.setattr(local, "WORKER", (sys.executable, "-c", program))
    with pytest.raises(DataError, match=r"no worker gets ready: .* code 9; its last words: no"):
        run_search(in_workers(spec_of()), tmp_path / "study")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("mark")
def test_what_a_worker_refuses_is_refused_by_the_driver(spec_of, tmp_path):
    with pytest.raises(DataError, match=r"model `.*nowhere` cannot be loaded"):
        run_search(in_workers(spec_of(model=str(tmp_path / "nowhere"))), tmp_path / "study")
    assert not list(tmp_path.iterdir())
