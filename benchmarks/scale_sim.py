"""How far one driver goes: whole studies on a simulated cluster of 1 to 1,000 workers.

Planner, driver, promotions, files and database are the real ones. Workers are not: a trial takes as
long, and scores what, the genotype of the table (`table/trec.jsonl`) did that has about as many
parameters, at each of its three rungs. The clock is simulated; what the driver needs between two
records is its own processor time, measured as it goes, and `--sync-ms` for each file or commit that
is synced to the disk. A record that comes meanwhile waits, and so does its worker.

    python benchmarks/scale_sim.py [--workers 1,10,100,1000] [--trials 400] [--sampler tpe]

Each run adds its studies to those in the file of results.
"""

import argparse
import bisect
import heapq
import json
import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from common import Measured, print_table, write_result
from search_bench import METRIC, Kept
from sqlalchemy import event
from sqlalchemy.engine import Engine as Database

from autopeft.engines.engine import Stepped
from autopeft.engines.job import Job, JobTrial
from autopeft.engines.meter import Meter
from autopeft.engines.outcome import record_of
from autopeft.engines.work import Decided, Facts
from autopeft.front import Front
from autopeft.records import Record
from autopeft.space.genotype import Genotype
from autopeft.space.shipped import load_space
from autopeft.study import planner
from autopeft.study.driver import Driver
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.manifest import new_manifest
from autopeft.study.prepared import Prepared
from autopeft.study.rungs import rungs_of
from autopeft.study.setup import Setup, set_up
from autopeft.study.spec import StudySpec
from autopeft.training.settings import TrainingSettings

TABLE = Path(__file__).parent / "table"
NEAR = 8
"""Genotypes of the table among which the hash of a genotype chooses one."""
SHARE_OF_FRONT = 0.99
"""Of the hypervolume at the end of a study, at which its front counts as there."""


