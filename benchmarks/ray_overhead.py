"""What a cluster costs: jobs that do nothing beside bare Ray tasks; real trials on two workers.

`--jobs` jobs of one trial go through the Ray engine to stations that answer at once, and as many
messages of the same bytes through bare Ray tasks, alternating; the study's own work is in neither.
That is measured apart, without Ray: a study of `--study-trials` trials whose jobs take no time, in
processor milliseconds for each job, parted into ask (the next job), store (files of jobs, records
and front) and tell (the database). Then the same study of the embedded model runs on one worker
of one core and on two; the rate is counted from the first record of each, so that loading is
outside.

    python benchmarks/ray_overhead.py [--jobs 2000] [--trials 48] [--rows 960] [--repeats 3]
        [--study-trials 200]
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autopeft.demo.model import embedded_model
from autopeft.demo.text import build
from autopeft.engines.job import Job, JobTrial
from autopeft.engines.outcome import record_of
from autopeft.engines.protocol import Done, Loaded, Measured
from autopeft.engines.ray.letters import Letter, Wire
from autopeft.engines.ray.settings import RaySettings, prepare_environment
from autopeft.engines.ray.station import versions
from autopeft.engines.work import Decided, Facts, Work
from autopeft.records import Metric, Record
from autopeft.space.methods import method
from autopeft.space.shape import encoder_shape
from autopeft.space.shipped import load_space
from autopeft.study import driver
from autopeft.study.driver import Driver
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.manifest import new_manifest
from autopeft.study.prepared import Prepared
from autopeft.study.search import run_search
from autopeft.study.setup import set_up
from autopeft.study.spec import StudySpec
from autopeft.training.settings import TrainingSettings

SHAPE = encoder_shape(6, 384, 1536, 22_713_216)
FACTS = Facts(
    model_shape=SHAPE.to_dict(),
    model="none",
    revision=None,
    model_hash="",
    data_hash="",
    reading_hash="",
    n_rows={},
    unseen=None,
    labels=(),
    notes=(),
    device="cpu",
    n_devices=1,
)


def job_of(number: int) -> Job:
    """A job of one trial."""
    return Job((JobTrial(number, method("lora").genotype(SHAPE), 0, "none"),), 0, 0, 0)


def answer_to(plain: str) -> list[Wire]:
    """What a station says of a job that takes no time."""
    job = Job.from_dict(json.loads(plain), "job")
    record = record_of(
        job, job.trials[0], facts=FACTS, precision="fp32", worker="none", seconds=0.0,
        started=datetime.now(UTC), failure=None, metric="accuracy",
        metrics={"accuracy": Metric(0.5, 0.1)},
    )  # fmt: skip
    return [Letter(Measured(record=record.to_dict())).to_wire(), Letter(Done()).to_wire()]


class IdleStation:
    """A station without a worker."""

    def __init__(self, *_: Any) -> None:
        """Load nothing."""

    def greet(self, _: Any) -> tuple[str, dict[str, str], list[str]]:
        """Be there."""
        return "none", versions(), []

    def load(self, _: str) -> Wire:
        """Know some facts."""
        return Letter(Loaded(facts=FACTS)).to_wire()

    def begin(self, _: str) -> None:
        """Get ready."""

    def run(self, plain: str, *_: Any) -> list[Wire]:
        """Answer at once."""
        return answer_to(plain)

    def close(self) -> None:
        """Leave nothing."""


def through_engine(n_jobs: int, n_workers: int, folder: Path) -> float:
    """Jobs a second, each taken when a worker is free, as the driver does."""
    from autopeft.engines.ray.engine import RayEngine  # noqa: PLC0415

    data = {"train": folder / "none.jsonl"}
    work = Work.model_validate(
        {"model": "none", "task": "classification", "metric": "accuracy", "data": data}
        | {"training": {}, "seed": 0}
    )
    engine = RayEngine(work, RaySettings("local", n_workers, 0.0))
    try:
        engine.load()
        decided = Decided(settings=TrainingSettings(), cohort=1, trial_seconds=1, trial_bytes=1)
        engine.begin(decided, folder)
        n_warm = 20 * n_workers
        jobs = iter([job_of(number) for number in range(n_warm + n_jobs)])
        for job in itertools.islice(jobs, n_workers):
            engine.submit(job, job.numbers)
        begun = 0.0
        for n_done, _ in enumerate(engine.results(lambda *_: None), start=1):
            if n_done == n_warm:
                begun = time.perf_counter()
            if n_done + n_workers <= n_warm + n_jobs:
                job = next(jobs)
                engine.submit(job, job.numbers)
        return n_jobs / (time.perf_counter() - begun)
    finally:
        engine.close()


def through_tasks(n_jobs: int) -> float:
    """Bare tasks a second with the same messages, all submitted at once."""
    import ray  # noqa: PLC0415

    task = ray.remote(num_cpus=1)(answer_to)
    plain = json.dumps(job_of(0).to_dict())
    ray.get([task.remote(plain) for _ in range(40)])
    begun = time.perf_counter()
    for wires in ray.get([task.remote(plain) for _ in range(n_jobs)]):
        Record.from_dict(json.loads(wires[0][0])["record"], "task")
    return n_jobs / (time.perf_counter() - begun)


class Instant:
    """An engine whose jobs take no time."""

    n_workers = 1

    def __init__(self) -> None:
        """Begin without jobs."""
        self._jobs: list[Job] = []

    def submit(self, job: Job, _: Any) -> None:
        """Take a job."""
        self._jobs.append(job)

    def results(self, _: Any, __: Any) -> Iterator[Record]:
        """Answer at once."""
        while self._jobs:
            plain = json.dumps(self._jobs.pop().to_dict())
            yield Record.from_dict(json.loads(answer_to(plain)[0][0])["record"], "instant")


class Stopwatch:
    """Processor seconds in parts; while one calls another, the other alone counts."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.seconds: Counter[str] = Counter()
        self._parts: list[str] = []

    def on(self, owner: Any, function: str, part: str) -> None:
        """Count a function as a part."""
        real = getattr(owner, function)

        def timed(*args: Any, **more: Any) -> Any:
            self._lap()
            self._parts.append(part)
            try:
                return real(*args, **more)
            finally:
                self._lap()
                self._parts.pop()

        setattr(owner, function, timed)

    def _lap(self) -> None:
        now = time.process_time()
        if self._parts:
            self.seconds[self._parts[-1]] += now - self._since
        self._since = now


