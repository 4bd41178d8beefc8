"""The ledger: one Optuna study that knows every trial, for whoever reads Optuna studies.

Only the driver writes it, and only what jobs and records say: a trial enters complete (genotype,
seed, coordinates) in one step when its job is written, and leaves with its values or as failed
when its record is. Where there are rungs, it leaves at the top one, and the others are pruned when
the search ends; what a rung has measured is an intermediate value at its step. So one that lags
behind, or was lost, is brought up to date.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar
from warnings import catch_warnings

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import URL, create_engine, event
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from autopeft.engines.job import Job, JobTrial
from autopeft.errors import DataError, DiskFullError
from autopeft.objectives import directions_of
from autopeft.space.dimension import Params
from autopeft.space.search_space import SearchSpace
from autopeft.study.distributions import distributions_of
from autopeft.study.quiet import quiet
from autopeft.study.server import Holder, cause_of, is_lost, lost, psycopg_url

STUDY_NAME = "autopeft"
BUSY_SECONDS = 60
RETRY_SECONDS = (0.5, 1, 2, 4, 8, 15, 30, 60, 60, 60)
"""Waits while a server restarts."""

LOOK_SECONDS = 5.0
"""Between two looks whether a server still knows whose the study is."""

_CONTINUES = "continues"

REMADE = "move the file away, and it is made again from jobs and records"

T = TypeVar("T")


class Ledger:
    """An Optuna study.

    Args:
        where: a SQLite file, made if it is not there, or the URL of a PostgreSQL server.
        name: of the study there.
        values: names of what it optimises: the quality, which it maximises, and costs.

    Raises:
        DataError: it is not a study, cannot be reached, or another driver has it.
    """

    def __init__(
        self,
        where: Path | str,
        name: str = STUDY_NAME,
        values: Sequence[str] = ("quality", "cost"),
    ) -> None:
        self._where, self._looked = where, time.monotonic()
        self._holder = Holder(where, name) if isinstance(where, str) else None
        try:
            trials = self._again(lambda: self._open_study(name, values))
        except Exception as error:  # SQLAlchemy and Optuna raise many kinds here
            if self._holder is not None:
                self._holder.close()
            if isinstance(error, DataError):
                raise
            raise _no_study(where, error) from error
        firsts, self._n_trials = _firsts(trials), len(trials)
        self._numbers = [trial.number for trial in firsts]
        self._hashes = [str(trial.user_attrs.get("hash")) for trial in firsts]
        self._open = {n for n, trial in enumerate(firsts) if not trial.state.is_finished()}
        self._pruned = {n for n, trial in enumerate(firsts) if trial.state == TrialState.PRUNED}
        gone_on = {trial.user_attrs.get(_CONTINUES) for trial in trials}
        self._pruned -= {n for n, number in enumerate(self._numbers) if number in gone_on}
        self._curves: dict[int, dict[int, float]] = {}

    def close(self) -> None:
        """Release file or server."""
        self._release()
        if self._holder is not None:
            self._holder.close()

    def keep(self) -> None:
        """Take the lock of a server again that has restarted; to be called all the time.

        Raises:
            DataError: another driver has taken it meanwhile.
        """
        if self._holder is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        with suppress(SQLAlchemyError):  # a server that is away is waited for when it is needed
            self._holder.hold()
        self._looked = time.monotonic()

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse a database that tells of other trials than the jobs.

        Raises:
            DataError: it is that of another study.
        """
        known = {trial.number: trial.genotype.hash for job in jobs for trial in job.trials}
        for number, found in enumerate(self._hashes):
            if known.get(number) != found:
                raise DataError(
                    f"{self._where}: trial {number} is not that of the jobs beside it; {REMADE}"
                )

    def enter(self, trial: JobTrial, params: Params | None, space: SearchSpace) -> None:
        """Enter a trial, if it is not there.

        Args:
            trial: the next one that is missing, or one that is there.
            params: its coordinates in the space, None if it is not of the space.
            space: gives the coordinates their ranges.

        Raises:
            DataError: the database cannot be written, or knows other choices in the space.
        """
        if trial.number < len(self._hashes):
            return
        entry = create_trial(
            state=TrialState.RUNNING,
            params=dict(params or {}),
            distributions=dict(distributions_of(space)) if params else {},
            user_attrs={
                "genotype": trial.genotype.to_dict(),
                "hash": trial.genotype.hash,
                "seed": trial.seed,
                "origin": trial.origin,
            },
        )

        is_there = False  # or perhaps it is, after a server was lost while it was written

        def add() -> int:
            nonlocal is_there
            if is_there:
                firsts = _firsts(self._study.get_trials(deepcopy=False))
                if len(firsts) > trial.number:
                    return firsts[trial.number].number
            is_there = True
            self._study.add_trial(entry)
            return self._n_trials

        try:
            self._numbers.append(self._write(add))
        except ValueError as error:  # what Optuna calls a dynamic value space
            raise DataError(
                f"{self._where}: an earlier autopeft saw other choices in this space; {REMADE}"
            ) from error
        self._n_trials = self._numbers[-1] + 1
        self._open.add(trial.number)
        self._hashes.append(trial.genotype.hash)

    def measure(self, number: int, step: int, quality: float) -> None:
        """Note what a trial has come to on its way, if it is open.

        One that has gone on since it was pruned gets it where `complete` writes it.

        Args:
            number: of the trial.
            step: of its training.
            quality: there.

        Raises:
            DataError: the database cannot be written.
        """
        self._curves.setdefault(number, {})[step] = quality
        if number not in self._open:
            return

        def note() -> None:
            # Not `Trial.report`, which is for studies of one objective.
            study = self._storage.get_study_id_from_name(self._study.study_name)
            trial = self._storage.get_trial_id_from_study_id_trial_number(
                study, self._numbers[number]
            )
            self._storage.set_trial_intermediate_value(trial, step, quality)

        self._write(note)

    def complete(self, number: int, values: Sequence[float]) -> None:
        """Close a trial with its objectives, if it is open.

        One that was pruned and has gone on since gets them in a trial that names the old one, since
        Optuna never opens a trial again.

        Raises:
            DataError: the database cannot be written.
        """
        if number in self._pruned:
            self._continue(number, list(values))
        self._tell(number, list(values), TrialState.COMPLETE)

    def fail(self, number: int) -> None:
        """Close a trial that has no measurement, if it is open.

        Raises:
            DataError: the database cannot be written.
        """
        self._tell(number, None, TrialState.FAIL)

    def prune(self, number: int) -> None:
        """Close a trial that was not trained to the end, if it is open.

        Raises:
            DataError: the database cannot be written.
        """
        if number in self._open:
            self._pruned.add(number)
        self._tell(number, None, TrialState.PRUNED)

    def _open_study(self, name: str, values: Sequence[str]) -> list[FrozenTrial]:
        """Open the study, or make it; its trials."""
        with nullcontext() if self._holder is None else self._holder.alone():
            self._storage = _storage(self._where)
            try:
                self._study = optuna.create_study(
                    study_name=name,
                    storage=self._storage,
                    directions=directions_of(len(values) - 1),
                    load_if_exists=True,
                )
                if self._study.metric_names is None:  # for whoever opens it with a tool of Optuna's
                    with catch_warnings(category=ExperimentalWarning, action="ignore"):
                        self._study.set_metric_names(list(values))
                return self._study.get_trials(deepcopy=False)
            except BaseException:
                self._release()
                raise

    def _release(self) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _continue(self, number: int, values: list[float]) -> None:
        def add() -> None:
            trials = self._study.get_trials(deepcopy=False)
            old = trials[self._numbers[number]]
            if old.number not in {trial.user_attrs.get(_CONTINUES) for trial in trials}:
                self._study.add_trial(
                    create_trial(
                        values=values,
                        intermediate_values=self._curves.get(number),
                        params=old.params,
                        distributions=old.distributions,
                        user_attrs={**old.user_attrs, _CONTINUES: old.number},
                    )
                )

        self._write(add)
        self._n_trials = len(self._study.get_trials(deepcopy=False))
        self._pruned.remove(number)

    def _tell(self, number: int, values: list[float] | None, state: TrialState) -> None:
        if number not in self._open:
            return

        def tell() -> None:
            optuna_number = self._numbers[number]
            self._study.tell(optuna_number, values, state=state, skip_if_finished=True)

        self._write(tell)
        self._open.remove(number)

    def _write(self, action: Callable[[], T]) -> T:
        """Write something that may be written twice.

        Raises:
            DataError: it cannot be written.
        """
        try:
            return self._again(action)
        except (SQLAlchemyError, StorageInternalError) as error:
            raise _refusal(self._where, error) from error

    def _again(self, action: Callable[[], T]) -> T:
        """Do something that may be done twice; on a server that is lost, again until it is back.

        Raises:
            DataError: it does not come back, or another driver has the study.
        """
        waits = iter(RETRY_SECONDS if self._holder is not None else ())
        while True:
            try:
                if self._holder is not None:
                    self._holder.hold()
                with quiet():
                    return action()
            except (SQLAlchemyError, StorageInternalError) as error:
                wait = next(waits, None)
                if wait is None and isinstance(self._where, str) and is_lost(error):
                    raise DataError(lost(self._where, error, sum(RETRY_SECONDS))) from error
                if wait is None or isinstance(cause_of(error), ProgrammingError):
                    raise  # that is no better later
                time.sleep(wait)


