"""What trials say that another tuner trains: their records, in a text among its results."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from autopeft import checks
from autopeft.engines.job import Job, JobTrial, weights_name
from autopeft.engines.outcome import record_of
from autopeft.errors import ConfigError, DataError
from autopeft.files import parse_json
from autopeft.objectives import PARAMS, cost_of
from autopeft.records import Failure, Record
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.seed import seed_of
from autopeft.study.limits import budget_of
from autopeft.study.prepared import Prepared

REPORT = "autopeft"
"""Key of the report among a trial's results."""
JOB, PAUSES, GENOTYPE = "job", "pauses", "genotype"
"""Keys of a configuration: a job of a study as JSON, and whether a scheduler decides who trains on
after it; a genotype as JSON. All others are coordinates of the space."""
WEIGHTS, PAUSED = "weights.safetensors", "paused.safetensors"
"""Files of a trial's last record in its checkpoint."""
ORIGIN = "tune"
"""Where trials come from that the study has not proposed."""


@dataclass(frozen=True)
class Report:
    """What is known of a trial so far.

    Attributes:
        records: of its rungs, ascending.
        refusal: why it was not trained at all; None if it was.
        asked: its number is that of a study which has asked for it; otherwise it has none yet.
    """

    records: tuple[Record, ...] = ()
    refusal: str | None = None
    asked: bool = False

    def to_json(self) -> str:
        """One line."""
        plain = {**vars(self), "records": [record.to_dict() for record in self.records]}
        return json.dumps(plain, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> "Report":
        """The inverse of `to_json`.

        Raises:
            DataError: this is none; `source` stands in the message.
        """
        data = parse_json(text.encode(), source)
        try:
            checks.refuse_if_any(_CHECK(data, ""), source)
            records = tuple(Record.from_dict(item, source) for item in data["records"])
        except ConfigError as error:  # in results it is the data that is wrong
            raise DataError(str(error)) from error
        return cls(records, data["refusal"], data["asked"])


def report_in(result: Mapping[str, Any], source: str) -> Report | None:
    """The report among the results of a trial; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    text = result.get(REPORT)
    return Report.from_json(text, source) if isinstance(text, str) else None


def values_in(ready: Prepared, report: Report, genotype: Genotype) -> dict[str, float]:
    """Metrics and costs of a trial as its tuner sees them; NaN where it was not measured."""
    spec = ready.setup.spec
    values = dict.fromkeys((spec.chosen_metric, *spec.costs), math.nan)
    values[PARAMS] = genotype.count_params(ready.setup.space.shape)
    if report.records and (last := report.records[-1]).state == "complete":
        values |= {name: metric.value for name, metric in last.metrics.items()}
        values |= {name: cost_of(last, name) for name in spec.costs}
    return values


def genotype_in(ready: Prepared, config: Mapping[str, Any]) -> Genotype:
    """The genotype that a configuration means.

    Raises:
        ConfigError: it is no genotype, or lacks a coordinate of the space.
    """
    if JOB in config:
        return job_in(config[JOB]).trials[0].genotype
    if GENOTYPE in config:
        return genotype_from_dict(parse_json(config[GENOTYPE].encode(), GENOTYPE))
    space = ready.setup.space
    if missing := [dim.name for dim in space.dimensions() if dim.name not in config]:
        raise ConfigError(
            f"the configuration lacks {', '.join(missing)}; take it from "
            f"`autopeft.tune.param_space` of space {space.spec.name}"
        )
    return space.decode(config)


def job_in(text: str) -> Job:
    """A job of one trial, from a configuration.

    Raises:
        ConfigError: this is none.
    """
    return Job.from_dict(parse_json(text.encode(), JOB), JOB)


def first_job(ready: Prepared, config: Mapping[str, Any]) -> Job:
    """What a configuration asks for, up to the lowest rung if it does not say more.

    Raises:
        ConfigError: it is none.
    """
    if JOB in config:
        return job_in(config[JOB])
    genotype, seed = genotype_in(ready, config), ready.setup.spec.seed
    return job_of(ready, JobTrial(0, genotype, seed_of(seed, genotype.hash, "0"), ORIGIN), 0)


def job_of(ready: Prepared, trial: JobTrial, rung: int) -> Job:
    """A trial of the search, to a rung."""
    order_seed = seed_of(ready.setup.spec.seed, "order", "0")
    return Job((trial,), rung, 0, order_seed, ready.rungs.until(rung))


def refusal_of(ready: Prepared, genotype: Genotype) -> str | None:
    """Why a genotype may not be trained; None if it may."""
    setup = ready.setup
    budget = budget_of(setup.spec, setup.space.shape, ready.manifest.costs)
    if budget.admits(genotype, setup.space.shape):
        return None
    spent = budget.spent_by(genotype, setup.space.shape)
    return f"the genotype has {spent}, the budget is {budget}"


def renumbered(record: Record, number: int) -> Record:
    """The same measurement as trial `number` of a study."""
    weights = None
    if record.weights is not None:
        weights = weights_name(number, record.rung, record.replicate)
    return replace(record, trial=number, cohort=(number,), weights=weights)


def lost(ready: Prepared, job: Job) -> Record:
    """What a job comes to that its tuner has given up."""
    return record_of(
        job,
        job.trials[0],
        facts=ready.setup.facts,
        precision=ready.manifest.settings.precision,
        worker="tune",
        seconds=0.0,
        started=datetime.now(UTC),
        failure=Failure("crash", "Ray Tune has given the trial up; its folder there says why"),
    )


_CHECK = checks.fields(
    {
        "records": checks.list_of(checks.PLAIN_OBJECT),
        "refusal": checks.optional(checks.TEXT),
        "asked": checks.one_of(True, False),
    }
)