class Table:
    """What was measured: for each genotype a record for so many steps, by parameters."""

    def __init__(self) -> None:
        rows: dict[str, dict[int, Record]] = {}
        for item in Kept(TABLE / "trec.jsonl").scored.values():
            rows.setdefault(item.record.hash, {})[item.record.steps] = item.record
        self._rows = sorted(rows.values(), key=_params)
        self._params = [_params(row) for row in self._rows]

    def like(self, genotype: Genotype, params: int, steps: int, below: int) -> Record:
        """What a genotype comes to after so many steps, with the seconds since those below."""
        middle = bisect.bisect(self._params, params)
        first = min(max(0, middle - NEAR // 2), len(self._rows) - NEAR)
        row = self._rows[first + int(genotype.hash, 16) % NEAR]
        seconds = sum(one.seconds for at, one in row.items() if below < at <= steps)
        return replace(row[steps], seconds=seconds)


class Writes:
    """Counts what is synced to the disk, and does not wait for it."""

    def __init__(self) -> None:
        self.files = self.commits = 0
        os.fsync = self._file  # type: ignore[assignment]
        event.listen(Database, "commit", self._commit)

    def _file(self, _: int) -> None:
        self.files += 1

    def _commit(self, _: Any) -> None:
        self.commits += 1

    @property
    def all(self) -> int:
        """Of both kinds."""
        return self.files + self.commits


class SimulatedCluster:
    """Workers that take simulated time.

    Args:
        table: what trials come to.
        facts: of the model.
        n_workers: how many.
        writes: of the driver.
        rung_steps: of the study.
        sync_seconds: that each write takes.
        stretch: trials take so many times what was measured.
    """

    def __init__(
        self,
        table: Table,
        facts: Facts,
        n_workers: int,
        writes: Writes,
        *,
        rung_steps: Sequence[int],
        sync_seconds: float,
        stretch: float,
    ) -> None:
        self._table, self._facts, self.n_workers = table, facts, n_workers
        self._writes, self._sync = writes, sync_seconds
        self._steps, self._stretch = rung_steps, stretch
        self._coming: list[tuple[float, int, list[Record]]] = []
        self.n_jobs = 0
        self.now = self.busy = self.waited = self.driver = 0.0
        self._mark()

    def submit(self, job: Job, wanted: Collection[int]) -> None:
        """Start a job on a free worker, once the driver has come so far."""
        records = [self._measure(job, trial) for trial in job.trials if trial.number in wanted]
        took = sum(record.seconds for record in records)
        self.busy += took
        self.n_jobs += 1
        begins = self.now + self._driver_seconds()
        heapq.heappush(self._coming, (begins + took, self.n_jobs, records))

    def results(self, _: Stepped, __: Meter) -> Iterator[Record]:
        """Records in the order in which they come, as soon as the driver has time for them."""
        while self._coming:
            ends, _, records = heapq.heappop(self._coming)
            for record in records:
                spent = self._driver_seconds()
                self._mark()
                self.driver += spent
                self.now += spent
                self.waited += max(0.0, self.now - ends)
                self.now = max(self.now, ends)
                yield record
        self.now += self._driver_seconds()

    def _mark(self) -> None:
        self._cpu, self._before = time.process_time(), self._writes.all

    def _driver_seconds(self) -> float:
        """What the driver has needed since the last record."""
        synced = self._writes.all - self._before
        return time.process_time() - self._cpu + synced * self._sync

    def _measure(self, job: Job, trial: JobTrial) -> Record:
        steps = (0, *self._steps)
        params = trial.genotype.count_params(self._facts.shape)
        like = self._table.like(trial.genotype, params, steps[job.rung + 1], steps[job.rung])
        return record_of(
            job, trial, facts=self._facts, precision=like.precision, worker="simulated",
            seconds=like.seconds * self._stretch, started=datetime.now(UTC), failure=None,
            metric=METRIC, metrics=like.metrics, head_params=like.head_params, steps=like.steps,
            row_scores=like.row_scores,
        )  # fmt: skip


class Progress(Silent):
    """Remembers how the front has grown."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self.front: list[tuple[float, float]] = []

    def measured(self, record: Record, summary: str, front: Front) -> None:  # noqa: ARG002
        """Take the hypervolume."""
        self.front.append((self._cluster.now, front.hypervolume))


def simulate(args: argparse.Namespace, table: Table, writes: Writes, n_workers: int) -> Measured:
    """A whole study."""
    setup = _setup(args)
    rungs = rungs_of(setup.steps, args.trials, 3, 3)
    decided = Decided(
        settings=TrainingSettings(), cohort=args.cohort, trial_seconds=20, trial_bytes=1
    )
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        study = Study(Path(folder) / "study")
        study.folder.mkdir()
        manifest = new_manifest(
            setup.fingerprint, setup.facts, decided,
            max_params=setup.space.max_params, rung_steps=rungs.steps,
        )  # fmt: skip
        cluster = SimulatedCluster(
            table, setup.facts, n_workers, writes,
            rung_steps=rungs.steps, sync_seconds=args.sync_ms / 1000, stretch=args.stretch,
        )  # fmt: skip
        progress = Progress(cluster)
        files, commits = writes.files, writes.commits
        with closing(Prepared(study, setup, manifest).ledger()) as ledger:
            driver = Driver(study, setup, manifest, ledger, cluster, progress)
            driver.run(cluster.results)
        n_records, n_jobs = len(study.records()), cluster.n_jobs
    hours = cluster.now / 3600
    return {
        "workers": n_workers,
        "records": n_records,
        "jobs": n_jobs,
        "hours": hours,
        "utilisation": cluster.busy / (n_workers * cluster.now),
        "most_workers": cluster.busy / cluster.driver,
        "driver_busy": cluster.driver / cluster.now,
        "driver_ms_a_record": 1000 * cluster.driver / n_records,
        "late_ms_a_record": 1000 * cluster.waited / n_records,
        "files_a_second": (writes.files - files) / cluster.now,
        "commits_a_second": (writes.commits - commits) / cluster.now,
        "files_a_record": (writes.files - files) / n_records,
        "commits_a_record": (writes.commits - commits) / n_records,
        "hypervolume": progress.front[-1][1],
        "front": progress.front,
    }


def _setup(args: argparse.Namespace) -> Setup:
    told = json.loads((TABLE / "trec.json").read_text(encoding="utf-8"))
    base = StudySpec.model_validate(told["spec"])
    budget = base.budget.model_copy(update={"trials": args.trials})
    update = {"sampler": args.sampler, "space": args.space, "budget": budget, "rungs": 3}
    spec = base.model_copy(update=update)
    return set_up(spec, load_space(args.space), Facts.model_validate(told["facts"]))


def _params(row: Mapping[int, Record]) -> int:
    return next(iter(row.values())).trainable_params


def main() -> None:
    """Simulate a study for each number of workers, and write what came of it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--workers", default="1,10,30,100,1000")
    add("--trials", type=int, default=400, help="of each study")
    add("--cohort", type=int, default=4)
    add("--behind", default=str(planner.BLOCKS_BEHIND), help="blocks for each other worker")
    add("--sampler", default="tpe")
    add("--space", default="unified")
    add("--stretch", type=float, default=1.0, help="trials take so many times what was measured")
    add("--sync-ms", type=float, default=1.0, help="for a file or a commit to be on the disk")
    add("--out", type=Path, default=Path(__file__).parent / "results" / "scale_sim.json")
    args = options.parse_args()
    table, writes = Table(), Writes()
    found = []
    for behind, n_workers in product(args.behind.split(","), args.workers.split(",")):
        planner.BLOCKS_BEHIND = int(behind)
        found.append(simulate(args, table, writes, int(n_workers)) | {"behind": int(behind)})
        print(f"{n_workers} workers: {found[-1]['hours']:.3f} h", file=sys.stderr)
    goal = SHARE_OF_FRONT * min(one["hypervolume"] for one in found)
    for one in found:
        front = one.pop("front")
        one["hours_to_front"] = next(at for at, volume in front if volume >= goal) / 3600
    _show(found)
    same = {"sampler": args.sampler, "trials": args.trials, "cohort": args.cohort}
    same |= {"stretch": args.stretch, "sync_ms": args.sync_ms, "load": os.getloadavg()[0]}
    before = json.loads(args.out.read_text())["studies"] if args.out.exists() else []
    studies = [*before, *(same | one for one in found)]
    write_result(args.out, {"benchmark": "scale_sim", "studies": studies})


def _show(found: Sequence[Measured]) -> None:
    keys = ["behind", "records", "hours", "hours_to_front", "utilisation", "most_workers"]
    keys += ["driver_busy", "driver_ms_a_record", "late_ms_a_record"]
    keys += ["files_a_second", "commits_a_second", "hypervolume"]
    rows = [[str(one["workers"]), *(f"{one[key]:.4g}" for key in keys)] for one in found]
    print_table(["workers", *keys], rows)


if __name__ == "__main__":
    main()
