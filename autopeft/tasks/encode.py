"""Texts to token numbers, and rows of them to batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Num, Shaped
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from autopeft.tasks.splits import Split
from autopeft.tasks.tokenizing import check_length, tokenized

IGNORED = -100
"""Instead of a label, where nothing is to be put out."""


@dataclass(frozen=True)
class Encoded:
    """The rows of a split as a model reads them.

    Attributes:
        input_ids: a list of tokens for each row, of its own length.
        token_type_ids: likewise, 0 for the first text and 1 for the second; `None` if the model
            takes none.
        labels: int64 class numbers or fp32 numbers; [row, label], 1 where one is there, of rows
            that have any number; the number of tokens to put out where answers are texts, of tagged
            tokens where words have tags.
        truncated_fraction: share of the rows that were longer than allowed.
        answers: where they are texts.
        tags: of words, where every word has one.
    """

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    labels: Num[Tensor, "row ..."]
    truncated_fraction: float
    answers: "Answers | None" = None
    tags: "Tags | None" = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row; of an encoder-decoder's, source and target together."""
        if self.answers is None or self.answers.continues:
            return [len(row) for row in self.input_ids]
        pairs = zip(self.input_ids, self.answers.targets, strict=True)
        return [len(row) + len(target) for row, target in pairs]

    @property
    def truth(self) -> NDArray[Any]:
        """What predictions are compared with: labels, numbers, or tuples of references.

        Where words have tags, an array of them for each row.
        """
        if self.answers is None and self.tags is None:
            return self.labels.numpy()
        out = np.empty(len(self), dtype=object)
        for row in range(len(self)):
            out[row] = self.tags.truth[row] if self.tags else self.answers.references[row]  # type: ignore[union-attr]
        return out

    def n_labels(self, rows: Sequence[int]) -> int:
        """What the outputs for some rows are compared with, counted: a mean loss is over these."""
        if self.answers is None and self.tags is None:
            return len(rows)
        return int(self.labels[list(rows)].sum())

    def by_row(
        self, predictions: Shaped[np.ndarray, "trial place ..."], rows: Sequence[int]
    ) -> NDArray[Any]:
        """Predictions of batches by trial and row.

        Args:
            predictions: for one place of each row, which may be a set of labels, or, where words
                have tags, for each first token.
            rows: all of them, in the order of the batches.
        """
        if self.tags is None:
            out = np.empty_like(predictions)
            out[:, list(rows)] = predictions
            return out
        out = np.empty((len(predictions), len(self)), dtype=object)
        end = 0
        for row in rows:
            words = self.tags.words[row]
            begin, end = end, end + len(words)
            for trial, found in enumerate(predictions[:, begin:end]):
                out[trial, row] = np.full(len(self.tags.truth[row]), IGNORED)
                out[trial, row][words] = found
        return out


@dataclass(frozen=True)
class Answers:
    """What a model is to write.

    Attributes:
        targets: tokens for each row. If the answer goes on with what was read, as many as were
            read, and `IGNORED` where nothing is to be written.
        references: texts for each row that what is written is scored against.
        continues: the answer goes on with what was read, as a decoder's does.
    """

    targets: list[list[int]]
    references: tuple[tuple[str, ...], ...]
    continues: bool


@dataclass(frozen=True)
class Tags:
    """Tags of words.

    Attributes:
        targets: for each token of each row the tag of the word that it is the first token of,
            `IGNORED` where it is of none.
        words: of each row the positions of the words that have such a token.
        truth: the tags of all words of each row.
    """

    targets: list[list[int]]
    words: list[list[int]]
    truth: tuple[NDArray[np.int64], ...]

    @property
    def behind(self) -> float:
        """Share of the words that come behind the last one with a token: where rows are cut."""
        pairs = zip(self.words, self.truth, strict=True)
        n_behind = sum(len(tags) - 1 - read[-1] for read, tags in pairs)
        return n_behind / sum(map(len, self.truth))


@dataclass(frozen=True)
class Places:
    """Where the tokens to write, or those with a tag, are read from.

    Attributes:
        states: the place of each one's state, in [batch * token].
        rows: the number of its row in the batch.
    """

    states: Int[Tensor, " position"]
    rows: Int[Tensor, " position"]


@dataclass(frozen=True)
class Batch:
    """Some rows, padded on the right to the longest.

    Attributes:
        inputs: `input_ids`, `attention_mask` and, if the model takes them, `token_type_ids`;
            int64 [batch, token].
        labels: what the outputs are compared with: one for each row, or for each token to write or
            with a tag.
        places: of these tokens; `None` where there is one output for each row.
        targets: what an encoder-decoder is to write, int64 [batch, token], `IGNORED` behind it.
    """

    inputs: dict[str, Int[Tensor, "batch token"]]
    labels: Num[Tensor, "position ..."]
    places: Places | None = None
    targets: Int[Tensor, "batch target"] | None = None

    def to(self, there: Callable[[Tensor], Tensor]) -> "Batch":
        """The same elsewhere."""
        places, targets = self.places, self.targets
        return Batch(
            {name: there(tensor) for name, tensor in self.inputs.items()},
            there(self.labels),
            places and Places(there(places.states), there(places.rows)),
            None if targets is None else there(targets),
        )


def encode(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Tokenise a split.

    Args:
        split: single texts or pairs.
        tokenizer: of the model.
        max_length: longest row in tokens, special ones included; of a pair the longer text is cut.

    Raises:
        ConfigError: no room for text in `max_length`, or more than the model can read.
    """
    check_length(max_length, tokenizer, len(split.texts[0]))
    ids, types, n_cut = [], [], 0
    for row in tokenized(split.texts, tokenizer, max_length):
        ids.append(row.ids)
        types.append(row.types)
        n_cut += row.is_cut
    dtype = torch.float32 if isinstance(split.labels[0], float) else torch.int64
    return Encoded(
        ids,
        types if "token_type_ids" in tokenizer.model_input_names else None,
        torch.tensor(split.labels, dtype=dtype),
        n_cut / len(split),
    )


def collate(encoded: Encoded, rows: Sequence[int], pad_token_id: int) -> Batch:
    """A batch.

    Args:
        encoded: where the rows are.
        rows: their positions.
        pad_token_id: what fills `input_ids`; the attention mask is 0 there.
    """
    ids = [encoded.input_ids[row] for row in rows]
    inputs = {
        "input_ids": padded(ids, pad_token_id),
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
    }
    if encoded.token_type_ids is not None:
        inputs["token_type_ids"] = padded([encoded.token_type_ids[row] for row in rows], 0)
    if encoded.tags is not None:
        tags = padded([encoded.tags.targets[row] for row in rows], IGNORED)
        return Batch(inputs, *_placed(tags))
    if (answers := encoded.answers) is None:
        return Batch(inputs, encoded.labels[list(rows)])
    targets = padded([answers.targets[row] for row in rows], IGNORED)
    # What a decoder reads at a token is what comes next; of an encoder-decoder, targets are shifted
    # to the right before they are read.
    wanted = targets.roll(-1, 1) if answers.continues else targets
    if answers.continues:
        wanted[:, -1] = IGNORED
    return Batch(inputs, *_placed(wanted), None if answers.continues else targets)


def _placed(wanted: Int[Tensor, "batch token"]) -> tuple[Int[Tensor, " position"], Places]:
    """What is to be put out, and where; nothing is at `IGNORED`."""
    told = wanted != IGNORED
    row, token = told.nonzero(as_tuple=True)
    return wanted[told], Places(row * wanted.shape[1] + token, row)


def padded(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "batch token"]:
    """Rows filled up on the right to the longest."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
