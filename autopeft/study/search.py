"""The driver: proposes trials, sends cohorts to the engine, keeps ledger, records and front.

Slots come in blocks of one cohort. A slot's proposal knows the measurements of earlier blocks and
nothing of its own, so it does not depend on where a search was interrupted or continued.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autopeft.engines.job import Job, JobTrial
from autopeft.engines.local import LocalEngine, Workplace
from autopeft.errors import NoFeasibleTrialError, TooManyFailuresError
from autopeft.files import write_atomic
from autopeft.front import Front, front_of, write_front
from autopeft.ops.base import seed_of
from autopeft.records import Record, compile_jsonl, write_record
from autopeft.space.encode import encode
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.search_space import SearchSpace
from autopeft.space.shipped import shipped_spaces
from autopeft.space.words import describe
from autopeft.study.events import Plan, Silent, Watcher
from autopeft.study.folder import Study
from autopeft.study.ledger import Entry, Ledger
from autopeft.study.lock import locked
from autopeft.study.manifest import (
    Manifest,
    check_same,
    new_manifest,
    read_manifest,
    write_manifest,
)
from autopeft.study.prepare import (
    Ground,
    bound_space,
    decide,
    device,
    fingerprint_of,
    heap_for,
    prepare,
    read_space,
    starting_points,
)
from autopeft.study.propose import Measured, Proposal, objective_values, propose
from autopeft.study.spec import StudySpec
from autopeft.study.write import spec_yaml
from autopeft.training.memory import use_heap

MAX_FAILURES_IN_A_ROW = 10


def run_search(
    spec: StudySpec, out: Path, *, base: Path | None = None, watcher: Watcher | None = None
) -> Study:
    """Search until the budget is spent. An existing folder is continued to the total.

    Args:
        spec: the study.
        out: its folder; nothing is written before everything has been checked.
        base: folder that relative paths in `spec` start from; the working folder by default.
        watcher: is told what happens.

    Raises:
        ConfigError: the study is not valid, or the folder holds another one.
        DataError: data or model cannot be used, or another search is running on the folder.
        NoFeasibleTrialError: nothing in the space fits the budget.
        TooManyFailuresError: the last trials all failed.
    """
    base = base or Path.cwd()
    watcher = watcher or Silent()
    study = Study(out)
    study.check_usable()
    space_spec = read_space(spec, base, out)
    ground = prepare(spec, base)
    space = bound_space(ground, space_spec)
    points, left_out = starting_points(ground, spec.methods)
    fingerprint = fingerprint_of(ground, space_spec)
    notes = (*ground.notes, *space.notes, *left_out)
    fresh = None if study.manifest_file.exists() else _new(ground, space, points, fingerprint)
    with locked(out):
        if fresh is None or study.manifest_file.exists():
            manifest = read_manifest(study.manifest_file)
            check_same(study.manifest_file, manifest, fingerprint)
        else:
            manifest = fresh
            write_manifest(study.manifest_file, manifest)
        ground = ground.computing_in(manifest.training_settings().precision)
        use_heap(heap_for(manifest.trial_bytes * manifest.cohort))
        write_atomic(study.space_file, spec_yaml(space_spec))
        write_atomic(study.spec_file, spec_yaml(_self_contained(ground.spec)))
        ledger = Ledger(study.database)
        try:
            driver = _Driver(study, ground, space, points, manifest, ledger, watcher)
            watcher.planned(driver.plan(notes))
            driver.run()
        finally:
            ledger.close()
    return study


@dataclass
class _Driver:
    study: Study
    ground: Ground
    space: SearchSpace
    points: Sequence[tuple[str, Genotype]]
    manifest: Manifest
    ledger: Ledger
    watcher: Watcher

    def __post_init__(self) -> None:
        ground = self.ground
        self.spec = ground.spec
        self.engine = LocalEngine(
            Workplace(
                backbone=ground.backbone,
                task=ground.task,
                train=ground.train,
                validation=ground.validation,
                split="validation",
                settings=self.manifest.training_settings(),
                root=self.study.folder,
                trial_bytes=self.manifest.trial_bytes,
            )
        )
        self.records = self.study.records()

    def plan(self, notes: tuple[str, ...]) -> Plan:
        """What is to come."""
        shape = self.ground.backbone.shape
        settings = self.manifest.training_settings()
        return Plan(
            folder=str(self.study.folder),
            trials_done=len(self.records),
            trials=self.spec.budget.trials,
            least_params=min(slot.least_in_a_layer() for slot in self.space.slots),
            max_params=self.space.max_params,
            fraction=self.space.max_params / shape.backbone_params,
            trial_seconds=self._trial_seconds(),
            time_seconds=self.spec.budget.time,
            precision=settings.precision,
            kernel=settings.kernel,
            cohort=self.manifest.cohort,
            space=self.space.spec.name,
            cardinality=self.space.cardinality(),
            notes=notes,
        )

    def run(self) -> None:
        """Train until the budget is spent."""
        self._settle()
        while entries := self._next_cohort():
            self._run_job(entries)
            self._check_failures()
        if not any(record.state == "complete" for record in self.records):
            if self.records:
                raise TooManyFailuresError(
                    f"all {len(self.records)} trials failed; the records in "
                    f"{self.study.folder} say why"
                )
            _check_time(self.spec, self._trial_seconds())

    def _settle(self) -> None:
        """Close trials whose record was written before the driver stopped."""
        by_trial = {record.trial: record for record in self.records}
        for entry in self.ledger.entries():
            if entry.open and entry.number in by_trial:
                self._tell(by_trial[entry.number])
        if self.records:
            self._publish()

    def _next_cohort(self) -> list[Entry]:
        """Open trials, or else new ones, as many as the time left pays for."""
        affordable = self._affordable()
        entries = [entry for entry in self.ledger.entries() if entry.open]
        return entries[:affordable] if entries else self._fill_block(affordable)

    def _fill_block(self, affordable: int) -> list[Entry]:
        """Enter the trials that are still missing from the current block."""
        size = self.manifest.cohort
        entries = self.ledger.entries()
        first = len(entries)
        last = min((first // size + 1) * size, self.spec.budget.trials, first + affordable)
        taken = {entry.genotype.hash for entry in entries}
        added = []
        for slot in range(first, last):
            proposal = self._propose(slot, (slot // size) * size, taken)
            seed = seed_of(self.spec.seed, proposal.genotype.hash, "0")
            entry = self.ledger.add(
                proposal.genotype,
                seed=seed,
                origin=proposal.origin,
                params=proposal.params,
                space=self.space,
            )
            taken.add(proposal.genotype.hash)
            added.append(entry)
        return added

    def _propose(self, slot: int, horizon: int, taken: set[str]) -> Proposal:
        if slot < len(self.points):
            name, genotype = self.points[slot]
            return Proposal(genotype, encode(self.space, genotype), f"method {name}")
        history = [
            Measured(
                genotype_from_dict(record.genotype),
                record.metrics[self.ground.task.metric].value
                if record.state == "complete"
                else None,
                record.trainable_params,
            )
            for record in self.records
            if record.trial < horizon
        ]
        return propose(
            self.space,
            self.spec.sampler,
            seed=self.spec.seed,
            slot=slot,
            history=history,
            taken=taken,
        )

    def _run_job(self, entries: Sequence[Entry]) -> None:
        job = Job(
            trials=tuple(JobTrial(e.number, e.genotype, e.seed) for e in entries),
            rung=0,
            replicate=0,
            order_seed=seed_of(self.spec.seed, "order", "0"),
        )
        numbers = tuple(trial.number for trial in job.trials)

        def progress(step: int, steps: int) -> None:
            self.watcher.stepped(numbers, step, steps)

        for record in self.engine.run(job, progress):
            write_record(self.study.folder, record)
            self.records.append(record)
            self._tell(record)
            front = self._publish()
            summary = describe(genotype_from_dict(record.genotype))
            self.watcher.measured(record, summary, front)

    def _tell(self, record: Record) -> None:
        if record.state == "complete":
            quality = record.metrics[self.ground.task.metric].value
            self.ledger.complete(record.trial, objective_values(quality, record.trainable_params))
        else:
            self.ledger.fail(record.trial)

    def _publish(self) -> Front:
        """Write front and compiled records; delete the weights of dominated trials."""
        front = front_of(
            self.records,
            self.ground.task.metric,
            "maximize",
            self.space.max_params,
            lambda genotype: describe(genotype_from_dict(genotype)),
        )
        compile_jsonl(self.study.folder)
        write_front(self.study.folder, front)
        kept = {point.trial for point in front.points}
        for record in self.records:
            if record.weights is not None and record.trial not in kept:
                (self.study.folder / record.weights).unlink(missing_ok=True)
        return front

    def _trial_seconds(self) -> float:
        measured = [record.seconds for record in self.records]
        return sum(measured) / len(measured) if measured else self.manifest.trial_seconds

    def _affordable(self) -> int:
        """How many trials the time left pays for."""
        limit = self.spec.budget.time
        if limit is None:
            return self.spec.budget.trials
        spent = sum(record.seconds for record in self.records)
        return max(0, int((limit - spent) // self._trial_seconds()))

    def _check_failures(self) -> None:
        last = sorted(self.records, key=lambda record: record.key)[-MAX_FAILURES_IN_A_ROW:]
        if len(last) == MAX_FAILURES_IN_A_ROW and all(r.state == "failed" for r in last):
            cause = last[-1].failure
            raise TooManyFailuresError(
                f"the last {len(last)} trials all failed, the last one by "
                f"{cause.kind if cause else 'an unknown cause'}; see {self.study.folder}"
            )


def _new(
    ground: Ground,
    space: SearchSpace,
    points: Sequence[tuple[str, Genotype]],
    fingerprint: dict[str, object],
) -> Manifest:
    with_ops = [genotype for _, genotype in points if genotype.ops]
    # What has a cohort of its own says nothing of the cohorts of the others.
    typical = [genotype for genotype in with_ops if not genotype.alone] or with_ops
    if not typical:
        first = propose(space, "random", seed=ground.spec.seed, slot=0, history=[], taken=())
        typical = [first.genotype]
    decided = decide(ground, typical, ground.spec.training.cohort)
    _check_time(ground.spec, decided.trial_seconds)
    backbone, dataset = ground.backbone, ground.dataset
    return new_manifest(
        fingerprint=fingerprint,
        model={
            "name": backbone.name,
            "revision": backbone.revision,
            "sha256": backbone.fingerprint,
            **backbone.shape.to_dict(),
        },
        data={
            "sha256": dataset.fingerprint,
            "rows": {split.name: len(split) for split in dataset.splits},
            "labels": list(dataset.label_names),
            "notes": list(ground.notes),
        },
        settings=decided.settings,
        cohort=decided.cohort,
        max_params=space.max_params,
        trial_seconds=decided.trial_seconds,
        trial_bytes=decided.trial_bytes,
        device=device(),
    )


def _self_contained(spec: StudySpec) -> StudySpec:
    """The study with a space of one's own replaced by the copy in the folder."""
    return (
        spec if spec.space in shipped_spaces() else spec.model_copy(update={"space": "space.yaml"})
    )


def _check_time(spec: StudySpec, trial_seconds: float) -> None:
    if spec.budget.time is not None and spec.budget.time < trial_seconds:
        raise NoFeasibleTrialError(
            f"the time budget of {spec.budget.time:g} s is less than the {trial_seconds:.1f} s "
            "that one trial is expected to take"
        )
