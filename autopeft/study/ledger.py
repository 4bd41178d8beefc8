"""The ledger: one Optuna study in SQLite that knows every trial. Only the driver writes it.

A trial enters complete (genotype, seed, coordinates) in one step, so none lacks a genotype, and
leaves with its values or as failed. The measurements themselves are the record files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from autopeft.errors import DataError
from autopeft.space.dimension import Params
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.search_space import SearchSpace
from autopeft.study.distributions import distributions_of

STUDY_NAME = "autopeft"
DIRECTIONS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize")
BUSY_SECONDS = 60


@dataclass(frozen=True)
class Entry:
    """A trial of the ledger.

    Attributes:
        number: its number, counted from 0.
        genotype: what is trained.
        seed: initialises it.
        origin: where it came from, such as `method lora` or `tpe`.
        open: it has no result yet.
    """

    number: int
    genotype: Genotype
    seed: int
    origin: str
    open: bool


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
        except Exception as error:  # SQLAlchemy and Optuna raise many kinds here
            cause = str(error).splitlines()[0]
            raise DataError(f"{path}: not a study database: {cause}") from error

    def close(self) -> None:
        """Release the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def entries(self) -> list[Entry]:
        """All trials, by number."""
        trials = self._study.get_trials(deepcopy=False)
        return [self._entry(trial) for trial in trials]

    def add(
        self,
        genotype: Genotype,
        *,
        seed: int,
        origin: str,
        params: Params | None,
        space: SearchSpace,
    ) -> Entry:
        """Enter a trial before it is trained.

        Args:
            genotype: what is trained.
            seed: initialises it.
            origin: where it came from.
            params: its coordinates in the space, None if it is not of the space.
            space: gives the coordinates their ranges.
        """
        distributions: Mapping[str, BaseDistribution] = distributions_of(space) if params else {}
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(params or {}),
                distributions=dict(distributions),
                user_attrs={
                    "genotype": genotype.to_dict(),
                    "hash": genotype.hash,
                    "seed": seed,
                    "origin": origin,
                },
            )
        )
        number = len(self._study.get_trials(deepcopy=False)) - 1
        return Entry(number, genotype, seed, origin, open=True)

    def complete(self, number: int, values: Sequence[float]) -> None:
        """Close a trial with its objectives."""
        self._study.tell(number, list(values))

    def fail(self, number: int) -> None:
        """Close a trial that has no measurement."""
        self._study.tell(number, state=TrialState.FAIL)

    def _entry(self, trial: FrozenTrial) -> Entry:
        attributes: Mapping[str, Any] = trial.user_attrs
        if not {"genotype", "seed", "origin"} <= set(attributes):
            raise DataError(f"{self._path}: trial {trial.number} was not made by autopeft")
        return Entry(
            number=trial.number,
            genotype=genotype_from_dict(attributes["genotype"], f"{self._path}"),
            seed=int(attributes["seed"]),
            origin=str(attributes["origin"]),
            open=not trial.state.is_finished(),
        )


def _durable(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
