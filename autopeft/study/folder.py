"""A study's folder: what lies where."""

from dataclasses import dataclass
from pathlib import Path

from autopeft.front import Front, read_front
from autopeft.records import Record, read_records


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
    def test_file(self) -> Path:
        """When the test split was opened and what was found."""
        return self.folder / "test.json"

    def records(self) -> list[Record]:
        """All measurements, by trial."""
        return read_records(self.folder)

    def front(self) -> Front:
        """The Pareto front.

        Raises:
            DataError: nothing has been measured yet.
        """
        return read_front(self.folder / "front.json")
