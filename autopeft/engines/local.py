"""The local engine: supervised worker processes on this machine, each with the backbone loaded.

A worker that crashes, hangs or runs out of memory ends its attempt and not the study: the job is
split until the guilty trial is alone (`outcome.py`), and the next worker goes on.
"""

import os
import platform
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal, TypeVar

from autopeft import errors
from autopeft.engines.engine import Stepped
from autopeft.engines.job import Job
from autopeft.engines.meter import Meter
from autopeft.engines.outcome import Attempt, Mishap, Moment, after, attempts_of, record_of
from autopeft.engines.process import WorkerProcess
from autopeft.engines.protocol import (
    Begin,
    Calibrate,
    Calibrated,
    Decide,
    Decision,
    Failed,
    Load,
    Loaded,
    Measured,
    Refused,
    Reply,
    Run,
    Step,
)
from autopeft.engines.work import CohortSize, Decided, Facts, Work
from autopeft.errors import AutopeftError, ConfigError, DataError
from autopeft.records import Failure, Record
from autopeft.space.costs import CostModel
from autopeft.space.genotype import Genotype
from autopeft.training.settings import TrainingSettings

WORKER: tuple[str, ...] = (sys.executable, "-P", "-m", "autopeft.engines.worker")
"""The command that starts a worker; a descriptor is appended.

Without `-P` a `random.py` or `datasets.py` in the current folder would be imported.
"""

_LOOK_SECONDS = 1.0
"""Between two looks at workers that say nothing."""

_STARTS = 3
"""Times that a worker may die before its first job."""


@dataclass
class _Running:
    """An attempt in a worker."""

    attempt: Attempt
    began: Moment = field(default_factory=Moment)
    step: int = 0


Answer = TypeVar("Answer", Decision, Calibrated)


