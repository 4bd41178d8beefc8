"""A study's folder: what lies where."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.constant import Constant
from autopeft.errors import ConfigError, DataError
from autopeft.files import read_json
from autopeft.front import Front
from autopeft.front_file import read_front
from autopeft.record_files import read_jsonl, read_records
from autopeft.records import Record
from autopeft.selection import Selection
from autopeft.selection_file import read_selection
from autopeft.space.shape import ModelShape
from autopeft.study.lock import HOLDER, LOCK
from autopeft.study.told import told_of


@dataclass(frozen=True)
class Study:
    """A study on disk. Reading it needs neither torch nor the model.

    Attributes:
        folder: where it lies.
    """

    folder: Path

    @property
    def spec_file(self) -> Path:
        """The study file with everything resolved."""
        return self.folder / "study.yaml"

    @property
    def space_file(self) -> Path:
        """The search space as it was."""
        return self.folder / "space.yaml"

    @property
    def manifest_file(self) -> Path:
        """Versions, hashes and settings."""
        return self.folder / "manifest.json"

    @property
    def database(self) -> Path:
        """The Optuna study."""
        return self.folder / "study.db"

    @property
    def lost_time_file(self) -> Path:
        """Seconds that no record tells of, where there is a time budget."""
        return self.folder / "lost_time.json"

    @property
    def selection_file(self) -> Path:
        """What the final selection found, once it is done."""
        return self.folder / "selection.json"

    @property
    def test_file(self) -> Path:
        """When the test split was opened and what was found."""
        return self.folder / "test.json"

    @property
    def beside(self) -> Path:
        """The folder that it lies in, and the studies that it shares measurements with."""
        is_named = self.folder.name not in ("", "..")
        return (self.folder if is_named else self.folder.resolve()).parent

    def check_usable(self) -> None:
        """Refuse to begin where something else lies.

        Raises:
            ConfigError: the folder exists and is neither a study nor empty.
            DataError: it cannot be made or written.
        """
        if not os.path.isfile(self.manifest_file):  # noqa: PTH113 - unlike Path's, it never raises
            check_new(self.folder)

    def check_begun(self) -> None:
        """Refuse what is no study.

        Raises:
            DataError: there is none here.
        """
        if not os.path.isfile(self.manifest_file):  # noqa: PTH113 - unlike Path's, it never raises
            raise DataError(f"{self.folder} holds no study: it has no manifest.json")

    def check_resumable(self) -> None:
        """Refuse to continue what has not begun.

        Raises:
            DataError: there is no study here.
        """
        self.check_begun()
        if not self.spec_file.is_file():  # killed before it was written; no trial had begun
            raise DataError(f"{self.spec_file} is missing; run the `search` again that began it")

    @property
    def has_record_files(self) -> bool:
        """Whether each record has a file of its own, as where a study can be continued."""
        return (self.folder / "records").exists()

    def records(self) -> list[Record]:
        """All measurements, by trial; a published study has them in one file."""
        compiled = self.folder / "records.jsonl"
        if compiled.exists() and not self.has_record_files:
            return read_jsonl(compiled)
        return read_records(self.folder)

    def manifest(self) -> dict[str, Any]:
        """What the manifest tells, as plain JSON values; nothing if there is none.

        Raises:
            DataError: it is malformed.
        """
        return told_of(self.manifest_file)

    def shape(self) -> ModelShape | None:
        """What the manifest says of the model; None if it says too little.

        Raises:
            DataError: it is malformed.
        """
        try:
            return ModelShape.from_dict(self.manifest()["model"])
        except (KeyError, ValueError):
            return None

    def constant(self) -> Constant | None:
        """What one answer to every row scores; None where nothing tells it.

        Raises:
            DataError: the manifest is malformed.
        """
        return Constant.of_manifest(self.manifest())

    def whole_steps(self) -> int | None:
        """Optimizer steps of a whole training; None where nothing tells it.

        Raises:
            DataError: the manifest is malformed.
        """
        rungs = self.manifest().get("rung_steps")
        return rungs[-1] if rungs else None

    def front(self) -> Front:
        """The Pareto front.

        Raises:
            DataError: nothing has been measured yet.
        """
        return read_front(self.folder / "front.json")

    def selection(self) -> Selection | None:
        """The final selection; None if there was none, or not yet."""
        return read_selection(self.selection_file) if self.selection_file.is_file() else None


def study_named(name: str, folder: Path) -> Study | None:
    """The study of a name, if it lies beside another one, as those do that share measurements.

    Args:
        name: that its manifest gives it.
        folder: of the other one.
    """
    for path in sorted(Study(folder).beside.glob("*/manifest.json")):
        with suppress(DataError):
            manifest = read_json(path)
            if isinstance(manifest, dict) and manifest.get("study") == name:
                return Study(path.parent)
    return None


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something or cannot be made; what a crash left does not count.

    Raises:
        ConfigError: it exists and is not an empty folder.
        DataError: it cannot be made or written.
    """
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if _is_there(path))
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror or error}") from error
    if nearest == folder and not (folder.is_dir() and _is_empty(folder)):
        raise ConfigError(f"{folder} exists and is not an empty folder; give another --out")
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise DataError(f"{folder} cannot be made: {nearest} is not a folder that can be written")


def _is_there(path: Path) -> bool:
    """As `Path.exists` before Python 3.14, which raises where the system refuses a name."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_empty(folder: Path) -> bool:
    return all(path.name in (LOCK, HOLDER) or path.suffix == ".tmp" for path in folder.iterdir())
