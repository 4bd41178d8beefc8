"""Files that travel: model and rows to a node that lacks them, weights and paused states back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autopeft.engines.job import Job, paused_file, weights_name
from autopeft.engines.work import Work
from autopeft.errors import DataError
from autopeft.files import write_bytes
from autopeft.records import Record
from autopeft.tasks.spec import own_metric_of

PIECE_BYTES = 64 * 2**20

_SPLITS = ("train", "validation", "selection", "test")


@dataclass(frozen=True)
class Piece:
    """A part of a file.

    Attributes:
        root: the file or folder of the study, as the driver names it.
        name: of the file below that folder; empty where the root is the file.
        data: its next bytes.
    """

    root: str
    name: str
    data: bytes


def roots_of(work: Work) -> list[str]:
    """Files and folders that a study names, by their absolute paths."""
    given = [path for name in _SPLITS if (path := getattr(work.data, name)) is not None]
    model = [Path(work.model)] if Path(work.model).is_dir() else []
    metric = [own[0]] if (own := own_metric_of(work.metric)) else []
    return [str(path) for path in (*given, *model, *metric)]


def pieces(root: str) -> Iterator[Piece]:
    """The bytes of a file, or of all files of a folder.

    Raises:
        DataError: one cannot be read.
    """
    path = Path(root)
    inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in inside:
        name = "" if file == path else str(file.relative_to(path))
        try:
            with file.open("rb") as handle:
                data = handle.read(PIECE_BYTES)
                yield Piece(root, name, data)
                while data := handle.read(PIECE_BYTES):
                    yield Piece(root, name, data)
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def moved(work: Work, places: dict[str, Path]) -> Work:
    """The same work with other paths for these files and folders."""
    here = {name: getattr(work.data, name) for name in _SPLITS}
    paths = {name: places[str(path)] for name, path in here.items() if str(path) in places}
    return work.model_copy(
        update={
            "data": work.data.model_copy(update=paths),
            "model": str(places.get(work.model, work.model)),
            "metric": _metric_at(work.metric, places),
        }
    )


def _metric_at(metric: str, places: dict[str, Path]) -> str:
    if (own := own_metric_of(metric)) is None or str(own[0]) not in places:
        return metric
    return f"{places[str(own[0])]}:{own[1]}"


def states_for(job: Job, folder: Path) -> dict[str, bytes]:
    """The paused states that a job goes on from; none if they are not all there."""
    if job.replicate or not job.rung:
        return {}
    files = [paused_file(folder, number, job.rung - 1) for number in job.numbers]
    if not all(file.is_file() for file in files):
        return {}
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def files_of(record: Record, folder: Path) -> dict[str, Path]:
    """Where the files that belong to a record lie, by name: weights, and the state to go on from.

    Names follow from what the record is of, so that none is taken from whoever sent it.
    """
    paused = paused_file(folder, record.trial, record.rung)
    weights = weights_name(record.trial, record.rung, record.replicate)
    found = {weights: folder / weights}
    if not record.replicate:
        found[str(paused.relative_to(folder))] = paused
    return found


def write_files(record: Record, files: dict[str, bytes], folder: Path) -> None:
    """Write what came with a record.

    Raises:
        DataError: something that does not belong to it came along, or it cannot be written.
    """
    places = files_of(record, folder)
    if unknown := sorted(set(files) - set(places)):
        raise DataError(f"a worker sent the file {unknown[0]!r} with trial {record.trial}")
    for name, data in sorted(files.items()):  # states before weights: a record comes after both
        places[name].parent.mkdir(exist_ok=True)
        write_bytes(places[name], data)
