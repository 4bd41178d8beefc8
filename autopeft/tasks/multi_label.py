"""Multi-label classification: each of several labels is there or not, any number in a row."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from autopeft.records import Metric
from autopeft.tasks.encode import Encoded, encode
from autopeft.tasks.jackknife import measured, pseudo_values, ratio_rows
from autopeft.tasks.losses import mean_cross_entropy
from autopeft.tasks.metrics import share
from autopeft.tasks.own_metric import OwnMetric
from autopeft.tasks.spec import METRICS, check_metric
from autopeft.tasks.splits import Split

Sets = Bool[np.ndarray, "row label"]
"""Which labels rows have."""

_MAX_NAMED = 5


@dataclass(frozen=True)
class MultiLabel:
    """Any number of labels for each row; binary cross-entropy of each.

    Attributes:
        label_names: by number.
        metric: `f1_micro`, `f1_macro`, `accuracy` or the name of `own`.
        own: the function that is the metric, if it is one; it is told lists of labels.
    """

    label_names: tuple[str, ...]
    metric: str = METRICS["multi_label_classification"][0]
    own: OwnMetric | None = None

    def __post_init__(self) -> None:
        if self.own is None:
            check_metric(self.metric, "multi_label_classification")

    @property
    def n_outputs(self) -> int:
        """One for each label."""
        return len(self.label_names)

    def loss(
        self, logits: Float[Tensor, "trial batch output"], labels: Int[Tensor, "batch output"]
    ) -> Float[Tensor, " trial"]:
        """Mean binary cross-entropy of rows and labels for each trial, in nats.

        As cross-entropy of an output and 0: the kernel of the binary one rounds the last few
        numbers of a tensor otherwise, so that a trial's bits would depend on how many there are.
        """
        pairs = torch.stack([torch.zeros_like(logits), logits], dim=-1)
        return mean_cross_entropy(pairs.flatten(1, 2), labels.flatten())

    def predictions(
        self, logits: Float[Tensor, "trial batch output"]
    ) -> Bool[Tensor, "trial batch output"]:
        """The labels that are likelier there than not; none where logits are NaN."""
        return logits > 0

    def metrics(self, predictions: NDArray[Any], truth: NDArray[Any]) -> dict[str, Metric]:
        """Every metric of one trial's rows, the chosen one first.

        Standard errors are the jackknife's; that of the accuracy is Wilson's, which is not 0 where
        no row is right, or every one.

        Args:
            predictions: [row, label], what is there.
            truth: likewise, 1 or 0.
        """
        names = METRICS["multi_label_classification"]
        found = {name: measured(_rows(name, predictions, truth)) for name in names}
        found["accuracy"] = share(found["accuracy"].value, len(truth))
        if self.own is not None:
            return self.own.measure(self.named(predictions), self.named(truth)) | found
        return {self.metric: found[self.metric]} | found

    def row_scores(
        self, predictions: NDArray[Any], truth: NDArray[Any]
    ) -> Float[np.ndarray, " row"]:
        """What each row adds to the chosen metric; their mean is the metric."""
        if self.own is not None:
            return self.own.row_scores(self.named(predictions), self.named(truth))
        return _rows(self.metric, predictions, truth)

    def named(self, sets: NDArray[Any]) -> list[list[str]]:
        """The labels of each row as a user sees them, in their order."""
        return [[self.label_names[number] for number in np.flatnonzero(row)] for row in sets]

    def told(self, labels: NDArray[Any]) -> str:
        """The labels of one row in words, of many the first ones."""
        (names,) = self.named(labels[None])
        if not names:
            return "no label"
        told = " and ".join(f'"{name}"' for name in names[:_MAX_NAMED])
        more = len(names) - _MAX_NAMED
        return f"{told} and {more:,} more" if more > 0 else told

    def sets(self, split: Split) -> Int[np.ndarray, "row label"]:
        """The labels of a split, 1 where one is there."""
        found = np.zeros((len(split), self.n_outputs), np.int64)
        for row, numbers in zip(found, split.labels, strict=True):
            row[np.asarray(numbers, np.int64)] = 1
        return found

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        """Tokenise a split.

        Args:
            split: single texts or pairs, and the numbers of their labels.
            tokenizer: of the model.
            max_length: longest row in tokens.

        Raises:
            ConfigError: no room for text in `max_length`, or more than the model can read.
        """
        read = encode(split.asked, tokenizer, max_length)
        return replace(read, labels=torch.from_numpy(self.sets(split)))

    def constant(self, split: Split) -> Bool[np.ndarray, " label"]:
        """The labels that score best if they are given to every row.

        Every label that occurs adds to the mean of F1; F1 over all of them is the best of a number
        of the commonest ones; and most rows have the commonest set.
        """
        truth = self.sets(split)
        counts = truth.sum(0)
        if self.metric == "f1_macro":
            return np.asarray(counts > 0)
        if self.metric == "accuracy":
            kinds, n_rows = np.unique(truth, axis=0, return_counts=True)
            return np.asarray(kinds[n_rows.argmax()], bool)
        order = np.argsort(-counts, kind="stable")
        n_given = np.arange(1, len(counts) + 1)
        f1 = 2 * counts[order].cumsum() / (counts.sum() + n_given * len(truth))
        return np.isin(np.arange(len(counts)), order[: f1.argmax() + 1])


def _rows(metric: str, predictions: Sets, truth: NDArray[Any]) -> Float[np.ndarray, " row"]:
    """What each row adds to a metric of ours.

    Micro F1 is that of all labels of all rows together; macro F1 the mean over the labels that
    occur in truth or predictions; accuracy the part of the rows whose labels are all right and all
    there (subset accuracy).
    """
    given, wanted = np.asarray(predictions, bool), np.asarray(truth, bool)
    if metric == "accuracy":
        return np.asarray((given == wanted).all(1), np.float64)
    if metric == "f1_micro":
        return ratio_rows(np.stack([2 * (given & wanted).sum(1), given.sum(1) + wanted.sum(1)], 1))
    total, n_labels = np.zeros(len(given) + 1), np.zeros(len(given) + 1)
    for one, other in zip(given.T, wanted.T, strict=True):
        hits, either = one & other, one.astype(np.int64) + other
        below = np.append(either.sum() - either, either.sum())  # the last one is that of all rows
        above = 2 * np.append(hits.sum() - hits, hits.sum())
        total += above / np.maximum(below, 1)
        n_labels += below > 0
    means = total / np.maximum(n_labels, 1)
    if len(given) == 1:
        return np.asarray(means[-1:], np.float64)
    return pseudo_values(float(means[-1]), means[:-1])
