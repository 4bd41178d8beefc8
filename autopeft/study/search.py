"""A search from its beginning to its end, or from where it was interrupted."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from autopeft.engines.engine import Engine
from autopeft.engines.local import LocalEngine
from autopeft.errors import ConfigError, DiskFullError
from autopeft.study.cache import FOLDER, RecordCache, conditions_of
from autopeft.study.driver import Driver
from autopeft.study.events import Silent, Watcher
from autopeft.study.folder import Study
from autopeft.study.jobs import read_jobs
from autopeft.study.lock import locked
from autopeft.study.prepared import Prepared, prepared
from autopeft.study.setup import read_space, set_up
from autopeft.study.spec import StudySpec
from autopeft.study.storage import check_client, check_local
from autopeft.study.warm_start import read_warm_start


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
        DataError: data, model or server cannot be used, another search is running on the folder, or
            the disk is full; what was measured is safe.
        NoFeasibleTrialError: nothing in the space fits the budget.
        TooManyFailuresError: the last trials all failed.
    """
    base = base or Path.cwd()
    study = Study(out)
    study.check_usable()
    if spec.storage is None:
        check_local(out)
    else:
        check_client()
    space = read_space(spec, base, out)
    front = read_warm_start(spec.resolved(base).warm_start, out)
    with (
        _pausing(study),
        locked(out) as stale,
        closing(make_engine(spec.resolved(base))) as engine,
    ):
        whole, notes = _with_all_trials(spec.resolved(base), study)
        setup = set_up(whole, space, engine.load(), front)
        ready = prepared(study, setup, engine, spec.training.cohort)
        for note in notes:
            ready = ready.noting(note)
        if stale is not None:
            note = f"the last search on this folder was killed ({stale}); it is continued"
            ready = ready.noting(note)
        engine.begin(ready.manifest.decided, out)
        with closing(ready.ledger()) as ledger:
            watcher = watcher or Silent()
            cache = _cache(ready, watcher) if spec.cache else None
            driver = Driver(study, ready.setup, ready.manifest, ledger, engine, watcher, cache)
            driver.watcher.planned(driver.plan())
            driver.run(engine.results)
    return study


def _with_all_trials(spec: StudySpec, study: Study) -> tuple[StudySpec, list[str]]:
    """The study with no fewer trials than it has begun, and what there is to say of that."""
    n_wanted = spec.budget.trials
    n_there = len({trial.number for job in read_jobs(study.folder) for trial in job.trials})
    if n_there <= n_wanted:
        return spec, []
    budget = spec.budget.model_copy(update={"trials": n_there})
    note = f"{n_there} trials are there already, so the total is {n_there}, not {n_wanted}"
    return spec.model_copy(update={"budget": budget}), [note]


def prepare(spec: StudySpec, out: Path, *, base: Path | None = None) -> Prepared:
    """Make a study up to its first trial, for whoever trains them by other means, one at a time.

    Model and data are loaded once, where the study's engine would train.

    Args:
        spec: the study.
        out: its folder; one that was prepared before is read again, and has to be the same study.
        base: folder that relative paths in `spec` start from; the working folder by default.

    Raises:
        ConfigError: the study is not valid, or the folder holds another one.
        DataError: data or model cannot be used, or a search is running on the folder.
        NoFeasibleTrialError: nothing in the space fits the budget.
    """
    base = base or Path.cwd()
    study = Study(out)
    study.check_usable()
    if spec.storage is not None:
        check_client()
    space = read_space(spec, base, out)
    front = read_warm_start(spec.resolved(base).warm_start, out)
    with _pausing(study), locked(out), closing(make_engine(spec.resolved(base))) as engine:
        setup = set_up(spec.resolved(base), space, engine.load(), front)
        ready = prepared(study, setup, engine, 1)
        ready.write_facts()
    return ready


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


def _cache(ready: Prepared, watcher: Watcher) -> RecordCache:
    """That of the folder which the study's folder lies in."""
    study = ready.study
    return RecordCache(
        study.beside.absolute() / FOLDER,
        study.folder,
        name=ready.manifest.study,
        conditions=conditions_of(ready.setup, ready.manifest),
        note=watcher.noted,
    )
