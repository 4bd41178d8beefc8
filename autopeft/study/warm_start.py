"""Warm start: the front of an earlier study, of another task or model, is tried first."""

import json
from pathlib import Path

from autopeft.errors import ConfigError, DataError
from autopeft.files import write_atomic
from autopeft.front import Front
from autopeft.front_file import front_to_dict, read_front
from autopeft.space.encode import encode
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.search_space import SearchSpace
from autopeft.space.transfer import transfer
from autopeft.study.limits import Budget
from autopeft.study.starting import Start, spread

COPY = "warm_start.json"
"""The front in the folder of the study that begins with it, so that a resume needs nothing else."""
MOST = 10
"""Points of a front that are tried; the longest fronts are of many points that differ little."""


def read_warm_start(named: Path | None, folder: Path) -> Front | None:
    """The front that a study file names, or its copy where that is gone.

    Args:
        named: a front.json or the folder of a study, absolute; or None.
        folder: of the study that begins with it.

    Raises:
        DataError: it cannot be read or is no front.
    """
    if named is None:
        return None
    path = named / "front.json" if named.is_dir() else named
    copy = folder / COPY
    path = copy if copy.is_file() and not path.is_file() else path
    front = read_front(path)
    for point in front.points:
        try:
            genotype_from_dict(point.genotype, f"{path}: trial {point.trial}")
        except ConfigError as error:  # in a file of results it is the data that is wrong
            raise DataError(str(error)) from error
    return front


def write_copy(folder: Path, front: Front) -> Path:
    """Keep the front in the folder of the study that begins with it.

    Returns:
        The name of the file.

    Raises:
        DataError: it cannot be written.
    """
    write_atomic(folder / COPY, json.dumps(front_to_dict(front), allow_nan=False) + "\n")
    return Path(COPY)


def warm_starts(front: Front, space: SearchSpace, budget: Budget) -> tuple[list[Start], list[str]]:
    """What to try of a front, and notes on what had to be changed.

    The recommended point comes first, then each time the point that is farthest from those before
    in the logarithm of the parameters.
    """
    starts: list[Start] = []
    notes = []
    n_strange = 0
    for trial, genotype in _chosen(front):
        found, changes = transfer(genotype, space.shape, budget.max_params, budget.max_trained)
        if found is not None and not budget.admits(found, space.shape):
            found, changes = None, [*changes, f"it is over the budget, {budget}"]
        if changes:
            verb = "is left out" if found is None else "is changed"
            notes.append(f"warm start: trial {trial} {verb}: {'; '.join(changes)}")
        if found is not None:
            starts.append(Start(found, f"warm start from trial {trial}"))
            n_strange += encode(space, found) is None and bool(found.ops)
    if n_strange:
        notes.append(
            f"warm start: {n_strange} of {len(starts)} genotypes are not in space "
            f"{space.spec.name}; they are tried, but the sampler does not learn from them"
        )
    return starts, notes


def _chosen(front: Front) -> list[tuple[int, Genotype]]:
    if front.recommended is None:
        return []
    params = {point.trial: point.trainable_params for point in front.points}
    genotypes = {point.trial: genotype_from_dict(point.genotype) for point in front.points}
    return [(trial, genotypes[trial]) for trial in spread(params, front.recommended)[:MOST]]
