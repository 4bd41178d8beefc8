"""A task: what a model's outputs mean, what they cost, how good they are."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Num, Shaped
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from autopeft.errors import ConfigError
from autopeft.records import Metric
from autopeft.tasks.data import Dataset
from autopeft.tasks.encode import Encoded, encode
from autopeft.tasks.jackknife import rows_of_classes, rows_of_numbers
from autopeft.tasks.labels import listed
from autopeft.tasks.language import Language
from autopeft.tasks.losses import mean_cross_entropy
from autopeft.tasks.metrics import measure_classes, measure_numbers
from autopeft.tasks.multi_label import MultiLabel
from autopeft.tasks.own_metric import OwnMetric, load_own_metric
from autopeft.tasks.spec import METRICS, GenerationSpec, Kind, check_metric, metric_name
from autopeft.tasks.splits import Split
from autopeft.tasks.tokens import TokenClassification

MACRO = "f1_macro"


class Scoring(Protocol):
    """What scoring needs to know of a task."""

    @property
    def metric(self) -> str:
        """The metric that the search maximises."""
        ...

    @property
    def own(self) -> OwnMetric | None:
        """The function that is the metric, if it is one."""
        ...

    def metrics(self, predictions: NDArray[Any], truth: NDArray[Any]) -> dict[str, Metric]:
        """Every metric of this kind of task on one trial's rows, the chosen one first."""
        ...

    def row_scores(
        self, predictions: NDArray[Any], truth: NDArray[Any]
    ) -> Float[np.ndarray, " row"]:
        """What each row adds to the chosen metric; their mean is the metric."""
        ...


@runtime_checkable
class Task(Scoring, Protocol):
    """A task with a head; what training and scoring need to know of it.

    Trials are independent: what is in the logits of one, NaN included, changes no bit of the loss,
    gradient or predictions of another.
    """

    @property
    def n_outputs(self) -> int:
        """Outputs of the head."""
        ...

    def loss(
        self, logits: Float[Tensor, "trial batch output"], labels: Num[Tensor, "batch ..."]
    ) -> Float[Tensor, " trial"]:
        """Mean over the batch for each trial, computed in fp32."""
        ...

    def predictions(
        self, logits: Float[Tensor, "trial batch output"]
    ) -> Shaped[Tensor, "trial batch ..."]:
        """What the outputs say, in the terms of the labels."""
        ...


