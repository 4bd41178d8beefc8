"""A report: the page of some studies as one file, and their measurements as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from autopeft.dashboard.compare import told_apart
from autopeft.dashboard.info import study_info
from autopeft.dashboard.page import encodable, render
from autopeft.errors import ConfigError
from autopeft.files import write_atomic
from autopeft.records import Record
from autopeft.study.folder import Study

NOTEBOOK_HEIGHT_PX = 900


@dataclass(frozen=True)
class Report:
    """A page. In a notebook it shows itself.

    Attributes:
        html: the whole file.
    """

    html: str

    def save(self, path: str | Path) -> Path:
        """Write it to a file, replacing an older one.

        Raises:
            DataError: the file cannot be written.
        """
        write_atomic(Path(path), self.html)
        return Path(path)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which can run scripts and reach nothing else."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-downloads" '
            f'style="width: 100%; height: {NOTEBOOK_HEIGHT_PX}px; border: 0"></iframe>'
        )


def report(studies: Sequence[Study]) -> Report:
    """The page of these studies, the first one in front.

    Raises:
        ConfigError: no study is given.
        DataError: a folder is no study, or cannot be read.
    """
    if not studies:
        raise ConfigError("give at least one folder of a study")
    return Report(render(told_apart([study_info(study) for study in studies])))


def records_csv(studies: Iterable[tuple[str, Sequence[Record]]]) -> str:
    """Every record as a row of CSV, numbers in full.

    A text that a spreadsheet would take for a formula gets a quote in front.

    Args:
        studies: name and records of each.
    """
    rows = [(name, record) for name, records in studies for record in records]
    metrics = sorted({name for _, record in rows for name in record.metrics})
    objectives = sorted({name for _, record in rows for name in record.objectives})
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["study", *_FIELDS, "failure", "message"]
        + [_safe(name) for metric in metrics for name in (metric, f"{metric} stderr")]
        + [f"objective {name}" for name in objectives]
    )
    for name, record in rows:
        failure = record.failure
        scores = [record.metrics.get(metric) for metric in metrics]
        writer.writerow(
            [
                _safe(name),
                *(_safe(getattr(record, field)) for field in _FIELDS),
                failure.kind if failure else "",
                _safe(failure.message) if failure else "",
            ]
            + [v for score in scores for v in ((score.value, score.stderr) if score else ("", ""))]
            + [
                record.objectives[key].value if key in record.objectives else ""
                for key in objectives
            ]
        )
    return encodable(out.getvalue())


_FIELDS = (
    "trial",
    "rung",
    "replicate",
    "state",
    "hash",
    "seed",
    "trainable_params",
    "fraction",
    "head_params",
    "steps",
    "seconds",
    "started",
    "worker",
    "precision",
    "split",
)


def _safe(value: str | float) -> str | float:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
