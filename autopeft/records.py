"""Record: the immutable measurement of a (trial, rung, replicate), and its JSON."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self, get_args

from autopeft import checks
from autopeft.row_scores import LEVELS, RowScores

RECORD_VERSION = 1
RECORD_VERSION_STORED = 2
"""Of records whose trial trained other parameters than it stored; the others stay as they were."""
SELECTION = "selection"
FOLD = "fold"
UNSEEN = frozenset({SELECTION, FOLD})
"""Splits of records that no search has selected on: rows set aside, or a part of the training rows
that this training has left out, where they are few. See `selection.py`."""

State = Literal["complete", "failed"]
FailureKind = Literal["nan", "diverged", "out_of_memory", "crash", "timeout", "error"]
How = Literal["predicted", "measured"]

_UTC = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|\+00:00)")
_PATH = r"(?!\.{1,2}(/|$))[^/\\:\x00-\x1f]+(/(?!\.{1,2}(/|$))[^/\\:\x00-\x1f]+)*"


@dataclass(frozen=True)
class Metric:
    """A score on some rows.

    Attributes:
        value: of the metric on these rows.
        stderr: standard deviation of `value` over samples of as many rows; over rows alone, not
            over training seeds.
    """

    value: float
    stderr: float


@dataclass(frozen=True)
class Objective:
    """Something measured beside the quality, such as a latency.

    Attributes:
        value: the measurement.
        unit: what it is counted in, "ms" for example.
        stderr: its standard error; None for what is known exactly or was measured once.
        how: "predicted" by the study's cost model, or "measured" with nothing beside it; None for
            what is exact, and for a metric.
    """

    value: float
    unit: str
    stderr: float | None
    how: How | None = None


@dataclass(frozen=True)
class Failure:
    """Why a trial has no usable measurement.

    Attributes:
        kind: "nan" and "diverged" (to infinity) are properties of the genotype, the others
            accidents: no memory, a worker that died or made no progress, an exception.
        message: one line for the user.
    """

    kind: FailureKind
    message: str

    @property
    def is_accident(self) -> bool:
        """It says nothing of the genotype, and takes nothing from what it has measured."""
        return self.kind not in {"nan", "diverged"}


@dataclass(frozen=True)
class Cached:
    """Where a measurement comes from that this study has not made itself.

    Attributes:
        study: name of the study that made it.
        trial: number of the trial there.
        seconds: that it took there.
        started: when, there.
    """

    study: str
    trial: int
    seconds: float
    started: str


@dataclass(frozen=True)
class Record:
    """What is known about one trial at one rung with one seed; never changed once written.

    Attributes:
        version: of this format, `RECORD_VERSION`; `RECORD_VERSION_STORED` if it has the last two.
        trial: number of the trial in its study.
        rung: level of the training budget, from 0.
        replicate: number of the repetition with another seed, from 0.
        state: "complete" has metrics and no failure; "failed" has a failure.
        genotype: `Genotype.to_dict()`; to be treated as read-only.
        hash: content hash of the genotype, 16 hexadecimal digits.
        seed: of initialisation and op dropout.
        metrics: scores by name.
        objectives: other measurements by name.
        trainable_params: of the ops as they are stored, the head not counted.
        fraction: `trainable_params` over the parameters of the backbone.
        head_params: trainable parameters of the task head.
        steps: optimizer steps from the start of the trial.
        seconds: wall-clock time spent on this measurement.
        started: when, ISO 8601 in UTC.
        worker: which worker measured it.
        cohort: numbers of the trials that were trained together.
        precision: of the arithmetic, "fp32" for example.
        split: the rows that the metrics were computed on.
        failure: why it failed, or None.
        weights: where the trained weights lie, a POSIX path relative to the study's folder.
        weights_sha256: of that file; the record is written after it.
        trained_params: of the ops while they were trained; None if those that are stored.
        stored: the genotype that the weights are of, where it is not the one that was trained.
        row_scores: what each row of the split adds to the study's metric; None where not kept.
        cached: where it was taken from, at no cost: `seconds` is 0; None if it was measured here.

    Raises:
        ConfigError: naming each key that is wrong, its value and what is allowed.
    """

    version: int
    trial: int
    rung: int
    replicate: int
    state: State
    genotype: dict[str, Any]
    hash: str
    seed: int
    metrics: dict[str, Metric]
    objectives: dict[str, Objective]
    trainable_params: int
    fraction: float
    head_params: int
    steps: int
    seconds: float
    started: str
    worker: str
    cohort: tuple[int, ...]
    precision: str
    split: str
    failure: Failure | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    trained_params: int | None = None
    stored: dict[str, Any] | None = None
    row_scores: RowScores | None = None
    cached: Cached | None = None

    def __post_init__(self) -> None:
        checks.refuse_if_any(_problems(self.to_dict()), "record")

    @property
    def key(self) -> tuple[int, int, int]:
        """(trial, rung, replicate): what a study measures once."""
        return (self.trial, self.rung, self.replicate)

    @property
    def is_first(self) -> bool:
        """It is the trial's first measurement, at the lowest rung of the search."""
        return self.rung == self.replicate == 0

    @property
    def is_searched(self) -> bool:
        """It was scored on the rows that the search selects on."""
        return self.split not in UNSEEN

    @property
    def is_full(self) -> bool:
        """It is of full fine-tuning: a baseline, which no budget, front or promotion counts."""
        return bool(self.genotype.get("full"))

    @property
    def stored_genotype(self) -> dict[str, Any]:
        """The genotype that the weights are of."""
        return self.genotype if self.stored is None else self.stored

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, keys in the order of the fields."""
        data = {**asdict(self), "cohort": list(self.cohort)}
        data["objectives"] = objectives_to_dict(self.objectives)
        if self.version == RECORD_VERSION:
            data = {key: data[key] for key in data if key not in _MORE or data[key] is not None}
        return {key: data[key] for key in data if key not in _OPTIONAL or data[key] is not None}

    def to_json(self) -> str:
        """One line of strict JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, data: Any, source: str = "record") -> Self:
        """The inverse of `to_dict`.

        Args:
            data: as parsed from JSON.
            source: the file, and line if there are several, for the error message.

        Raises:
            ConfigError: naming the source, each key that is wrong, its value and what is allowed.
        """
        checks.refuse_if_any(_problems(data), source)
        metrics = {name: Metric(**item) for name, item in data["metrics"].items()}
        objectives = {name: Objective(**item) for name, item in data["objectives"].items()}
        failure = Failure(**data["failure"]) if data["failure"] else None
        parts = {"metrics": metrics, "objectives": objectives, "failure": failure}
        if "row_scores" in data:
            parts["row_scores"] = RowScores(**data["row_scores"])
        if "cached" in data:
            parts["cached"] = Cached(**data["cached"])
        values = {**data, **parts, "cohort": tuple(data["cohort"])}
        record = object.__new__(cls)  # checked above; checking again would double the time
        record.__dict__.update(dict.fromkeys(cls.__dataclass_fields__) | values)
        return record


