"""The study that a user holds: what lies in its folder, and the page of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.checks import path_of
from autopeft.study import folder

if TYPE_CHECKING:
    from autopeft.dashboard.report import Report


@dataclass(frozen=True, init=False)
class Study(folder.Study):
    """A study on disk, with what is built upon it. Reading it needs no torch.

    Args:
        folder: where it lies.

    Raises:
        ConfigError: that is no path.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(path_of(folder, "folder"))

    def report(self, *others: folder.Study) -> "Report":
        """The page of this study, compared with others if any are given.

        At the end of a notebook's cell it shows itself; `.save(path)` writes one HTML file.

        Raises:
            DataError: a folder is no study, or cannot be read.
        """
        from autopeft.dashboard.report import report  # noqa: PLC0415 - plotly, only when needed

        return report([self, *others])

    @classmethod
    def from_result_grid(cls, results: Iterable[Any], folder: str | Path) -> "Study":
        """The study of a run of Ray Tune, with the records, front and ledger of any other.

        `autopeft resume` goes on with it: with promotions, more trials, the final selection.

        Args:
            results: a `ray.tune.ResultGrid` of trials of `autopeft.tune.trainable`.
            folder: that `autopeft.tune.prepare` has made.

        Raises:
            DataError: the folder is no such study, or the results are none of it.
        """
        from autopeft.study.tuned import keep_results  # noqa: PLC0415 - reading needs no driver

        return cls(keep_results(results, Path(folder)).folder)