@dataclass(frozen=True)
class Classification:
    """One of several classes; cross-entropy.

    Attributes:
        n_labels: number of classes.
        metric: `accuracy`, `f1`, `f1_macro`, `mcc` or the name of `own`.
        own: the function that is the metric, if it is one.
        label_names: the classes as it is told them.
        positive: the class that F1 is of, where there are two.
    """

    n_labels: int
    metric: str = METRICS["classification"][0]
    own: OwnMetric | None = None
    label_names: tuple[str, ...] = ()
    positive: int = 1

    def __post_init__(self) -> None:
        if self.own is None:
            check_metric(self.metric, "classification")

    @property
    def n_outputs(self) -> int:
        """One for each class."""
        return self.n_labels

    def loss(
        self, logits: Float[Tensor, "trial batch output"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, " trial"]:
        """Mean cross-entropy for each trial, in nats."""
        return mean_cross_entropy(logits, labels)

    def predictions(
        self, logits: Float[Tensor, "trial batch output"]
    ) -> Int[Tensor, "trial batch"]:
        """The likeliest class; some class even where logits are NaN, so look at the loss too."""
        return logits.argmax(dim=-1)

    def metrics(self, predictions: NDArray[Any], truth: NDArray[Any]) -> dict[str, Metric]:
        """Accuracy, F1 and MCC, and perhaps the mean F1 of the classes; the chosen one first.

        Args:
            predictions: [row], class numbers of one trial.
            truth: [row], class numbers.
        """
        sides = self._turned(predictions), self._turned(truth)
        found = measure_classes(*sides, self.n_labels)
        if self.own is not None:
            return self.own.measure(self._named(predictions), self._named(truth)) | found
        if self.metric == MACRO:
            found[MACRO] = measure_classes(*sides, self.n_labels, macro=True)["f1"]
        return _first(self.metric, found)

    def row_scores(
        self, predictions: NDArray[Any], truth: NDArray[Any]
    ) -> Float[np.ndarray, " row"]:
        """What each row adds to the chosen metric; their mean is the metric."""
        if self.own is not None:
            return self.own.row_scores(self._named(predictions), self._named(truth))
        sides = self._turned(predictions), self._turned(truth)
        return rows_of_classes(self.metric, *sides, self.n_labels)

    def _turned(self, classes: NDArray[Any]) -> NDArray[Any]:
        """Class numbers as the metrics count them: of two, the positive one is the second."""
        return 1 - classes if self.positive == 0 else classes

    def _named(self, classes: NDArray[Any]) -> list[str]:
        return [self.label_names[number] for number in classes]


@dataclass(frozen=True)
class Regression:
    """A number; mean squared error of the standardised label, so that a head starts at its scale.

    Attributes:
        metric: `pearson`, `spearman` or the name of `own`.
        label_mean: of the training labels.
        label_std: of the training labels, above 0.
        own: the function that is the metric, if it is one.
    """

    metric: str = METRICS["regression"][0]
    label_mean: float = 0.0
    label_std: float = 1.0
    own: OwnMetric | None = None

    def __post_init__(self) -> None:
        if self.own is None:
            check_metric(self.metric, "regression")

    @property
    def n_outputs(self) -> int:
        """One."""
        return 1

    def loss(
        self, logits: Float[Tensor, "trial batch 1"], labels: Float[Tensor, " batch"]
    ) -> Float[Tensor, " trial"]:
        """Mean squared error for each trial, in variances of the training labels."""
        targets = (labels.float() - self.label_mean) / self.label_std
        return (logits.float().squeeze(-1) - targets).square().mean(dim=1)

    def predictions(self, logits: Float[Tensor, "trial batch 1"]) -> Float[Tensor, "trial batch"]:
        """The outputs on the labels' own scale."""
        return logits.float().squeeze(-1) * self.label_std + self.label_mean

    def metrics(self, predictions: NDArray[Any], truth: NDArray[Any]) -> dict[str, Metric]:
        """Pearson's and Spearman's correlation, the chosen one first.

        Args:
            predictions: [row], of one trial.
            truth: [row].
        """
        found = measure_numbers(predictions, truth)
        if self.own is not None:
            return self.own.measure(predictions.tolist(), truth.tolist()) | found
        return _first(self.metric, found)

    def row_scores(
        self, predictions: NDArray[Any], truth: NDArray[Any]
    ) -> Float[np.ndarray, " row"]:
        """What each row adds to the chosen metric; their mean is the metric."""
        if self.own is not None:
            return self.own.row_scores(predictions.tolist(), truth.tolist())
        return rows_of_numbers(self.metric, predictions, truth)


AnyTask = Task | Language
"""A task with a head of its own, or one whose answers are words."""


def make_task(
    kind: Kind,
    metric: str | None,
    dataset: Dataset,
    generation: GenerationSpec | None = None,
    *,
    chat: bool = False,
    positive: str | None = None,
) -> AnyTask:
    """The task of a data set.

    Args:
        kind: of the task.
        metric: what to maximise; `None` for the default of its kind. A function is tried on the
            validation rows, as if they had been predicted well.
        dataset: tells the number of classes, or the labels' mean and standard deviation.
        generation: how texts are written, where answers are texts; as usual if None.
        chat: what is answered are messages.
        positive: the class that F1 is of; the second of two if None.

    Raises:
        ConfigError: the metric does not suit the kind, or is a function that cannot be called; or
            there is no such class.
    """
    metric = METRICS[kind][0] if metric is None else metric
    own = load_own_metric(metric)
    task = _make_task(kind, metric_name(metric), dataset, generation, own, chat=chat)
    if positive is not None and isinstance(task, Classification):
        task = replace(task, positive=_place_of(positive, dataset.label_names))
    if own is not None:
        own(*_ideal(task, dataset.validation))
    return task


def _make_task(
    kind: Kind,
    metric: str,
    dataset: Dataset,
    generation: GenerationSpec | None,
    own: OwnMetric | None,
    *,
    chat: bool,
) -> AnyTask:
    if kind == "seq2seq" or kind == "causal":  # noqa: PLR1714  # which mypy understands
        return Language(kind, metric, generation or GenerationSpec(), own, chat)
    if kind == "token_classification":
        return TokenClassification(dataset.label_names, metric, own)
    if kind == "multi_label_classification":
        return MultiLabel(dataset.label_names, metric, own)
    if kind == "classification":
        names = dataset.label_names if own else ()
        return Classification(len(dataset.label_names), metric, own, names)
    labels = np.asarray(dataset.train.labels, np.float64)
    return Regression(metric, float(labels.mean()), float(labels.std()), own)


def _ideal(task: AnyTask, split: Split) -> tuple[list[Any], list[Any]]:
    """Predictions and references as a function is told them, all predictions being right."""
    if isinstance(task, Language):
        return [texts[0] for texts in split.answers], [list(texts) for texts in split.answers]
    if isinstance(task, TokenClassification):
        return task.named(split.labels), task.named(split.labels)  # type: ignore[arg-type]
    if isinstance(task, MultiLabel):
        return task.named(task.sets(split)), task.named(task.sets(split))
    if isinstance(task, Classification):
        named = [task.label_names[label] for label in split.labels if isinstance(label, int)]
        return named, named
    numbers = list(split.labels)
    return numbers, numbers


def _place_of(positive: str, label_names: tuple[str, ...]) -> int:
    if len(label_names) != 2:  # noqa: PLR2004
        raise ConfigError(
            f"positive: there are {len(label_names):,} classes, and f1 is the mean over them"
        )
    if positive not in label_names:
        raise ConfigError(f"positive: '{positive}' is not one of the classes {listed(label_names)}")
    return label_names.index(positive)


def _first(chosen: str, measured: dict[str, Metric]) -> dict[str, Metric]:
    return {chosen: measured[chosen]} | measured


def encode_for(
    task: AnyTask, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Encoded:
    """Tokenise a split as a task reads it.

    Args:
        task: whose rows they are.
        split: to tokenise.
        tokenizer: of the model.
        max_length: longest text in tokens.

    Raises:
        ConfigError: no room for text in `max_length`, or more than the model can read.
    """
    if isinstance(task, Language | TokenClassification | MultiLabel):
        return task.encode(split, tokenizer, max_length)
    return encode(split, tokenizer, max_length)