def objectives_to_dict(objectives: Mapping[str, Objective]) -> dict[str, dict[str, Any]]:
    """Plain JSON values; `how` only where it says something."""
    plain = {name: asdict(item) for name, item in objectives.items()}
    return {
        name: {key: value for key, value in item.items() if key != "how" or value is not None}
        for name, item in plain.items()
    }


def _is_utc(value: object) -> bool:
    if not isinstance(value, str) or not _UTC.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_levels(value: object) -> bool:
    return type(value) is int and 1 <= value <= LEVELS


def _problems(data: Any) -> list[str]:
    table = dict(_FIELDS)
    if isinstance(data, dict):
        table |= _MORE if data.get("version") == RECORD_VERSION_STORED else {}
        table |= {key: check for key, check in _OPTIONAL.items() if key in data}
    problems = checks.fields(table)(data, "")
    if problems:
        return problems
    if (data["state"] == "failed") != (data["failure"] is not None):
        problems.append(
            f"state is {data['state']} and failure is {data['failure']}, allowed: complete without "
            "a failure, failed with one"
        )
    if data["state"] == "complete" and not data["metrics"]:
        problems.append("metrics is {}, allowed: at least one metric where state is complete")
    if not data["cohort"] or len(set(data["cohort"])) < len(data["cohort"]):
        problems.append(f"cohort is {data['cohort']}, allowed: distinct trials, at least one")
    return problems


_METRIC = checks.fields({"value": checks.NUMBER, "stderr": checks.NUMBER_FROM_0})
_FAILURE = checks.fields(
    {"kind": checks.one_of(*get_args(FailureKind)), "message": checks.TEXT},
)
_OBJECTIVE = {
    "value": checks.NUMBER,
    "unit": checks.TEXT,
    "stderr": checks.optional(checks.NUMBER_FROM_0),
}
_EXACT = checks.fields(_OBJECTIVE)
_TOLD_HOW = checks.fields(_OBJECTIVE | {"how": checks.one_of(*get_args(How))})


def _check_objective(value: Any, at: str) -> list[str]:
    return (_TOLD_HOW if isinstance(value, dict) and "how" in value else _EXACT)(value, at)


check_objectives = checks.named(_check_objective)
_FIELDS = {
    "version": checks.one_of(RECORD_VERSION, RECORD_VERSION_STORED),
    "trial": checks.COUNT,
    "rung": checks.COUNT,
    "replicate": checks.COUNT,
    "state": checks.one_of(*get_args(State)),
    "genotype": checks.PLAIN_OBJECT,
    "hash": checks.matching("[0-9a-f]{16}", "16 hexadecimal digits"),
    "seed": checks.COUNT,
    "metrics": checks.named(_METRIC),
    "objectives": check_objectives,
    "trainable_params": checks.COUNT,
    "fraction": checks.NUMBER_FROM_0,
    "head_params": checks.COUNT,
    "steps": checks.COUNT,
    "seconds": checks.NUMBER_FROM_0,
    "started": checks.leaf("a time in UTC such as 2026-01-31T12:00:00Z", _is_utc),
    "worker": checks.TEXT,
    "cohort": checks.list_of(checks.COUNT),
    "precision": checks.TEXT,
    "split": checks.TEXT,
    "failure": checks.optional(_FAILURE),
    "weights": checks.optional(
        checks.matching(_PATH, "a relative POSIX path without . and .."),
    ),
    "weights_sha256": checks.optional(
        checks.matching("[0-9a-f]{64}", "64 hexadecimal digits"),
    ),
}
_MORE = {"trained_params": checks.COUNT, "stored": checks.optional(checks.PLAIN_OBJECT)}
_OPTIONAL = {
    "row_scores": checks.fields(
        {
            "low": checks.NUMBER,
            "high": checks.NUMBER,
            "levels": checks.leaf(f"1 to {LEVELS}", _is_levels),
            "codes": checks.matching("[A-Za-z0-9+/]+={0,2}", "base 64"),
        }
    ),
    "cached": checks.fields(
        {
            "study": checks.TEXT,
            "trial": checks.COUNT,
            "seconds": checks.NUMBER_FROM_0,
            "started": checks.leaf("a time in UTC such as 2026-01-31T12:00:00Z", _is_utc),
        }
    ),
}
