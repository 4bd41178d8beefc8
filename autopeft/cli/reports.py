"""`autopeft report`: the page of some studies, and their records as CSV."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from autopeft.dashboard.report import records_csv, report
from autopeft.errors import ConfigError
from autopeft.files import write_atomic
from autopeft.study.folder import Study


def write_report(folders: Sequence[Path], out: Path, *, with_csv: bool) -> list[Path]:
    """Write the page, and the CSV beside it under the same name.

    Returns:
        What was written.

    Raises:
        ConfigError: `out` is a folder, or the CSV would have its name.
        DataError: a folder is no study, or a file cannot be written.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give the name of a file")
    table = out.with_suffix(".csv")
    if with_csv and table == out:
        raise ConfigError(f"--out {out} is the name that the CSV would have; end it in .html")
    studies = [Study(folder) for folder in folders]
    with _uncollected():
        page = report(studies)
    written = [page.save(out)]
    if with_csv:
        named = [(study.folder.resolve().name, study.records()) for study in studies]
        write_atomic(table, records_csv(named))
        written.append(table)
    return written


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for cyclic garbage, which takes a third of the time at 10,000 trials."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
