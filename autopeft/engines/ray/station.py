"""A station: what stands on a node of a cluster, and runs one supervised worker there.

It is a local engine of one worker, so that what becomes of a job is decided where it happens: a
crash, a hang or want of memory is told apart from the loss of the node, and splits the job. Ray
makes an actor of it; nothing here knows that.
"""

import contextlib
import importlib.metadata
import json
import queue
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from autopeft.engines.job import Job
from autopeft.engines.local import LocalEngine
from autopeft.engines.protocol import Calibrated, Decision, Done, Loaded, Measured, Refused
from autopeft.engines.ray.files import files_of, moved
from autopeft.engines.ray.letters import Letter, Message, Stepped, Wire, latest
from autopeft.engines.work import CohortSize, Decided, Work
from autopeft.errors import AutopeftError, DataError
from autopeft.files import write_bytes
from autopeft.records import Record
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.training.settings import TrainingSettings

HEAR_SECONDS = 1.0
"""How long the driver waits for news that do not come, before it asks again."""

PACKAGES = ("autopeft", "torch", "transformers")
"""Of which a node has to have the driver's versions."""

_PREFIX = "autopeft-station-"
_SETTINGS = TypeAdapter(TrainingSettings)


def versions() -> dict[str, str]:
    """Of the packages that measurements depend on, without the name of a build (`+cu126`)."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}


class Station:
    """One worker on a node.

    Args:
        sharing: workers that share the memory of a device of this node.
        trial_timeout_seconds: a worker that makes no progress for so long is ended.
    """

    def __init__(self, sharing: int, trial_timeout_seconds: float) -> None:
        self._sharing, self._timeout = sharing, trial_timeout_seconds
        self._folder, self._lock = _own_folder()
        self._places: dict[str, Path] = {}
        self._outbox: queue.SimpleQueue[Letter] = queue.SimpleQueue()

    def greet(self, roots: Sequence[str]) -> tuple[str, dict[str, str], list[str]]:
        """Say who is here.

        Args:
            roots: absolute paths of files and folders of the study.

        Returns:
            The name of the node, its versions, and the roots that it lacks.
        """
        lacking = [root for root in roots if not Path(root).exists()]
        return socket.gethostname(), versions(), lacking

    def receive(self, root: str, name: str, data: bytes) -> None:
        """Take the next piece of a file; see `Piece`.

        Raises:
            DataError: it cannot be written.
        """
        base = self._folder / "files" / str(len(self._places))
        file = self._places.setdefault(root, base / Path(root).name) / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as handle:
                handle.write(data)
        except OSError as error:
            raise DataError(f"cannot write {file}: {error.strerror or error}") from error

    def load(self, work: str) -> Wire:
        """Start the worker, which loads model and data; answered by `Loaded`."""

        def loaded() -> Message:
            given = Work.model_validate_json(work)
            self._engine = LocalEngine(
                moved(given, self._places),
                workers=1,
                trial_timeout_seconds=self._timeout,
                sharing=self._sharing,
                fitting=True,
            )
            facts = self._engine.load()
            if given.model in self._places:  # the study knows it by its own name
                facts = facts.model_copy(update={"model": given.model})
            return Loaded(facts=facts)

        return _answer(loaded).to_wire()

    def decide(self, genotypes: str, cohort: CohortSize) -> Wire:
        """Measure how to compute; answered by `Decision`."""
        some = [genotype_from_dict(item) for item in json.loads(genotypes)]
        return _answer(lambda: Decision(decided=self._engine.decide(some, cohort))).to_wire()

    def calibrate(self, settings: str, genotypes: str) -> Wire:
        """Measure what genotypes cost alone; answered by `Calibrated`."""
        given = _SETTINGS.validate_json(settings)
        some = [genotype_from_dict(item) for item in json.loads(genotypes)]
        return _answer(lambda: Calibrated(costs=self._engine.calibrate(given, some))).to_wire()

    def begin(self, decided: str) -> None:
        """Get ready for jobs."""
        self._engine.begin(Decided.model_validate_json(decided), self._folder)

    def run(self, job: str, wanted: Collection[int], states: dict[str, bytes]) -> list[Wire]:
        """Begin a job, and tell the first news of it; see `hear`.

        Args:
            job: as JSON.
            wanted: trials to bring records of.
            states: the paused states that it goes on from, by name below the folder.
        """
        given = Job.from_dict(json.loads(job), "job")
        threading.Thread(target=self._run, args=(given, wanted, states), daemon=True).start()
        return self.hear()

    def hear(self) -> list[Wire]:
        """News of the job: `Stepped` and `Measured`, at last `Done` or `Refused`; perhaps none."""
        news = []
        try:
            news.append(self._outbox.get(timeout=HEAR_SECONDS))
            while True:
                news.append(self._outbox.get_nowait())
        except queue.Empty:
            return [letter.to_wire() for letter in latest(news)]

    def close(self) -> None:
        """Leave nothing on the node's disk; the worker ends with this process."""
        shutil.rmtree(self._folder, ignore_errors=True)
        _lock_of(self._folder).unlink(missing_ok=True)

    def _run(self, job: Job, wanted: Collection[int], states: dict[str, bytes]) -> None:
        def measured() -> Message:
            for name, data in states.items():
                (self._folder / name).parent.mkdir(exist_ok=True)
                write_bytes(self._folder / name, data)
            self._engine.submit(job, wanted)
            for record in self._engine.results(self._stepped):
                self._outbox.put(self._parcel(record))
            for name in states:
                (self._folder / name).unlink(missing_ok=True)
            return Done()

        self._outbox.put(_answer(measured))

    def _stepped(self, trials: tuple[int, ...], step: int, steps: int) -> None:
        self._outbox.put(Letter(Stepped(trials=trials, step=step, steps=steps)))

    def _parcel(self, record: Record) -> Letter:
        """A record with its files, which are the driver's from now on."""
        files = {}
        for name, path in files_of(record, self._folder).items():
            if path.is_file():
                files[name] = path.read_bytes()
                path.unlink()
        return Letter(Measured(record=record.to_dict()), files)


def _answer(make: Callable[[], Message]) -> Letter:
    """An answer, or why there is none."""
    try:
        return Letter(make())
    except AutopeftError as error:
        where = f"{error} (on {socket.gethostname()})"
        return Letter(Refused(error=type(error).__name__, message=where))


def _own_folder() -> tuple[Path, FileLock]:
    """A new folder, whose lock this process holds; those of processes that have ended are removed.

    The system releases a lock with its process, also where that was killed and could not tidy up.
    """
    base = Path(tempfile.gettempdir())
    for stale in base.glob(f"{_PREFIX}*/"):
        with contextlib.suppress(Timeout, OSError), FileLock(_lock_of(stale), timeout=0):
            shutil.rmtree(stale, ignore_errors=True)
            _lock_of(stale).unlink(missing_ok=True)
    folder = base / f"{_PREFIX}{secrets.token_hex(8)}"
    lock = FileLock(_lock_of(folder))
    lock.acquire()
    folder.mkdir(mode=0o700)
    return folder, lock


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")
