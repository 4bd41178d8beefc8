"""A search from its beginning to its end, or from where it was interrupted."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from autopeft.engines.engine import Engine
from autopeft.engines.local import LocalEngine
from autopeft.errors import ConfigError, DiskFullError
from autopeft.files import remove_temporaries, write_atomic
from autopeft.space.genotype import Genotype
from autopeft.space.shipped import shipped_spaces
from autopeft.space.spec import SpaceSpec
from autopeft.study.cache import FOLDER, RecordCache, conditions_of
from autopeft.study.driver import Driver, check_time
from autopeft.study.events import Silent, Watcher
from autopeft.study.folder import Study
from autopeft.study.ledger import Ledger
from autopeft.study.lock import locked
from autopeft.study.manifest import (
    Manifest,
    check_same,
    new_manifest,
    read_manifest,
    write_manifest,
)
from autopeft.study.propose import propose
from autopeft.study.rungs import rungs_of
from autopeft.study.setup import Setup, read_space, set_up
from autopeft.study.spec import StudySpec
from autopeft.study.storage import check_local
from autopeft.study.warm_start import read_warm_start, write_copy
from autopeft.study.write import spec_yaml

DRAWS = 16
"""Proposals among which one is looked for that can share a cohort."""


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
        DataError: data or model cannot be used, another search is running on the folder, or the
            disk is full; what was measured is safe.
        NoFeasibleTrialError: nothing in the space fits the budget.
        TooManyFailuresError: the last trials all failed.
    """
    base = base or Path.cwd()
    study = Study(out)
    study.check_usable()
    if spec.storage is None:
        check_local(out)
    space = read_space(spec, base, out)
    front = read_warm_start(spec.resolved(base).warm_start, out)
    with (
        _pausing(study),
        locked(out) as stale,
        closing(make_engine(spec.resolved(base))) as engine,
    ):
        setup = set_up(spec.resolved(base), space, engine.load(), front)
        manifest = _manifest(study, setup, engine)
        setup = setup.knowing(manifest.costs)
        if stale is not None:
            note = f"the last search on this folder was killed ({stale}); it is continued"
            setup = replace(setup, notes=(*setup.notes, note))
        _write_specs(study, setup, space)
        engine.begin(manifest.decided, out)
        with closing(_ledger(study, manifest, spec)) as ledger:
            watcher = watcher or Silent()
            cache = _cache(study, setup, manifest, watcher) if spec.cache else None
            driver = Driver(study, setup, manifest, ledger, engine, watcher, cache)
            driver.watcher.planned(driver.plan())
            driver.run()
    return study


def make_engine(spec: StudySpec) -> Engine:
    """Where the trials of a study run.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    if spec.engine.kind == "ray":
        return _ray_engine(spec)
    if spec.engine.workers == 0:
        from autopeft.engines.inline import InlineEngine  # noqa: PLC0415 - it brings torch

        return InlineEngine(spec.work)
    return LocalEngine(
        spec.work,
        workers=spec.engine.workers,
        trial_timeout_seconds=spec.engine.trial_timeout,
    )


def _ray_engine(spec: StudySpec) -> Engine:
    from autopeft.engines.ray.settings import RaySettings, prepare_environment  # noqa: PLC0415

    engine = spec.engine
    settings = RaySettings(
        address=engine.address,
        workers=engine.workers,
        gpus_per_worker=engine.gpus_per_worker,
        cpus_per_worker=engine.cpus_per_worker,
        trial_timeout_seconds=engine.trial_timeout,
    )
    prepare_environment(engine.address)
    try:
        from autopeft.engines.ray.engine import RayEngine  # noqa: PLC0415 - it brings Ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError(
            "engine.kind: `ray` needs Ray, which is not installed: pip install 'autopeft[ray]'"
        ) from error
    return RayEngine(spec.work, settings)


@contextmanager
def _pausing(study: Study) -> Iterator[None]:
    """Say what a full disk means for a study that has begun."""
    try:
        yield
    except DiskFullError as error:
        if not study.manifest_file.exists():
            raise
        raise DiskFullError(
            f"{error}. The study is paused, and what was measured is safe; make room, then: "
            f"autopeft resume {study.folder}"
        ) from error


def _manifest(study: Study, setup: Setup, engine: Engine) -> Manifest:
    """That of the folder if it is the same study, otherwise a new one."""
    if study.manifest_file.exists():
        manifest = read_manifest(study.manifest_file)
        check_same(study.manifest_file, manifest, setup.fingerprint)
        for folder in (study.folder, *(study.folder / name for name in ("jobs", "records"))):
            remove_temporaries(folder)
        return manifest
    decided = engine.decide(_typical(setup), setup.spec.training.cohort)
    check_time(setup.spec, decided.trial_seconds)
    spec = setup.spec
    if spec.predicts:
        costs = engine.calibrate(decided.settings, setup.probes)
        decided = decided.model_copy(update={"costs": costs})
        setup.knowing(costs)  # or refuse the study before it has begun
    rungs = rungs_of(setup.steps, spec.budget.trials, spec.rungs, spec.reduction)
    manifest = new_manifest(
        setup.fingerprint,
        setup.facts,
        decided,
        max_params=setup.space.max_params,
        rung_steps=rungs.steps,
    )
    write_manifest(study.manifest_file, manifest)
    return manifest


def _typical(setup: Setup) -> list[Genotype]:
    """Genotypes that say how large cohorts can be; what has no company only if all are so."""
    with_ops = [start.genotype for start in setup.starts.first if start.genotype.ops]
    if together := [genotype for genotype in with_ops if not genotype.alone]:
        return together
    seed = setup.spec.seed
    drawn = [
        propose(setup.space, "random", seed=seed, slot=slot, history=[], taken=()).genotype
        for slot in range(DRAWS)
    ]
    together = [genotype for genotype in drawn if not genotype.alone]
    return together[:1] or with_ops or drawn[:1]


def _cache(study: Study, setup: Setup, manifest: Manifest, watcher: Watcher) -> RecordCache:
    """That of the folder which the study's folder lies in."""
    return RecordCache(
        study.folder.absolute().parent / FOLDER,
        study.folder,
        name=manifest.study,
        conditions=conditions_of(setup, manifest),
        note=watcher.noted,
    )


def _ledger(study: Study, manifest: Manifest, spec: StudySpec) -> Ledger:
    n_costs = len(spec.costs)
    if spec.storage is None:
        return Ledger(study.database, n_costs=n_costs)
    return Ledger(spec.storage, manifest.study, n_costs)


def _write_specs(study: Study, setup: Setup, space: SpaceSpec) -> None:
    """Write study and space file; they follow from what was given, so a lost one comes back."""
    spec = setup.spec
    if spec.space not in shipped_spaces():  # the folder is to be whole without the file it names
        spec = spec.model_copy(update={"space": "space.yaml"})
    if setup.warm_start is not None:
        spec = spec.model_copy(update={"warm_start": write_copy(study.folder, setup.warm_start)})
    write_atomic(study.space_file, spec_yaml(space))
    write_atomic(study.spec_file, spec_yaml(spec))
