"""Token classification: a tag for every word, as for the recognition of named entities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from autopeft.errors import DataError
from autopeft.records import Metric
from autopeft.tasks.encode import IGNORED, Encoded, Tags
from autopeft.tasks.jackknife import measured
from autopeft.tasks.losses import mean_cross_entropy
from autopeft.tasks.own_metric import OwnMetric
from autopeft.tasks.spans import (
    OUTSIDE,
    SPAN_F1,
    check_spans,
    hit_rows,
    marks_spans,
    span_rows,
)
from autopeft.tasks.spec import METRICS, check_metric
from autopeft.tasks.splits import Split
from autopeft.tasks.tokenizing import check_length, tokenized


@dataclass(frozen=True)
class TokenClassification:
    """One of several tags for every word, read from its first token; cross-entropy.

    Words that no token begins in, or that are cut off, have no prediction: it counts as wrong, and
    as outside of all spans.

    Attributes:
        label_names: the tags, by number.
        metric: `span_f1`, `accuracy` or the name of `own`.
        own: the function that is the metric, if it is one; it is told lists of tags.
    """

    label_names: tuple[str, ...]
    metric: str
    own: OwnMetric | None = None

    def __post_init__(self) -> None:
        if self.metric == SPAN_F1:
            check_spans(self.label_names)
        elif self.own is None:
            check_metric(self.metric, "token_classification")

    @property
    def n_outputs(self) -> int:
        """One for each tag."""
        return len(self.label_names)

    def loss(
        self, logits: Float[Tensor, "trial word output"], labels: Int[Tensor, " word"]
    ) -> Float[Tensor, " trial"]:
        """Mean cross-entropy over the words of a batch for each trial, in nats."""
        return mean_cross_entropy(logits, labels)

    def predictions(self, logits: Float[Tensor, "trial word output"]) -> Int[Tensor, "trial word"]:
        """The likeliest tag; some tag even where logits are NaN, so look at the loss too."""
        return logits.argmax(dim=-1)

    def metrics(self, predictions: NDArray[Any], truth: NDArray[Any]) -> dict[str, Metric]:
        """Every metric that can be told of one trial's rows, the chosen one first.

        Args:
            predictions: [row], class numbers of its words.
            truth: likewise.
        """
        names = METRICS["token_classification"] if marks_spans(self.label_names) else ("accuracy",)
        found = {name: measured(self._rows(name, predictions, truth)) for name in names}
        if self.own is not None:
            return self.own.measure(self.named(predictions), self.named(truth)) | found
        return {self.metric: found[self.metric]} | found

    def row_scores(
        self, predictions: NDArray[Any], truth: NDArray[Any]
    ) -> Float[np.ndarray, " row"]:
        """What each row adds to the chosen metric; their mean is the metric."""
        if self.own is not None:
            return self.own.row_scores(self.named(predictions), self.named(truth))
        return self._rows(self.metric, predictions, truth)

    def _rows(
        self, name: str, predictions: NDArray[Any], truth: NDArray[Any]
    ) -> Float[np.ndarray, " row"]:
        if name == SPAN_F1:
            return span_rows(self.named(predictions), self.named(truth))
        return hit_rows(list(predictions), list(truth))

    def named(self, rows: Sequence[Sequence[int]] | NDArray[Any]) -> list[list[str]]:
        """Tags as a user sees them."""
        names = {IGNORED: OUTSIDE} | dict(enumerate(self.label_names))
        return [[names[int(number)] for number in row] for row in rows]

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        """Tokenise a split, and find the first token of every word.

        Args:
            split: its texts are words, its labels tags of them.
            tokenizer: of the model.
            max_length: longest row in tokens.

        Raises:
            ConfigError: no room for words in `max_length`, or more than the model can read.
            DataError: the tokenizer does not tell what its tokens are of, or finds none in a row.
        """
        check_length(max_length, tokenizer, 1)
        if not tokenizer.is_fast:
            raise DataError(
                f"the model's tokenizer ({type(tokenizer).__name__}) does not tell which words its "
                "tokens are of"
            )
        ids, types, words, targets, n_cut = [], [], [], [], 0
        # As texts, not as words: byte pairs of a word in a text begin with its space.
        joined = [(" ".join(row),) for row in split.texts]
        found = tokenized(joined, tokenizer, max_length, with_offsets=True)
        pairs = zip(split.texts, split.labels, found, strict=True)
        for row, (texts, tags, tokens) in enumerate(pairs):
            first = _first_tokens(texts, tokens.offsets)
            if not first:
                raise DataError(f"{split.name}: no token of row {row + 1} begins in a word")
            numbers = list(tags)  # type: ignore[call-overload]
            target = [IGNORED] * len(tokens.offsets)
            for word, token in first.items():
                target[token] = numbers[word]
            ids.append(tokens.ids)
            types.append(tokens.types)
            words.append(list(first))
            targets.append(target)
            n_cut += tokens.is_cut
        return Encoded(
            ids,
            types if "token_type_ids" in tokenizer.model_input_names else None,
            torch.tensor([len(row) for row in words]),
            n_cut / len(split),
            tags=Tags(targets, words, tuple(np.array(tags) for tags in split.labels)),
        )


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """By word, the first token that ends in it; words in their order.

    Some tokenizers count the space before a word to its first token: where it ends tells more.
    """
    owners = [i for i, word in enumerate(words) for _ in range(len(word) + 1)]
    spaces = set(np.cumsum([len(word) + 1 for word in words]) - 1)
    found: dict[int, int] = {}
    for token, (start, end) in enumerate(offsets):
        if start < end and end - 1 not in spaces:
            found.setdefault(owners[end - 1], token)
    return dict(sorted(found.items()))