def _firsts(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that continue no other one, by the number that autopeft knows them by."""
    return [trial for trial in trials if _CONTINUES not in trial.user_attrs]


def _storage(where: Path | str) -> RDBStorage:
    if isinstance(where, str):
        return RDBStorage(psycopg_url(where), engine_kwargs={"pool_pre_ping": True})
    url = URL.create("sqlite", database=str(where))  # a path may have what a URL gives a meaning
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _durable)
    try:
        return RDBStorage("sqlite://", engine_kwargs={"pool": engine.pool})
    except BaseException:
        engine.dispose()  # Optuna leaves open what it refuses
        raise


def _no_study(where: Path | str, error: Exception) -> DataError:
    told = f"{where}: not a study database: {_told(error)}"
    is_damaged = isinstance(where, Path) and not isinstance(cause_of(error), OperationalError)
    return DataError(f"{told}; {REMADE}" if is_damaged else told)


def _told(error: Exception) -> str:
    """What the database said, or else Optuna, in a line."""
    cause = cause_of(error)
    return str(error if cause is None else cause.orig).splitlines()[0]


def _refusal(where: Path | str, error: Exception) -> DataError:
    told = _told(error)
    kind = DiskFullError if "disk is full" in told or "No space left" in told else DataError
    return kind(f"{where} cannot be written: {told}")


def _durable(connection: Any, _: Any) -> None:
    try:
        connection.execute("PRAGMA journal_mode=WAL").close()
        connection.execute("PRAGMA synchronous=FULL").close()
    except BaseException:
        connection.close()  # which SQLAlchemy 2.0.0 does not
        raise
