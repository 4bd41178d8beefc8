"""The study that a user holds: what lies in its folder, and the page of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.study import folder

if TYPE_CHECKING:
    from autopeft.dashboard.report import Report


@dataclass(frozen=True)
class Study(folder.Study):
    """A study on disk, with what is built upon it. Reading it needs no torch."""

    def report(self, *others: folder.Study) -> "Report":
        """The page of this study, compared with others if any are given.

        At the end of a notebook's cell it shows itself; `.save(path)` writes one HTML file.

        Raises:
            DataError: a folder is no study, or cannot be read.
        """
        from autopeft.dashboard.report import report  # noqa: PLC0415 - plotly, only when needed

        return report([self, *others])