class LocalEngine:
    """Runs jobs in worker processes.

    Args:
        work: what they load.
        workers: how many; "auto" for one on each GPU, or one on a CPU.
        trial_timeout_seconds: a worker that makes no progress for so long is ended.
        sharing: engines like this one that share the machine's memory.
        fitting: the study was decided on another machine; split what does not fit this one.

    Raises:
        ConfigError: this system has no such processes.
    """

    def __init__(
        self,
        work: Work,
        workers: int | Literal["auto"] = "auto",
        trial_timeout_seconds: float = 600,
        sharing: int = 1,
        *,
        fitting: bool = False,
    ) -> None:
        if not hasattr(os, "fork"):
            raise ConfigError(
                f"engine.workers: {workers}: worker processes need Linux or macOS, and this is "
                f"{platform.system()}; use WSL, or --workers 0, which trains in the process itself "
                "and supervises nothing"
            )
        self._work, self._wanted_workers = work, workers
        self._timeout, self._sharing = trial_timeout_seconds, sharing
        self._fitting = fitting
        self._workers: dict[int, WorkerProcess] = {}
        self._running: dict[int, _Running] = {}
        self._loading: dict[int, int] = {}
        self._attempts: deque[Attempt] = deque()
        self._meter = Meter()

    def load(self) -> Facts:
        """Start the first worker."""
        self._facts = self._start(0)
        return self._facts

    @property
    def n_workers(self) -> int:
        """Worker processes."""
        wanted = self._wanted_workers
        return self._facts.n_devices if wanted == "auto" else wanted

    def decide(self, genotypes: Sequence[Genotype], cohort: CohortSize) -> Decided:
        """Let the first worker measure how to compute."""
        plain = tuple(genotype.to_dict() for genotype in genotypes)
        return self._ask(Decide(genotypes=plain, cohort=cohort), Decision).decided

    def calibrate(self, settings: TrainingSettings, genotypes: Sequence[Genotype]) -> CostModel:
        """Let the first worker measure what genotypes cost alone, while there is no other."""
        plain = tuple(genotype.to_dict() for genotype in genotypes)
        return self._ask(Calibrate(settings=settings, genotypes=plain), Calibrated).costs

    def _ask(self, request: Decide | Calibrate, expected: type[Answer]) -> Answer:
        """What the first worker says; if it is killed meanwhile, another one is asked."""
        for _ in range(_STARTS):
            reply = self._workers[0].ask(request)
            if isinstance(reply, expected):
                return reply
            lost = _lost_by(reply)
            self._end(0)
            self._start(0)
        raise lost

    def begin(self, decided: Decided, folder: Path) -> None:
        """Get the first worker ready; others start when there is a job for them."""
        place = folder.absolute()
        self._begin = Begin(decided=decided, folder=place, fitting=self._fitting)
        self._workers[0].send(self._begin)

    def submit(self, job: Job, wanted: Collection[int]) -> None:
        """Take a job."""
        self._attempts.extend(attempts_of(job, wanted))

    def results(self, stepped: Stepped, meter: Meter | None = None) -> Iterator[Record]:
        """Records as they come."""
        self._meter = meter or self._meter
        while self._attempts or self._running:
            self._dispatch()
            ready = {self._workers[i].connection: i for i in (*self._running, *self._loading)}
            for connection in wait(list(ready), _LOOK_SECONDS):
                i = ready[connection]  # type: ignore[index]
                if i in self._loading:
                    self._hear_of_loading(i)
                else:
                    yield from self._hear(i, stepped)
            for i in list(self._running):
                if mishap := self._silent(self._workers[i]):
                    yield from self._lost(i, mishap)

    def close(self) -> None:
        """End all workers."""
        for i in list(self._workers):
            self._end(i)
        self._running.clear()
        self._loading.clear()
        self._attempts.clear()

    def _start(self, i: int) -> Facts:
        """Start a worker and wait until it has loaded; one that is killed meanwhile is replaced."""
        for _ in range(_STARTS):
            self._spawn(i)
            reply = self._workers[i].receive()
            if isinstance(reply, Loaded):
                return reply.facts
            lost = _lost_by(reply)
            self._end(i)
        raise lost

    def _spawn(self, i: int) -> None:
        """Start a worker and let it load."""
        workers = 1 if self._wanted_workers == "auto" else self._wanted_workers
        worker = self._workers[i] = WorkerProcess(WORKER)
        worker.send(Load(work=self._work, index=i, workers=workers * self._sharing))

    def _dispatch(self) -> None:
        """Give jobs to workers that have none, and start workers for the rest."""
        for i in sorted(self._workers.keys() - self._running.keys() - self._loading.keys()):
            if self._attempts:
                attempt = self._attempts.popleft()
                self._workers[i].send(Run(job=attempt.job.to_dict(), wanted=attempt.wanted))
                self._running[i] = _Running(attempt)
                self._meter.begins(i)
        for i in range(self.n_workers):
            if i not in self._workers and len(self._loading) < len(self._attempts):
                self._loading[i] = 1
                self._spawn(i)

    def _hear_of_loading(self, i: int) -> None:
        """A worker that was started for jobs has loaded, or another one takes its place."""
        reply = self._workers[i].receive()
        if isinstance(reply, Loaded):
            if reply.facts != self._facts:
                raise DataError("model or data have changed while the search ran")
            self._workers[i].send(self._begin)
            del self._loading[i]
            return
        lost = _lost_by(reply)
        self._end(i)
        if self._loading[i] == _STARTS:
            raise lost
        self._loading[i] += 1
        self._spawn(i)

    def _hear(self, i: int, stepped: Stepped) -> Iterator[Record]:
        """One message of a worker at work."""
        running, reply = self._running[i], self._workers[i].receive()
        job = running.attempt.job
        if isinstance(reply, Mishap):
            yield from self._lost(i, reply)
        elif isinstance(reply, Step):
            if reply.step > running.step:
                running.step = reply.step
                stepped(job.numbers, reply.step, reply.steps)
        elif isinstance(reply, Measured):
            record = Record.from_dict(reply.record, "worker")
            running.attempt = replace(
                running.attempt, wanted=running.attempt.wanted - {record.trial}
            )
            self._meter.brings(i, record.seconds)
            if not running.attempt.wanted:
                self._meter.ends(i)
            yield record
        elif isinstance(reply, Refused):
            raise _error(reply)
        elif isinstance(reply, Failed):
            if reply.failure != "out_of_memory":
                self._end(i)  # what an unforeseen exception has left behind is not known
            yield from self._blame(i, Mishap(Failure(reply.failure, reply.message)))
        else:
            del self._running[i]

    def _silent(self, worker: WorkerProcess) -> Mishap | None:
        """What is wrong with a worker that says nothing.

        What it has said is read first: perhaps it was this process that did not listen.
        """
        if worker.connection.poll():
            return None
        if worker.ended:
            return worker.mishap()
        if time.monotonic() - worker.alive_at <= self._timeout:
            return None
        worker.kill()
        return Mishap(Failure("timeout", f"no progress in {self._timeout:g} s"))

    def _lost(self, i: int, mishap: Mishap) -> Iterator[Record]:
        self._end(i)
        yield from self._blame(i, mishap)

    def _blame(self, i: int, mishap: Mishap) -> Iterator[Record]:
        """Try again in another way, or record the failure of the trial that is to blame."""
        running = self._running.pop(i)
        attempts = after(running.attempt, mishap)
        self._attempts.extendleft(reversed(attempts))
        if attempts or not running.attempt.wanted:
            self._meter.ends(i)
            return
        record = record_of(
            running.attempt.job,
            running.attempt.job.trials[0],
            facts=self._facts,
            precision=self._begin.decided.precision,
            worker=f"{os.uname().nodename}:{os.getpid()}",
            seconds=running.began.seconds,
            started=running.began.told,
            failure=mishap.failure,
        )
        self._meter.brings(i, record.seconds)
        self._meter.ends(i)
        yield record

    def _end(self, i: int) -> None:
        self._workers.pop(i).kill()


def _lost_by(reply: Reply | Mishap) -> AutopeftError:
    """Why a worker did not get ready.

    Raises:
        AutopeftError: what the worker itself raised, since it would do so again.
    """
    if isinstance(reply, Refused):
        raise _error(reply)
    if isinstance(reply, Mishap):
        return DataError(f"no worker gets ready: {reply.failure.message}")
    raise DataError(f"a worker gave the answer `{reply.kind}` to another question")


def _error(reply: Refused) -> AutopeftError:
    """What a worker raised, as an exception of this process."""
    kind = getattr(errors, reply.error, DataError)
    made: AutopeftError = kind(reply.message)
    return made
