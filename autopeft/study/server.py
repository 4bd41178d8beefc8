"""A PostgreSQL server below ledgers: the lock on a study, and what is told if it is lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from autopeft.errors import DataError


class Holder:
    """A lock on a study of a server, so that copies of a folder have one driver too.

    Args:
        url: of the server, without a secret.
        name: of the study there.

    Raises:
        DataError: the server cannot be used, or another driver has the study.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._engine: Engine = create_engine(psycopg_url(url), poolclass=NullPool)
        self._connection: Connection | None = None
        self._was_ours = False
        try:
            self.hold()
        except SQLAlchemyError as error:
            self.close()
            raise DataError(lost(url, error)) from error
        except DataError:
            self.close()
            raise

    def hold(self) -> None:
        """Make sure that the lock is ours; a server that restarts forgets it.

        Raises:
            DataError: another driver has it.
            SQLAlchemyError: the server is not there.
        """
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
            except SQLAlchemyError:
                self._connection.invalidate()
                self._connection = None
            else:
                return
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        query = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
        if not connection.execute(query, {"name": self._name}).scalar():
            connection.close()
            raise DataError(self._taken())
        self._connection, self._was_ours = connection, True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other driver of this server make the tables at the same time."""
        with self._engine.connect() as connection, connection.begin():
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('tables', 0))"))
            yield

    def close(self) -> None:
        """Release the lock."""
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    def _taken(self) -> str:
        if not self._was_ours:
            return f"another search is running on study {self._name} of {self._url}"
        return (
            f"the connection to {self._url} was lost for a while, and another search has taken "
            f"study {self._name} since; this one stops, and what it measured is safe in its folder"
        )


def psycopg_url(url: str) -> str:
    """The URL with the name of the client library."""
    return f"postgresql+psycopg://{url.partition('://')[2]}"


def is_lost(error: BaseException) -> bool:
    """Whether the server itself is not there, or lets nobody in."""
    return isinstance(cause_of(error), OperationalError | InterfaceError)


def lost(url: str, error: BaseException, waited_seconds: float = 0) -> str:
    """What is told of a server that cannot be used.

    Args:
        url: of the server, without a secret.
        error: what came of the last try.
        waited_seconds: for it to come back.
    """
    parts, cause = make_url(psycopg_url(url)), cause_of(error)
    host = parts.host or parts.query.get("host") or os.environ.get("PGHOST", "of this machine")
    port = parts.port or parts.query.get("port") or os.environ.get("PGPORT", "5432")
    told = str(error if cause is None else cause.orig).splitlines()[0]
    waited = f", also after {waited_seconds:g} s of tries" if waited_seconds else ""
    return (
        f"the PostgreSQL server {host}, port {port}, cannot be used{waited}: {told}. See that it "
        "runs, is reached from here, and lets the user in (PGPASSWORD or ~/.pgpass); then run the "
        "search again, or `autopeft resume` if it had begun: what was measured is in its folder"
    )


def cause_of(error: BaseException | None) -> DBAPIError | None:
    """What the database itself said."""
    while error is not None and not isinstance(error, DBAPIError):
        error = error.__cause__
    return error
