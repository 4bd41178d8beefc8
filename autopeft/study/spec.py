"""The study file: what to search, on which model and data, under which budget."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from autopeft.engines.work import Work
from autopeft.errors import ConfigError
from autopeft.model.computing import Scheme
from autopeft.objectives import COSTS, DEFAULT, CostName, ObjectiveName, ordered
from autopeft.space import yaml
from autopeft.space.methods import DEFAULT_METHODS, method
from autopeft.space.spec import Strict
from autopeft.space.words import FROZEN, HEAD
from autopeft.study.storage import check_url
from autopeft.tasks.spec import (
    LANGUAGE,
    METRICS,
    DataSpec,
    GenerationSpec,
    Kind,
    absolute_metric,
    metric_name,
    own_metric_of,
)
from autopeft.training.spec import TrainingSpec

ADDRESS = r"^(auto|local|(ray://)?[\w.-]+:\d{1,5}|(ray://)?\[[\da-fA-F:]+\]:\d{1,5})$"

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "": 1,
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
}
_MEMORY = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(_BYTES)})")
_TIME = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")

_MIXING = ("llm.int8", "llm_int8")
"""Names of a way to keep weights in few bits that mixes rows (Dettmers et al. 2022)."""

SamplerName = Literal["tpe", "nsga2", "gp", "random"]


def _percent_or_count(value: object) -> object:
    if isinstance(value, str):
        number = value.removesuffix("%").replace(",", "").replace("_", "").strip()
        try:
            amount = float(number)
        except ValueError:
            raise ValueError("has to be a number of parameters or a percentage like 1%") from None
        if value.endswith("%"):
            if not 0 < amount <= 100:  # noqa: PLR2004
                raise ValueError("a percentage has to be above 0% and at most 100%")
            return f"{amount:.15g}%"
        value = amount
    if isinstance(value, float) and value.is_integer():  # 1e6 in YAML
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("has to be a whole number of parameters or a percentage like 1%")
    return value


def _seconds(value: object) -> object:
    if isinstance(value, str):
        if not _TIME.fullmatch(value):
            raise ValueError("has to be like 90s, 30m, 2h or 1h30m, or a number of seconds")
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", value)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(strict=True, gt=0, allow_inf_nan=False)]


def _known_method(name: str) -> str:
    try:
        method(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


def _objectives(names: object) -> object:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("has to be a list of objectives such as [metric, trainable_params]")
    return ordered(names)


Limit = Annotated[int | str, BeforeValidator(_percent_or_count)]


def _bytes(value: object) -> object:
    if isinstance(value, str):
        found = _MEMORY.fullmatch(value)
        if found is None:
            raise ValueError("has to be like 6GiB, 800MB or a number of bytes")
        return int(float(found[1]) * _BYTES[found[2]])
    return value


Bytes = Annotated[int, BeforeValidator(_bytes), Field(strict=True, gt=0)]


def limit(given: int | str, backbone_params: int) -> int:
    """A number of parameters, given as such or as a percentage of the backbone's."""
    if isinstance(given, str):
        # In floats .29 % of 100,000 would be 289.
        return int(backbone_params * Fraction(given.removesuffix("%")) / 100)
    return given


def _without_password(url: str) -> str:
    try:
        return check_url(url)
    except ValueError as error:  # told without the value, which may hold a password
        raise yaml.ProblemsError([((), str(error))]) from None


def _class(value: object) -> object:
    """A class as it is read from data, where YAML takes it for a number or a truth value."""
    if isinstance(value, bool | int):
        return str(value).lower()
    return value


def _scheme(name: object) -> object:
    if name in _MIXING:
        raise ValueError(
            f"`{name}` rounds states by what all rows of a batch hold, so the trials of a cohort "
            "would not be independent; allowed: nf4, int8"
        )
    return name


class BudgetSpec(Strict):
    """Hard limits.

    Attributes:
        max_params: parameters of the ops of any trial as they are stored, a number or a percentage
            of the backbone.
        max_trained: those that are trained, likewise, since some methods train more than they
            store; or None.
        trials: trials in all, over every run on the folder.
        max_memory: bytes that training any trial alone may take at its peak, as predicted, such as
            `6GiB`; or None.
        time: seconds of training in all, over every run on the folder, also by jobs that were
            killed, hung or were split; or None.
    """

    max_params: Limit = "1%"
    max_trained: Limit | None = None
    max_memory: Bytes | None = None
    trials: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 40
    time: Seconds | None = None


