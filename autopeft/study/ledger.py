"""The ledger: one Optuna study that knows every trial, for whoever reads Optuna studies.

Only the driver writes it, and only what jobs and records say: a trial enters complete (genotype,
seed, coordinates) in one step when its job is written, and leaves with its values or as failed
when its record is. So one that lags behind, or was lost, is brought up to date.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from autopeft.engines.job import Job, JobTrial
from autopeft.errors import DataError
from autopeft.space.dimension import Params
from autopeft.space.search_space import SearchSpace
from autopeft.study.distributions import distributions_of

STUDY_NAME = "autopeft"
DIRECTIONS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize")
BUSY_SECONDS = 60


class Ledger:
    """The Optuna study of a folder.

    Args:
        path: the SQLite file; made if it is not there.

    Raises:
        DataError: the file is not a study.
    """

    def __init__(self, path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = path
        try:
            storage = RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}}
            )
            event.listen(storage.engine, "connect", _durable)
            storage.engine.dispose()
            self._storage = storage
            self._study = optuna.create_study(
                study_name=STUDY_NAME,
                storage=storage,
                directions=DIRECTIONS,
                load_if_exists=True,
            )
            trials = self._study.get_trials(deepcopy=False)
        except Exception as error:  # SQLAlchemy and Optuna raise many kinds here
            cause = str(error).splitlines()[0]
            raise DataError(f"{path}: not a study database: {cause}") from error
        self._hashes = [str(trial.user_attrs.get("hash")) for trial in trials]
        self._open = {trial.number for trial in trials if not trial.state.is_finished()}

    def close(self) -> None:
        """Release the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse a database that tells of other trials than the jobs.

        Raises:
            DataError: it is that of another study.
        """
        known = {trial.number: trial.genotype.hash for job in jobs for trial in job.trials}
        for number, found in enumerate(self._hashes):
            if known.get(number) != found:
                raise DataError(
                    f"{self._path}: trial {number} is not that of the jobs beside it; move the "
                    "file away, and it is made again from jobs and records"
                )

    def enter(self, trial: JobTrial, params: Params | None, space: SearchSpace) -> None:
        """Enter a trial, if it is not there.

        Args:
            trial: the next one that is missing, or one that is there.
            params: its coordinates in the space, None if it is not of the space.
            space: gives the coordinates their ranges.
        """
        if trial.number < len(self._hashes):
            return
        self._study.add_trial(
            create_trial(
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
        )
        self._open.add(len(self._hashes))
        self._hashes.append(trial.genotype.hash)

    def complete(self, number: int, values: Sequence[float]) -> None:
        """Close a trial with its objectives, if it is open."""
        if number in self._open:
            self._study.tell(number, list(values))
            self._open.remove(number)

    def fail(self, number: int) -> None:
        """Close a trial that has no measurement, if it is open."""
        if number in self._open:
            self._study.tell(number, state=TrialState.FAIL)
            self._open.remove(number)


def _durable(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
