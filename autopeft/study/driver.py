"""The driver: proposes trials, sends jobs to the engine, keeps jobs, records, ledger and front.

Slots come in blocks of one cohort. A slot's proposal knows the measurements of earlier blocks (with
several workers, of those that have ended by then whatever the order) and nothing of its own. So
jobs are a function of the study file and the records, and do not depend on where a search was
interrupted or continued.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from autopeft.engines.engine import Engine
from autopeft.engines.job import Job, JobTrial
from autopeft.errors import NoFeasibleTrialError, TooManyFailuresError
from autopeft.front import Front, front_of, write_front
from autopeft.records import Record, compile_jsonl, write_record
from autopeft.space.encode import encode
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.seed import seed_of
from autopeft.space.words import describe
from autopeft.study.events import Plan, Watcher
from autopeft.study.folder import Study
from autopeft.study.jobs import read_jobs, write_job
from autopeft.study.ledger import Ledger
from autopeft.study.manifest import Manifest
from autopeft.study.propose import Measured, Proposal, objective_values, propose
from autopeft.study.setup import Setup
from autopeft.study.spec import StudySpec

RUNG = REPLICATE = 0
"""All that there is so far."""


@dataclass
class Driver:
    """Spends the budget of one study.

    Attributes:
        study: where it is written; locked.
        setup: what is searched.
        manifest: how it is computed.
        ledger: open.
        engine: ready for jobs.
        watcher: is told what happens.
    """

    study: Study
    setup: Setup
    manifest: Manifest
    ledger: Ledger
    engine: Engine
    watcher: Watcher
    jobs: list[Job] = field(init=False)
    records: dict[tuple[int, int, int], Record] = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = read_jobs(self.study.folder)
        self.records = {record.key: record for record in self.study.records()}
        self._running: set[int] = set()

    @property
    def spec(self) -> StudySpec:
        """The study file."""
        return self.setup.spec

    def plan(self) -> Plan:
        """What is to come."""
        space, settings = self.setup.space, self.manifest.training_settings()
        return Plan(
            folder=str(self.study.folder),
            trials_done=len(self.records),
            trials=self.spec.budget.trials,
            least_params=min(slot.least_in_a_layer() for slot in space.slots),
            max_params=space.max_params,
            fraction=space.max_params / self.setup.facts.backbone_params,
            trial_seconds=self._trial_seconds(),
            time_seconds=self.spec.budget.time,
            precision=settings.precision,
            kernel=settings.kernel,
            cohort=self.manifest.cohort,
            space=space.spec.name,
            cardinality=space.cardinality(),
            notes=self.setup.notes,
        )

    def run(self) -> None:
        """Train until the budget is spent.

        Raises:
            NoFeasibleTrialError: nothing fits the budgets.
            TooManyFailuresError: the last trials all failed.
            DataError: the study cannot go on, because the disk is full for example.
        """
        self._settle()
        self._dispatch()
        for record in self.engine.results(self.watcher.stepped):
            self._keep(record)
            self._check_failures()
            self._dispatch()
        if any(record.state == "complete" for record in self.records.values()):
            return
        if self.records:
            raise TooManyFailuresError(
                f"all {len(self.records)} trials failed; the records in {self.study.folder} say why"
            )
        check_time(self.spec, self._trial_seconds())

    def _settle(self) -> None:
        """Bring what follows from jobs and records up to date, wherever the last driver ended."""
        self.ledger.check(self.jobs)
        for job in self.jobs:
            self._enter(job)
        for record in self.records.values():
            self._tell(record)
        if self.records:
            self._publish()

    def _dispatch(self) -> None:
        """Keep all workers busy."""
        while self._n_running() < self.engine.n_workers:
            index = self._next_job()
            if index is None:
                return
            job = self.jobs[index]
            self._running.add(index)
            self.engine.submit(job, self._missing(job))

    def _n_running(self) -> int:
        self._running = {i for i in self._running if self._missing(self.jobs[i])}
        return len(self._running)

    def _next_job(self) -> int | None:
        """The first job that is to be repeated, or else a new one."""
        for index, job in enumerate(self.jobs):
            if index not in self._running and self._missing(job):
                return index
        return self._new_job()

    def _missing(self, job: Job) -> frozenset[int]:
        """Trials of a job without a record."""
        return frozenset(trial for trial, *rung in job.keys if (trial, *rung) not in self.records)

    def _new_job(self) -> int | None:
        """Write a job of the trials that are still missing from the current block."""
        size = self.manifest.cohort
        trials = [trial for job in self.jobs for trial in job.trials]
        first = len(trials)
        start = first // size * size
        known = max(0, start - size * (self.engine.n_workers - 1))
        if any((i, RUNG, REPLICATE) not in self.records for i in range(known)):
            return None
        last = min(start + size, self.spec.budget.trials, first + self._affordable())
        if last <= first:
            return None
        taken = {trial.genotype.hash for trial in trials}
        added = []
        for slot in range(first, last):
            proposal = self._propose(slot, known, taken)
            seed = seed_of(self.spec.seed, proposal.genotype.hash, str(REPLICATE))
            taken.add(proposal.genotype.hash)
            added.append(JobTrial(slot, proposal.genotype, seed, proposal.origin))
        order_seed = seed_of(self.spec.seed, "order", str(REPLICATE))
        job = Job(tuple(added), RUNG, REPLICATE, order_seed)
        write_job(self.study.folder, len(self.jobs), job)
        self.jobs.append(job)
        self._enter(job)
        return len(self.jobs) - 1

    def _propose(self, slot: int, known: int, taken: Collection[str]) -> Proposal:
        """The genotype of a slot, knowing the measurements of the first trials."""
        if slot < len(self.setup.points):
            name, genotype = self.setup.points[slot]
            return Proposal(genotype, f"method {name}")
        history = [self._measured(self.records[i, RUNG, REPLICATE]) for i in range(known)]
        return propose(
            self.setup.space,
            self.spec.sampler,
            seed=self.spec.seed,
            slot=slot,
            history=history,
            taken=taken,
        )

    def _measured(self, record: Record) -> Measured:
        return Measured(
            genotype_from_dict(record.genotype), self._quality(record), record.trainable_params
        )

    def _quality(self, record: Record) -> float | None:
        if record.state == "failed":
            return None
        return record.metrics[self.spec.chosen_metric].value

    def _enter(self, job: Job) -> None:
        for trial in job.trials:
            params = encode(self.setup.space, trial.genotype)
            self.ledger.enter(trial, params, self.setup.space)

    def _keep(self, record: Record) -> None:
        """Write a record, then what follows from it."""
        write_record(self.study.folder, record)
        self.records[record.key] = record
        self._tell(record)
        front = self._publish()
        self.watcher.measured(record, _words(record.genotype), front)

    def _tell(self, record: Record) -> None:
        quality = self._quality(record)
        if quality is None:
            self.ledger.fail(record.trial)
        else:
            self.ledger.complete(record.trial, objective_values(quality, record.trainable_params))

    def _publish(self) -> Front:
        """Write front and compiled records; delete the weights of dominated trials."""
        records = sorted(self.records.values(), key=lambda record: record.key)
        front = front_of(
            records, self.spec.chosen_metric, "maximize", self.setup.space.max_params, _words
        )
        compile_jsonl(self.study.folder)
        write_front(self.study.folder, front)
        kept = {point.trial for point in front.points}
        for record in records:
            if record.weights is not None and record.trial not in kept:
                (self.study.folder / record.weights).unlink(missing_ok=True)
        return front

    def _trial_seconds(self) -> float:
        measured = [record.seconds for record in self.records.values()]
        return sum(measured) / len(measured) if measured else self.manifest.trial_seconds

    def _affordable(self) -> int:
        """How many trials the time left pays for, those that run being paid."""
        limit = self.spec.budget.time
        if limit is None:
            return self.spec.budget.trials
        each = self._trial_seconds()
        spent = sum(record.seconds for record in self.records.values())
        running = sum(len(self._missing(job)) for job in self.jobs)
        return max(0, int((limit - spent) // each) - running)

    def _check_failures(self) -> None:
        most = self.spec.engine.max_failures
        last = [record for _, record in sorted(self.records.items())[-most:]]
        if len(last) == most and all(record.state == "failed" for record in last):
            cause = last[-1].failure
            raise TooManyFailuresError(
                f"the last {len(last)} trials all failed, the last one by "
                f"{cause.kind if cause else 'an unknown cause'}; see {self.study.folder}"
            )


def check_time(spec: StudySpec, trial_seconds: float) -> None:
    """Refuse a time budget that not even one trial fits into.

    Raises:
        NoFeasibleTrialError: it is too short.
    """
    if spec.budget.time is not None and spec.budget.time < trial_seconds:
        raise NoFeasibleTrialError(
            f"the time budget of {spec.budget.time:g} s is less than the {trial_seconds:.1f} s "
            "that one trial is expected to take"
        )


def _words(genotype: dict[str, object]) -> str:
    return describe(genotype_from_dict(genotype))