OF_A_CLUSTER = ("address", "gpus_per_worker", "cpus_per_worker")
"""Keys of an engine that go with `ray` alone."""


class EngineSpec(Strict):
    """Where trials run. Results do not depend on it, as long as there is one worker.

    Attributes:
        kind: `local` for worker processes on this machine, `ray` for workers on a Ray cluster.
        workers: that train. If "auto", one on each GPU, or one on a CPU; on a cluster as many as
            it has room for. With 0, trials run in the driver's own process: nothing is supervised.
        address: of the cluster: `auto` for the one that runs here or that RAY_ADDRESS names,
            `host:port`, `ray://host:port`, or `local` for one of this machine alone.
        gpus_per_worker: on a cluster, 0, a share of a GPU, or 1; one, where it has any, if "auto".
        cpus_per_worker: on a cluster.
        trial_timeout: seconds without progress after which a trial has failed.
        max_failures: the search stops when so many trials in a row have failed, those that are
            trained on or anew included; once continued, it counts from zero.
    """

    kind: Literal["local", "ray"] = "local"
    workers: Literal["auto"] | Annotated[int, Field(strict=True, ge=0, le=1024)] = "auto"
    address: Annotated[str, Field(pattern=ADDRESS)] = "auto"
    gpus_per_worker: (
        Literal["auto"] | Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
    ) = "auto"
    cpus_per_worker: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    trial_timeout: Seconds = 600
    max_failures: Annotated[int, Field(strict=True, ge=1)] = 10

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.kind == "ray" and self.workers == 0:
            raise ValueError("`workers: 0` is the driver's own process, and goes without `ray`")
        if self.kind == "local":
            fields = type(self).model_fields
            for name in OF_A_CLUSTER:
                if getattr(self, name) != fields[name].default:
                    raise ValueError(f"`{name}` is of a cluster, and goes with `kind: ray` alone")
        return self


class SelectionSpec(Strict):
    """The final selection: winners and baselines are trained anew and scored on unseen rows.

    Attributes:
        seeds: fresh ones for each contender; 0 for no final selection.
        share: of the cost of the study, at most; contenders and seeds shrink to fit.
    """

    seeds: Annotated[int, Field(strict=True, ge=0, le=100)] = 3
    share: Annotated[float, Field(strict=True, gt=0, le=0.9)] = 0.4