def study_ms_a_job(n_trials: int, sampler: str, folder: Path) -> dict[str, float]:
    """What a study needs for a job of one trial, in processor milliseconds."""
    spec = StudySpec.model_validate(
        {"model": "none", "data": {"train": "none"}, "budget": {"trials": n_trials}}
        | {"selection": {"seeds": 0}, "sampler": sampler, "rungs": 1}
    )
    facts = FACTS.model_copy(update={"n_rows": {"train": 1000}})
    setup = set_up(spec, load_space(spec.space), facts)
    decided = Decided(settings=TrainingSettings(), cohort=1, trial_seconds=1, trial_bytes=1)
    most = setup.space.max_params
    manifest = new_manifest(setup.fingerprint, facts, decided, max_params=most, rung_steps=(96,))
    ready, engine, watch = Prepared(Study(folder), setup, manifest), Instant(), Stopwatch()
    with closing(ready.ledger()) as ledger:
        study = Driver(ready.study, setup, manifest, ledger, engine, Silent())
        for owner, function, part in (
            (study, "_next_job", "ask"),
            (study, "_enter", "tell"),
            (study, "_tell", "tell"),
            (driver, "write_job", "store"),
            (driver, "write_record", "store"),
            (study, "_publish", "store"),
        ):
            watch.on(owner, function, part)
        begun = time.process_time()
        study.run(engine.results)
        whole = time.process_time() - begun
    parts = {part: 1000 * seconds / n_trials for part, seconds in watch.seconds.items()}
    return {**parts, "all": 1000 * whole / n_trials}


def trials_a_second(n_trials: int, n_rows: int, n_workers: int, folder: Path) -> float:
    """Real trials, from the first record on."""
    text = build(folder / "text", train_rows=n_rows, validation_rows=n_rows)
    spec = StudySpec.model_validate(
        {
            "model": str(embedded_model()),
            "data": {"train": str(text.train), "validation": str(text.validation)},
            "budget": {"trials": n_trials},
            "training": {"epochs": 1, "precision": "fp32", "attention": "eager", "cohort": 1},
            "selection": {"seeds": 0},
            "sampler": "random",
            "rungs": 1,
            "engine": {"kind": "ray", "address": "local", "workers": n_workers},
        }
    )
    times = []

    class Clock(Silent):
        def measured(self, *_: Any) -> None:
            times.append(time.perf_counter())

    run_search(spec, folder / "study", watcher=Clock())
    left_out = 4 * n_workers  # until all workers have loaded
    return (len(times) - left_out) / (times[-1] - times[left_out - 1])


def main() -> None:
    """Print one line of JSON with every single measurement."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--jobs", type=int, default=2000)
    options.add_argument("--trials", type=int, default=48, help="0 for none")
    options.add_argument("--rows", type=int, default=960, help="to train on in each trial")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--study-trials", type=int, default=200)
    args = options.parse_args()
    own = {}
    for sampler in ("random", "tpe"):
        with tempfile.TemporaryDirectory() as folder:
            own[sampler] = study_ms_a_job(args.study_trials, sampler, Path(folder))
    prepare_environment("local")
    import ray  # noqa: PLC0415

    from autopeft.engines.ray import slot  # noqa: PLC0415

    real = slot.Station
    found: dict[str, list[float]] = {"engine": [], "tasks": [], "workers_1": [], "workers_2": []}
    options_of_ray = {"include_dashboard": False, "object_store_memory": 10**8, "num_cpus": 2}
    ray.init("local", log_to_driver=False, **options_of_ray)
    try:
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                slot.Station = IdleStation  # type: ignore[misc, assignment]
                found["engine"].append(through_engine(args.jobs, 2, Path(folder)))
                slot.Station = real  # type: ignore[misc]
            found["tasks"].append(through_tasks(args.jobs))
            for n_workers in (1, 2) if args.trials else ():
                with tempfile.TemporaryDirectory() as folder:
                    rate = trials_a_second(args.trials, args.rows, n_workers, Path(folder))
                    found[f"workers_{n_workers}"].append(rate)
    finally:
        ray.shutdown()
    medians = {name: statistics.median(values) for name, values in found.items() if values}
    ratios = {"engine_over_tasks": medians["engine"] / medians["tasks"]}
    if args.trials:
        ratios["two_workers_over_one"] = medians["workers_2"] / medians["workers_1"]
    load = os.getloadavg()[0]
    result = {"per_second": found, "ratios": ratios, "jobs": args.jobs}
    result |= {"study_ms_a_job": own, "study_trials": args.study_trials, "load": load}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
