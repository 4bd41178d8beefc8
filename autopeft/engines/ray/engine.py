"""The Ray engine: stations on the nodes of a cluster, each with the backbone loaded.

The driver's study folder is the authority: what a job goes on from is sent with it, and weights
and states come back with the records, so that nodes need not share a file system. A station that
is lost loses its job alone, which is dispatched again.
"""

import json
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from autopeft import errors
from autopeft.engines.engine import Stepped
from autopeft.engines.job import Job
from autopeft.engines.meter import Meter
from autopeft.engines.outcome import Attempt, Mishap, after, attempts_of, record_of
from autopeft.engines.protocol import Calibrated, Decision, Done, Loaded, Measured, Refused
from autopeft.engines.ray import letters
from autopeft.engines.ray.cluster import connected, free, share_of
from autopeft.engines.ray.files import pieces, roots_of, states_for, write_files
from autopeft.engines.ray.letters import Letter, Message, Wire
from autopeft.engines.ray.settings import RaySettings
from autopeft.engines.ray.slot import LOST, Slot, failed_by, mishap_of
from autopeft.engines.ray.station import versions
from autopeft.engines.work import CohortSize, Decided, Facts, Work
from autopeft.errors import AutopeftError, DataError
from autopeft.records import Failure, Record
from autopeft.space.costs import CostModel
from autopeft.space.genotype import Genotype
from autopeft.training.settings import TrainingSettings

_LOOK_SECONDS = 1.0
"""Between two looks at workers that say nothing."""

_STARTS = 3
"""Times that a worker may be lost before it is ready."""

ROOM_SECONDS = 60.0
"""How long the cluster may have no room for any worker."""

_SILENT_SECONDS = 120.0
"""A station that runs a job answers every second; one that does not for so long is lost."""