class StudySpec(Strict):
    """A study file.

    Attributes:
        metric: of the task; the task's default one if None; or a function of one's own, `my.py:fn`
            (`autopeft.tasks.own_metric`), whose file is run.
        positive: the class that `metric: f1` is of, where there are two; the second if None.
        quantize: keeps the weight matrices of the backbone's layers in few bits, `nf4` or `int8`.
        generation: how answers are encoded, learnt and written, where they are texts.
        objectives: two to four, the metric among them; in the order of `autopeft.objectives`.
        cache: measurements are shared with the studies beside this one's folder.
        warm_start: a front.json, or the folder of a study, whose points are tried first.
        rungs: levels of the training budget, if there are at least 30 trials.
        reduction: about one of so many trials goes on from one rung to the next.
        rung_metric: what rungs below the top are measured by, where answers are texts: their
            likelihood, so that nothing has to be written there; the metric if None.
        full_finetune: training the whole backbone is one of the baselines of the final selection.
    """

    model: Annotated[str, Field(min_length=1)]
    quantize: Annotated[Scheme, BeforeValidator(_scheme)] | None = None
    task: Kind = "classification"
    data: DataSpec
    metric: str | None = None
    positive: Annotated[str, BeforeValidator(_class)] | None = None
    generation: GenerationSpec | None = None
    objectives: Annotated[tuple[ObjectiveName, ...], BeforeValidator(_objectives)] = DEFAULT
    space: str = "unified"
    methods: tuple[Annotated[str, AfterValidator(_known_method)], ...] = DEFAULT_METHODS
    warm_start: Path | None = None
    budget: BudgetSpec = BudgetSpec()
    training: TrainingSpec = TrainingSpec()
    sampler: SamplerName = "tpe"
    rungs: Annotated[int, Field(strict=True, ge=1, le=10)] = 3
    reduction: Annotated[int, Field(strict=True, ge=2, le=10)] = 3
    rung_metric: Literal["likelihood"] | None = None
    selection: SelectionSpec = SelectionSpec()
    full_finetune: Annotated[bool, Field(strict=True)] = False
    engine: EngineSpec = EngineSpec()
    cache: Annotated[bool, Field(strict=True)] = True
    storage: Annotated[str, AfterValidator(_without_password)] | None = None
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _known_metric(self) -> Self:
        allowed = METRICS[self.task]
        metric = self.metric
        if metric is not None and metric not in allowed and own_metric_of(metric) is None:
            raise ValueError(
                f"metric `{metric}` is not for {self.task}; allowed: {', '.join(allowed)}, or a "
                "function of your own, `file.py:function`"
            )
        return self

    @model_validator(mode="after")
    def _positive_of_f1(self) -> Self:
        if self.positive is not None and (self.task, self.metric) != ("classification", "f1"):
            raise ValueError("`positive` is the class that `metric: f1` of classification is of")
        return self

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if self.full_finetune and not self.selection.seeds:
            raise ValueError("`full_finetune` is of the final selection, and `seeds: 0` has none")
        return self

    @model_validator(mode="after")
    def _trains_what_can_be(self) -> Self:
        if self.quantize is not None and self.full_finetune:
            raise ValueError("`full_finetune` trains weights, and those of `quantize` stay frozen")
        return self

    @model_validator(mode="after")
    def _generation_of_texts(self) -> Self:
        if self.generation is not None and self.task not in LANGUAGE:
            raise ValueError(f"`generation` is for {' and '.join(sorted(LANGUAGE))} alone")
        return self

    @model_validator(mode="after")
    def _rung_metric_of_texts(self) -> Self:
        if self.rung_metric is not None and self.task not in LANGUAGE:
            raise ValueError(f"`rung_metric` is for {' and '.join(sorted(LANGUAGE))} alone")
        return self

    @model_validator(mode="after")
    def _one_column_of_words(self) -> Self:
        if self.task == "token_classification" and len(self.data.text or ()) > 1:
            raise ValueError("`data.text` of token_classification is one column, of lists of words")
        return self

    @model_validator(mode="after")
    def _labels_of_any_number(self) -> Self:
        if self.data.label_columns is not None and self.task != "multi_label_classification":
            raise ValueError("`data.label_columns` is for multi_label_classification alone")
        return self

    @model_validator(mode="after")
    def _answers_to_messages(self) -> Self:
        if self.data.messages is not None and self.task != "causal":
            raise ValueError("`data.messages` is for causal alone")
        return self

    @property
    def chosen_metric(self) -> str:
        """What records call the metric, or the task's default one."""
        return metric_name(self._metric)

    @property
    def low_metric(self) -> str:
        """What records of rungs below the top are compared by."""
        return self.rung_metric or self.chosen_metric

    @property
    def without_ops(self) -> str:
        """What a trial without ops is: models that write have no head that could be trained."""
        return FROZEN if self.task in LANGUAGE else HEAD

    @property
    def _metric(self) -> str:
        return self.metric or METRICS[self.task][0]

    @property
    def costs(self) -> tuple[CostName, ...]:
        """The objectives without the metric."""
        return tuple(name for name in COSTS if name in self.objectives)

    @property
    def predicts(self) -> bool:
        """Whether costs of trials have to be predicted."""
        return self.budget.max_memory is not None or any(COSTS[c].predicted for c in self.costs)

    @property
    def work(self) -> Work:
        """What a worker loads; of a resolved study."""
        return Work(
            model=self.model,
            quantize=self.quantize,
            task=self.task,
            metric=self._metric,
            positive=self.positive,
            costs=self.costs,
            max_memory=self.budget.max_memory,
            data=self.data,
            training=self.training,
            seed=self.seed,
            generation=self.generation,
            rung_metric=self.rung_metric,
        )

    def resolved(self, base: Path) -> "StudySpec":
        """The same study with absolute paths, so that its file means the same in any folder."""
        paths = {
            name: (base / path).resolve()
            for name in ("train", "validation", "selection", "test")
            if (path := getattr(self.data, name)) is not None
        }
        model = str((base / self.model).resolve()) if (base / self.model).is_dir() else self.model
        return self.model_copy(
            update={
                "data": self.data.model_copy(update=paths),
                "model": model,
                "metric": absolute_metric(self._metric, base),
                "warm_start": None
                if self.warm_start is None
                else (base / self.warm_start).resolve(),
            }
        )


def load_study_spec(path: Path) -> StudySpec:
    """Read a study file.

    Raises:
        ConfigError: every problem with file, line, key and what is allowed.
    """
    return yaml.validate(StudySpec, yaml.load(path))
