"""One worker of a cluster as the driver sees it."""

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from autopeft.engines.outcome import Attempt, Mishap, Moment
from autopeft.engines.ray.cluster import Share
from autopeft.engines.ray.station import Station
from autopeft.errors import AutopeftError, DataError
from autopeft.records import Failure

Phase = Literal["absent", "placing", "loading", "idle", "running"]
"""No actor; an actor that waits for a node; one that loads; one without and with a job."""

LOST = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,
    WorkerCrashedError,
    LocalRayletDiedError,
)

_NO_IMPORT = "failed to import"
_NO_MEMORY = "running low on memory"


@dataclass
class Slot:
    """One worker, or the place of one.

    Attributes:
        phase: what it does.
        node: where it is, once that is known.
        since: of the last news of it, by the monotonic clock.
        losses: actors lost before they were ready, in a row.
        attempt: what it runs.
        began: when it began with that.
        actor: the station there, if there is one.
        number: among the workers of the study.
    """

    phase: Phase = "absent"
    node: str = "a node"
    since: float = 0.0
    losses: int = 0
    attempt: Attempt | None = None
    began: Moment = field(default_factory=Moment)
    actor: Any = None
    number: int = 0

    def place(self, share: Share, trial_timeout_seconds: float) -> None:
        """Ask the cluster for an actor, far from the others if it can be."""
        self.actor = (
            ray.remote(Station)
            .options(num_cpus=share.cpus, num_gpus=share.gpus, scheduling_strategy="SPREAD")
            .remote(share.sharing, trial_timeout_seconds)
        )
        self.phase = "placing"

    def begin(self, attempt: Attempt) -> None:
        """Remember what it runs."""
        self.phase, self.attempt, self.began = "running", attempt, Moment()

    def brought(self, trial: int) -> frozenset[int]:
        """A record that is no longer wanted of it.

        Returns:
            Trials whose record still is.

        Raises:
            DataError: it was not wanted.
        """
        if self.attempt is None or trial not in self.attempt.wanted:
            raise DataError(f"the worker on {self.node} sent trial {trial} unasked")
        self.attempt = replace(self.attempt, wanted=self.attempt.wanted - {trial})
        return self.attempt.wanted

    def heard(self) -> None:
        """There is news of it."""
        self.since = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Since there was news of it."""
        return time.monotonic() - self.since

    def drop(self) -> Attempt | None:
        """End the actor, if it is still there, and give back what it ran."""
        attempt, self.attempt, self.phase = self.attempt, None, "absent"
        with contextlib.suppress(RayError):
            ray.kill(self.actor)
        self.actor = None
        return attempt


def mishap_of(error: RayError) -> Mishap:
    """What the loss of an actor is for the job that it ran.

    Raises:
        AutopeftError: it would be lost again.
    """
    told = str(error)
    if isinstance(error, ActorUnschedulableError):
        raise DataError(f"no node takes a worker: {_first(told)}") from error
    if _NO_IMPORT in told:
        missing = next((line for line in told.splitlines() if "ModuleNotFoundError" in line), "")
        raise DataError(
            "a node of the cluster cannot import autopeft; install the driver's environment there"
            + (f" ({missing.strip()})" if missing else "")
        ) from error
    if _NO_MEMORY in told:
        return Mishap(Failure("out_of_memory", "Ray ended the worker, since memory had run out"))
    return Mishap(Failure("crash", "the worker or its node was lost"), from_outside=True)


def failed_by(error: RayTaskError, node: str) -> AutopeftError:
    """What a station raised, which is none of a trial's faults."""
    cause = error.cause
    if isinstance(cause, AutopeftError):
        return cause
    return DataError(f"the worker on {node} failed: {type(cause).__name__}: {_first(str(cause))}")


def _first(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