class RayEngine:
    """Runs jobs on a Ray cluster.

    Args:
        work: what the workers load.
        settings: how to use the cluster.
    """

    def __init__(self, work: Work, settings: RaySettings) -> None:
        self._work, self._settings = work, settings
        self._connection = ExitStack()
        self._slots: list[Slot] = []
        self._waiting: dict[Any, Slot] = {}
        self._attempts: deque[Attempt] = deque()
        self._facts: Facts | None = None
        self._decided: Decided | None = None
        self._meter = Meter()

    def load(self) -> Facts:
        """Connect, and start the first worker."""
        self._connection.enter_context(connected(self._settings.address))
        self._share = share_of(self._settings)
        self._slots = [Slot(number=i) for i in range(self._share.workers)]
        return self._first_ready()

    @property
    def n_workers(self) -> int:
        """Stations, once all of them have a place."""
        return self._share.workers

    def decide(self, genotypes: Sequence[Genotype], cohort: CohortSize) -> Decided:
        """Let the first worker measure how to compute."""
        answer = self._ask("decide", _plain(genotypes), cohort)
        if not isinstance(answer, Decision):
            raise _unexpected(answer)
        return answer.decided

    def calibrate(self, settings: TrainingSettings, genotypes: Sequence[Genotype]) -> CostModel:
        """Let the first worker measure what genotypes cost alone."""
        answer = self._ask("calibrate", json.dumps(asdict(settings)), _plain(genotypes))
        if not isinstance(answer, Calibrated):
            raise _unexpected(answer)
        return answer.costs

    def _ask(self, question: str, *given: Any) -> Message:
        """What the first worker says; if it is lost meanwhile, another one is asked."""
        lost: Mishap | None = None
        for _ in range(_STARTS):
            self._first_ready()
            slot = self._slots[0]
            try:
                return _message(ray.get(getattr(slot.actor, question).remote(*given)))
            except LOST as error:
                lost = mishap_of(error)
                slot.drop()
        raise DataError(f"no worker gets ready: {lost.failure.message if lost else ''}")

    def begin(self, decided: Decided, folder: Path) -> None:
        """Get the first worker ready; others start when there is a job for them."""
        self._decided, self._folder = decided, folder
        self._slots[0].actor.begin.remote(decided.model_dump_json())

    def submit(self, job: Job, wanted: Collection[int]) -> None:
        """Take a job."""
        self._attempts.extend(attempts_of(job, wanted))

    def results(self, stepped: Stepped, meter: Meter | None = None) -> Iterator[Record]:
        """Records as they come."""
        self._meter = meter or self._meter
        while self._attempts or any(slot.phase == "running" for slot in self._slots):
            self._dispatch()
            yield from self._listen(stepped)

    def close(self) -> None:
        """End all workers, and the connection."""
        actors = [slot.actor for slot in self._slots if slot.phase not in ("absent", "placing")]
        if actors:
            ending = [actor.close.remote() for actor in actors]
            ray.wait(ending, num_returns=len(ending), timeout=2 * _LOOK_SECONDS)
        for slot in self._slots:
            if slot.actor is not None:
                slot.drop()
        self._waiting.clear()
        self._attempts.clear()
        self._connection.close()

    def _first_ready(self) -> Facts:
        """Wait until the first worker has loaded."""
        slot = self._slots[0]
        while slot.phase != "idle":
            if slot.phase == "absent":
                self._place(slot)
            for _ in self._listen(_nobody):  # nothing runs yet, so there are no records
                pass
        if self._facts is None:
            raise DataError("the first worker is ready without facts")
        return self._facts

    def _dispatch(self) -> None:
        """Give jobs to workers that have none, and start workers for the rest."""
        for slot in self._slots:
            if slot.phase == "idle" and self._attempts:
                attempt = self._attempts.popleft()
                slot.begin(attempt)
                self._meter.begins(slot.number)
                job, wanted = attempt.job, sorted(attempt.wanted)
                states = states_for(job, self._folder)
                plain = json.dumps(job.to_dict())
                self._expect(slot, slot.actor.run.remote(plain, wanted, states))
        coming = sum(slot.phase in ("placing", "loading") for slot in self._slots)
        for slot in self._slots:
            if slot.phase == "absent" and coming < len(self._attempts):
                self._place(slot)
                coming += 1

    def _place(self, slot: Slot) -> None:
        slot.place(self._share, self._settings.trial_timeout_seconds)
        self._expect(slot, slot.actor.greet.remote(roots_of(self._work)))

    def _expect(self, slot: Slot, answer: Any) -> None:
        slot.heard()
        self._waiting[answer] = slot

    def _listen(self, stepped: Stepped) -> Iterator[Record]:
        """The next answer, if one comes soon."""
        ready, _ = ray.wait(list(self._waiting), num_returns=1, timeout=_LOOK_SECONDS)
        for answer in ready:
            slot = self._waiting.pop(answer)
            try:
                said = ray.get(answer)
            except LOST as error:
                yield from self._lost(slot, mishap_of(error))
            except RayTaskError as error:
                raise failed_by(error, slot.node) from error
            else:
                yield from self._hear(slot, said, stepped)
        yield from self._look()

    def _look(self) -> Iterator[Record]:
        """See to workers that say nothing, and to a cluster that has no room."""
        for answer, slot in list(self._waiting.items()):
            if slot.phase == "running" and _is_silent(answer, slot, _SILENT_SECONDS):
                del self._waiting[answer]
                failure = Failure("crash", f"nothing heard of it in {_SILENT_SECONDS:g} s")
                yield from self._lost(slot, Mishap(failure, from_outside=True))
        n_there = sum(slot.phase != "absent" for slot in self._slots)
        n_without_room = sum(
            slot.phase == "placing" and _is_silent(answer, slot, ROOM_SECONDS)
            for answer, slot in self._waiting.items()
        )
        if n_there and n_without_room == n_there:
            raise DataError(
                f"the cluster has had no room for a worker for {ROOM_SECONDS:g} s: each takes "
                f"{self._share}, and {free()} are free"
            )

    def _hear(self, slot: Slot, said: Any, stepped: Stepped) -> Iterator[Record]:
        """What a worker says, as a phase follows the other."""
        if slot.phase == "placing":
            self._send(slot, *said)
        elif slot.phase == "loading":
            self._loaded(slot, _message(said))
        else:
            yield from self._news(slot, [Letter.from_wire(wire) for wire in said], stepped)

    def _send(self, slot: Slot, node: str, theirs: dict[str, str], lacking: list[str]) -> None:
        """Send what a node lacks, and let it load."""
        slot.node, slot.phase = node, "loading"
        if theirs != versions():
            told = (f"{k} {theirs.get(k)} instead of {v}" for k, v in versions().items())
            raise DataError(f"{node} has other versions than the driver: {', '.join(told)}")
        with suppress(*LOST):  # a loss shows again in the answer that is waited for now
            for root in lacking:
                for piece in pieces(root):
                    ray.get(slot.actor.receive.remote(piece.root, piece.name, piece.data))
        self._expect(slot, slot.actor.load.remote(self._work.model_dump_json()))

    def _loaded(self, slot: Slot, answer: Message) -> None:
        if not isinstance(answer, Loaded):
            raise _unexpected(answer)
        facts = self._facts = self._facts or answer.facts
        if what := answer.facts.differs_from(facts):
            raise DataError(f"{slot.node} has {what} than the first node")
        slot.phase, slot.losses = "idle", 0
        if self._decided is not None:
            slot.actor.begin.remote(self._decided.model_dump_json())

    def _news(self, slot: Slot, news: Sequence[Letter], stepped: Stepped) -> Iterator[Record]:
        for letter in news:
            message = letter.message
            if isinstance(message, letters.Stepped):
                stepped(message.trials, message.step, message.steps)
            elif isinstance(message, Measured):
                record = Record.from_dict(message.record, slot.node)
                wanted = slot.brought(record.trial)
                self._meter.brings(slot.number, record.seconds)
                if not wanted:
                    self._meter.ends(slot.number)
                write_files(record, dict(letter.files), self._folder)
                yield record
            elif isinstance(message, Done):
                slot.phase, slot.attempt = "idle", None
            else:
                raise _unexpected(message)
        if slot.phase == "running":
            self._expect(slot, slot.actor.hear.remote())

    def _lost(self, slot: Slot, mishap: Mishap) -> Iterator[Record]:
        """Try again in another place, or record the failure of the trial that is to blame."""
        attempt = slot.drop()
        if attempt is None:
            slot.losses += 1
            if slot.losses == _STARTS:
                raise DataError(f"no worker gets ready: {mishap.failure.message}")
            return
        attempts = after(attempt, mishap) if attempt.wanted else []
        self._attempts.extendleft(reversed(attempts))
        if attempts or not attempt.wanted or self._facts is None or self._decided is None:
            self._meter.ends(slot.number)
            return
        record = record_of(
            attempt.job,
            attempt.job.trials[0],
            facts=self._facts,
            precision=self._decided.precision,
            worker=slot.node,
            seconds=slot.began.seconds,
            started=slot.began.told,
            failure=mishap.failure,
        )
        self._meter.brings(slot.number, record.seconds)
        self._meter.ends(slot.number)
        yield record


def _is_silent(answer: Any, slot: Slot, seconds: float) -> bool:
    """Whether a worker has said nothing for so long, not even what is still to be read."""
    return slot.silent_seconds > seconds and not ray.wait([answer], timeout=0)[0]


def _message(wire: Wire) -> Message:
    return Letter.from_wire(wire).message


def _plain(genotypes: Sequence[Genotype]) -> str:
    return json.dumps([genotype.to_dict() for genotype in genotypes])


def _nobody(_: tuple[int, ...], __: int, ___: int) -> None:
    """Hears of no steps."""


def _unexpected(message: Message) -> AutopeftError:
    """What a worker refused, as an exception of this process."""
    if not isinstance(message, Refused):
        return DataError(f"a worker gave the answer `{message.kind}` to another question")
    made: AutopeftError = getattr(errors, message.error, DataError)(message.message)
    return made
