"""What `search.py` measures on: trials are scored on the rows of a search and, aside, on test rows.

A study sees the search rows alone; the test rows tell what it was worth. Both are scored by one
pass, as one split whose row scores are parted afterwards.
"""

import json
import math
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.engines.job import Job, JobTrial
from autopeft.engines.work import CohortSize, Decided, Facts
from autopeft.engines.workbench import Workbench
from autopeft.records import Metric, Objective, Record
from autopeft.row_scores import pack
from autopeft.space.dimension import Categorical, Integer
from autopeft.space.genotype import Genotype
from autopeft.space.search_space import SearchSpace
from autopeft.space.seed import seed_of
from autopeft.study.spec import StudySpec

METRIC = "accuracy"


@dataclass(frozen=True)
class Rows:
    """How many rows of a data set are for what.

    Attributes:
        train: to train on.
        search: that a study scores on, all of `validation.jsonl` if there are fewer.
        test: all of `test.jsonl`, and training rows that are not trained on to make up so many.
    """

    train: int
    search: int
    test: int


@dataclass(frozen=True)
class Scored:
    """A record as a study sees it, and what it does not see.

    Attributes:
        record: scored on the search rows.
        test: whether each test row is answered right.
    """

    record: Record
    test: NDArray[np.float64]

    @property
    def test_quality(self) -> float:
        """The part of the test rows that is right."""
        return float(self.test.mean())


def write_rows(data: Path, rows: Rows, folder: Path) -> int:
    """Write `train.jsonl`, and as `validation.jsonl` the search rows and then the test rows.

    Returns:
        How many of the latter are search rows.
    """
    splits = {name: _lines(data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    train = random.Random(0).sample(splits["train"], len(splits["train"]))
    search = splits["validation"][: rows.search]
    spare = train[rows.train : rows.train + max(0, rows.test - len(splits["test"]))]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("train", train[: rows.train]),
        ("validation", [*search, *splits["test"], *spare]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(search)


def study_spec(model: str, folder: Path, **changes: Any) -> StudySpec:
    """A study without final selection on the rows that `write_rows` has written."""
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "validation")}
    return StudySpec.model_validate(
        {
            "model": model,
            "data": {**files, "selection_rows": 0},
            "methods": [],
            "selection": {"seeds": 0},
            **changes,
        }
    )


def decided_once(
    bench: Workbench, typical: Sequence[Genotype], cohort: CohortSize, kept: Path
) -> Decided:
    """How to compute: measured the first time, and kept in a file."""
    if kept.exists():
        return Decided.model_validate_json(kept.read_text(encoding="utf-8"))
    decided = bench.decide(typical, cohort)
    kept.write_text(decided.model_dump_json(), encoding="utf-8")
    return decided


class Bench:
    """Trains the jobs of a study, in this process.

    Args:
        spec: of `study_spec`.
        n_search: search rows at the beginning of its validation rows.
        folder: for weights and paused trials.
    """

    def __init__(self, spec: StudySpec, n_search: int, folder: Path) -> None:
        self._bench, self._n_search, self._folder = Workbench(spec.work), n_search, folder
        self._cohort = spec.training.cohort

    @property
    def facts(self) -> Facts:
        """Of model and data."""
        return self._bench.facts

    def begin(self, typical: Sequence[Genotype], kept: Path) -> Decided:
        """Get ready for jobs; how to compute is measured once and kept in a file."""
        decided = decided_once(self._bench, typical, self._cohort, kept)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._bench.begin(decided, self._folder, "bench")
        return decided

    def run(self, job: Job, wanted: Collection[int]) -> Iterator[Scored]:
        """Train and score a job; weights are not kept. Seconds are processor time."""
        for part in job.parts():
            mine = set(wanted) & set(part.numbers)
            began = time.process_time()
            records = list(self._bench.run(part, mine, lambda _, __: None))
            each = (time.process_time() - began) / len(part.trials)
            for record in records:
                if record.weights is not None:
                    (self._folder / record.weights).unlink()
                yield part_rows(replace(record, seconds=each), self._n_search)


def part_rows(record: Record, n_search: int) -> Scored:
    """The record as if only the first rows had been scored, and the others."""
    bare = replace(record, weights=None, weights_sha256=None)
    if record.row_scores is None:
        return Scored(bare, np.zeros(0))
    right = record.row_scores.values()
    quality = float(right[:n_search].mean())
    metrics = {METRIC: Metric(quality, math.sqrt(quality * (1 - quality) / n_search))}
    seen = replace(
        bare,
        metrics=metrics,
        objectives={METRIC: Objective(quality, "1", metrics[METRIC].stderr)},
        row_scores=pack(right[:n_search]),
    )
    return Scored(seen, right[n_search:])


class Kept:
    """What was measured before, in a file that grows by a line each time: runs are resumable.

    Args:
        path: of JSON lines, `Scored` as `{"record": ..., "test": ...}`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.scored: dict[tuple[int, int, int], Scored] = {}
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            path.write_text("".join(whole), encoding="utf-8")
            for line in whole:
                self._take(_scored(json.loads(line)))

    def add(self, scored: Scored) -> None:
        """Keep one."""
        self._take(scored)
        data = {"record": scored.record.to_dict(), "test": pack_right(scored.test)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")

    def _take(self, scored: Scored) -> None:
        self.scored[scored.record.key] = scored


def pack_right(right: NDArray[np.float64]) -> str:
    """Zeros and ones, in hexadecimal digits of eight rows each two."""
    return f"{len(right)}:{np.packbits(right > 0).tobytes().hex()}"


def unpack_right(text: str) -> NDArray[np.float64]:
    """The inverse of `pack_right`."""
    n, digits = text.split(":")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8))
    return bits[: int(n)].astype(np.float64)


def every_genotype(space: SearchSpace) -> list[Genotype]:
    """All genotypes of a space whose coordinates are whole numbers and choices."""
    axes: list[Sequence[Any]] = []
    dimensions = space.dimensions()
    for dim in dimensions:
        match dim:
            case Integer():
                axes.append(range(dim.low, dim.high + 1))
            case Categorical():
                axes.append(dim.choices)
            case _:
                raise SystemExit(f"{dim.name} is drawn from a range, the space has no end")
    found: dict[str, Genotype] = {}
    for values in product(*axes):
        names = (dim.name for dim in dimensions)
        genotype = space.decode(dict(zip(names, values, strict=True)))
        if genotype.ops and space.admits(genotype):
            found.setdefault(genotype.hash, genotype)
    return list(found.values())


def jobs_of(
    genotypes: Sequence[Genotype], rung_steps: Sequence[int], size: int, seed: int
) -> Iterator[Job]:
    """Every genotype to every rung, in cohorts whose lowest op is in the same layer."""
    ordered = sorted(enumerate(genotypes), key=lambda item: (item[1].fork, item[0]))
    order_seed = seed_of(seed, "order", "0")
    for first in range(0, len(ordered), size):
        trials = tuple(
            JobTrial(number, one, seed_of(seed, one.hash, "0"), "table")
            for number, one in ordered[first : first + size]
        )
        for rung, steps in enumerate(rung_steps):
            until = None if steps == rung_steps[-1] else steps
            yield Job(trials, rung, 0, order_seed, until)


def _scored(data: Mapping[str, Any]) -> Scored:
    return Scored(Record.from_dict(data["record"]), unpack_right(data["test"]))


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return list(file)
