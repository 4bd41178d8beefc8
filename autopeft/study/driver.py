"""The driver: sends jobs to the engine; keeps jobs, records, ledger, front and final selection."""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from autopeft.engines.engine import JobTaker, Stepped
from autopeft.engines.job import Job, paused_file, weights_name
from autopeft.engines.meter import Meter
from autopeft.errors import DataError, NoFeasibleTrialError, TooManyFailuresError
from autopeft.front import Front
from autopeft.front_file import write_front
from autopeft.objectives import values_of
from autopeft.record_files import write_jsonl, write_record
from autopeft.records import FOLD, SELECTION, Record
from autopeft.selection_file import write_selection
from autopeft.space.encode import encode
from autopeft.study.cache import RecordCache
from autopeft.study.contenders import FEWEST
from autopeft.study.events import Plan, Watcher
from autopeft.study.folder import Study
from autopeft.study.jobs import read_jobs, write_job
from autopeft.study.ledger import Ledger
from autopeft.study.lost_time import LostTime
from autopeft.study.manifest import Manifest
from autopeft.study.planner import Known, Planner
from autopeft.study.rungs import Key, Rungs
from autopeft.study.select import selection_of
from autopeft.study.setup import Setup
from autopeft.study.spec import StudySpec


@dataclass
class Driver:
    """Spends the budget of one study.

    Attributes:
        study: where it is written; locked.
        setup: what is searched.
        manifest: how it is computed.
        ledger: open.
        engine: takes jobs.
        watcher: is told what happens.
        cache: what other studies have measured; None if that is not wanted.
    """

    study: Study
    setup: Setup
    manifest: Manifest
    ledger: Ledger
    engine: JobTaker
    watcher: Watcher
    cache: RecordCache | None = None
    known: Known = field(init=False)

    def __post_init__(self) -> None:
        records = {record.key: record for record in self.study.records()}
        limited = self.spec.budget.time is not None
        self._lost = LostTime(self.study.lost_time_file if limited else None)
        self.known = Known(read_jobs(self.study.folder), records, self._lost.seconds)
        self._rungs = Rungs(self.manifest.rung_steps, self.spec.reduction)
        self._planner = Planner(
            self.setup,
            self._rungs,
            trial_seconds=self.manifest.trial_seconds,
            cohort=self.manifest.cohort,
            n_workers=self.engine.n_workers,
            cost_model=self.manifest.costs,
        )
        self._lines = {key: record.to_json() for key, record in records.items()}
        self._running: set[int] = set()
        self._n_failed = 0

    @property
    def spec(self) -> StudySpec:
        """The study file."""
        return self.setup.spec

    def plan(self) -> Plan:
        """What is to come."""
        space, settings = self.setup.space, self.manifest.settings
        costs, records = self._planner.costs, self.known.records.values()
        most, seeds = self._planner.selected(records)
        return Plan(
            folder=str(self.study.folder),
            trials_done=sum(record.is_first for record in records),
            trials=self.spec.budget.trials,
            least_params=space.least_total(),
            max_params=space.max_params,
            fraction=space.max_params / self.setup.facts.backbone_params,
            trial_seconds=costs.of_new(records),
            time_seconds=self.spec.budget.time,
            precision=settings.precision,
            kernel=settings.kernel,
            cohort=self.manifest.cohort,
            rung_steps=self.manifest.rung_steps,
            contenders=most,
            seeds=seeds,
            selection_seconds=most * seeds * costs.of_whole(records),
            space=space.spec.name,
            cardinality=space.cardinality(),
            notes=self.setup.notes,
            rung_metric=self.spec.rung_metric,
            labels=self.setup.facts.labels,
        )

    def run(self, results: Callable[[Stepped, Meter], Iterator[Record]]) -> None:
        """Train until the budget is spent.

        Args:
            results: the engine's, which brings the records of the jobs it has taken.

        Raises:
            NoFeasibleTrialError: nothing fits the budgets.
            TooManyFailuresError: the last trials all failed.
            DataError: the study cannot go on, because the disk is full for example.
        """
        self.settle()
        try:
            self.dispatch()
            for record in results(self._stepped, self._lost):
                self.take(record)
        finally:
            with suppress(DataError):  # what was raised before says more
                self._lost.write()
        self.finish()
        if any(record.state == "complete" for record in self.known.records.values()):
            return
        if self.known.records:
            raise TooManyFailuresError(
                f"all {len(self.known.trials)} trials failed; the records in {self.study.folder} "
                "say why"
            )
        check_time(self.spec, self._planner.costs.of_new(()))

    def _stepped(self, trials: tuple[int, ...], step: int, steps: int) -> None:
        self.ledger.keep()
        self._lost.note()
        self.watcher.stepped(trials, step, steps)

    def settle(self) -> None:
        """Bring what follows from jobs and records up to date, wherever the last driver ended."""
        self.ledger.check(self.known.jobs)
        for job in self.known.jobs:
            self._enter(job)
        for record in self.known.records.values():
            self._tell(record)
        if self.known.records:
            self._publish()

    def take(self, record: Record) -> None:
        """Keep a record that the engine brought, and go on.

        Raises:
            TooManyFailuresError: the last trials all failed.
            DataError: it cannot be written.
        """
        self._keep(record)
        self.dispatch()

    def dispatch(self) -> None:
        """Keep all workers busy.

        Raises:
            TooManyFailuresError: the last trials, measured by other studies, all failed.
            DataError: a job or a record cannot be written.
        """
        while self._n_running() < self.engine.n_workers and not self._is_measuring():
            index = self._next_job()
            if index is None:
                return
            job = self.known.jobs[index]
            if not job.replicate:
                self._remove_selection()
            self._take_over(job)
            if missing := self.known.missing(job):
                self._running.add(index)
                self.engine.submit(self._without_cached(job), missing)

    def _take_over(self, job: Job) -> None:
        """Take what has been measured already from the cache."""
        if self.cache is None:
            return
        missing = self.known.missing(job)
        for trial in job.trials:
            if trial.number in missing and (record := self.cache.take(job, trial)) is not None:
                self._keep(record)

    def _without_cached(self, job: Job) -> Job:
        """The job without those that need not be trained; for the others nothing changes."""
        records = zip(job.trials, map(self.known.records.get, job.keys), strict=True)
        return replace(job, trials=tuple(t for t, r in records if r is None or not r.cached))

    def _n_running(self) -> int:
        self._running = {i for i in self._running if self.known.missing(self.known.jobs[i])}
        return len(self._running)

    def _next_job(self) -> int | None:
        """The first job that is to be repeated, or else a new one."""
        jobs = self.known.jobs
        for index, job in enumerate(jobs):
            if index not in self._running and self.known.missing(job):
                return None if self._must_wait(job) else index
        new = self._planner.next_job(self.known)
        if new is None or self._must_wait(new):
            return None
        write_job(self.study.folder, len(jobs), new)
        jobs.append(new)
        self._enter(new)
        return len(jobs) - 1

    def _must_wait(self, job: Job) -> bool:
        """What measures costs runs alone."""
        return bool(self._running) and job.measures and self.spec.predicts

    def _is_measuring(self) -> bool:
        return any(self._must_wait(self.known.jobs[i]) for i in self._running)

    def _enter(self, job: Job) -> None:
        for trial in job.trials:
            params = encode(self.setup.space, trial.genotype)
            self.ledger.enter(trial, params, self.setup.space)

    def _keep(self, record: Record) -> None:
        """Write a record, then what follows from it.

        Raises:
            TooManyFailuresError: the last trials all failed.
            DataError: it cannot be written.
        """
        write_record(self.study.folder, record)
        self.known.records[record.key] = record
        self._lines[record.key] = record.to_json()
        self._lost.note()
        self.known.lost_seconds = self._lost.seconds
        self._share(record)
        self._tell(record)
        front = self._publish()
        self.watcher.measured(record, self._planner.words(record.genotype), front)
        self._check_failures(record)

    def _share(self, record: Record) -> None:
        """Keep it for other studies, before anything of it is deleted."""
        if self.cache is None:
            return
        job = next(job for job in self.known.jobs if record.key in job.keys)
        trial = next(trial for trial in job.trials if trial.number == record.trial)
        self.cache.keep(job, trial, record)

    def _tell(self, record: Record) -> None:
        if record.replicate:
            return
        quality = self._planner.quality(record)
        if quality is None:
            self.ledger.fail(record.trial)
            return
        # One curve has one metric.
        if record.rung < self._rungs.top or self.spec.rung_metric is None:
            self.ledger.measure(record.trial, record.steps, quality)
        if record.rung == self._rungs.top:
            self.ledger.complete(record.trial, values_of(quality, self._planner.costs_of(record)))

    def _publish(self) -> Front:
        """Write front and compiled records; delete weights that nobody will ask for."""
        front = self._planner.front(self.known)
        write_jsonl(self.study.folder, self._lines)
        write_front(self.study.folder, front)
        wanted = self._planner.front_to_be(self.known, front)
        if self._hands_over_what_was_searched:
            wanted |= self._planner.contenders_to_be(self.known)
        self._tidy(wanted)
        return front

    def finish(self) -> None:
        """Close what will not go on, and say what the final selection found."""
        if self._rungs.top:
            for record in self.known.ordered:
                if record.is_first and record.state == "complete":
                    self.ledger.prune(record.trial)
        selection = selection_of(
            self.known.ordered,
            self._planner.contenders(self.known),
            points=self._planner.points(self.known),
            paused=self._planner.paused(self.known),
            metric=self.spec.chosen_metric,
            costs=self.spec.costs,
            summarize=self._planner.words,
            other_answers=self.setup.facts.other_answers,
            seen=self.setup.facts.seen,
            constant=self.setup.facts.constant_rows,
        )
        if selection is None:
            self._remove_selection()
            self._tell_of_time()
        else:
            write_selection(self.study.selection_file, selection)
        wanted = {point.trial for point in self._planner.front(self.known).points}
        if self._hands_over_what_was_searched:
            wanted |= self._planner.contenders(self.known).keys()
        self._tidy(wanted)

    def _tell_of_time(self) -> None:
        """Say so if it is for want of time that there is no final selection."""
        if (short := self._planner.short_of(self.known)) is not None:
            needed, there = short
            self.watcher.noted(
                f"there is no final selection: {FEWEST} trials with {FEWEST} fresh seeds each "
                f"take about {needed:.1f} s, and the time budget has {there:.1f} s for them"
            )

    def _remove_selection(self) -> None:
        """Remove what an earlier search has selected among fewer trials, or at lower rungs."""
        self.study.selection_file.unlink(missing_ok=True)

    @property
    def _hands_over_what_was_searched(self) -> bool:
        """Whether contenders are handed over as the search has trained them.

        With folds: the trainings of the final selection had a part of the rows.
        """
        return self.setup.facts.unseen == FOLD and self.spec.selection.seeds > 0

    def _tidy(self, wanted: Collection[int]) -> None:
        """Delete the weights of trials that nobody wants, and states that were gone on from."""
        kept = set(self._kept(wanted))
        for record in self.known.ordered:
            if record.weights is not None and record.key not in kept:
                (self.study.folder / weights_name(*record.key)).unlink(missing_ok=True)
            if record.rung and not record.replicate:
                below = paused_file(self.study.folder, record.trial, record.rung - 1)
                below.unlink(missing_ok=True)

    def _kept(self, wanted: Collection[int]) -> Iterator[Key]:
        """Records whose weights are kept: each trial's at its highest rung, the final selection's.

        What was trained on a part of the rows is not.
        """
        complete = [record for record in self.known.ordered if record.state == "complete"]
        tops = {record.trial: record.key for record in complete if record.is_searched}
        for trial in wanted:
            yield tops[trial]
        for record in complete:
            if record.split == SELECTION:
                yield record.key

    def _check_failures(self, last: Record) -> None:
        """Stop after too many failures in a row, whatever failed: promotions and fresh seeds, too.

        In a row is by time. What failed before a search was continued does not count: whoever
        continues it wants to go on.
        """
        self._n_failed = self._n_failed + 1 if last.state == "failed" else 0
        if self._n_failed >= self.spec.engine.max_failures:
            raise TooManyFailuresError(
                f"the last {self._n_failed} trials all failed, the last one by "
                f"{last.failure.kind if last.failure else 'an unknown cause'}; "
                f"see {self.study.folder}"
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
