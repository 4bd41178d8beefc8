"""Texts to token numbers, and rows of them to batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, Num
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from autopeft.errors import ConfigError
from autopeft.tasks.splits import Split


@dataclass(frozen=True)
class Encoded:
    """The rows of a split as a model reads them.

    Attributes:
        input_ids: a list of tokens for each row, of its own length.
        token_type_ids: likewise, 0 for the first text and 1 for the second; `None` if the model
            takes none.
        labels: int64 class numbers or fp32 numbers.
        truncated_fraction: share of the rows that were longer than allowed.
    """

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    labels: Num[Tensor, " row"]
    truncated_fraction: float

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row) for row in self.input_ids]


def encode(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Tokenise a split.

    Args:
        split: single texts or pairs.
        tokenizer: of the model.
        max_length: longest row in tokens, special ones included; of a pair the longer text is cut.

    Raises:
        ConfigError: no room for text in `max_length`, or more than the model can read.
    """
    n_texts = len(split.texts[0])
    _check_length(max_length, tokenizer, n_texts)
    columns = _tokenize(split.texts, tokenizer)
    long = [row for row, ids in enumerate(columns["input_ids"]) if len(ids) > max_length]
    if long:
        cut = _tokenize([split.texts[row] for row in long], tokenizer, max_length)
        for name, values in cut.items():
            for row, value in zip(long, values, strict=True):
                columns[name][row] = value
    dtype = torch.float32 if isinstance(split.labels[0], float) else torch.int64
    return Encoded(
        columns["input_ids"],
        columns.get("token_type_ids"),
        torch.tensor(split.labels, dtype=dtype),
        len(long) / len(split),
    )


def collate(
    encoded: Encoded, rows: Sequence[int], pad_token_id: int
) -> dict[str, Int[Tensor, "batch token"]]:
    """A batch, padded on the right to its longest row.

    Args:
        encoded: where the rows are.
        rows: their positions.
        pad_token_id: what fills `input_ids`; the attention mask is 0 there.

    Returns:
        `input_ids`, `attention_mask` and, if the model takes them, `token_type_ids`; int64. The
        labels are `encoded.labels[rows]`.
    """
    ids = [encoded.input_ids[row] for row in rows]
    batch = {
        "input_ids": _padded(ids, pad_token_id),
        "attention_mask": _padded([[1] * len(row) for row in ids], 0),
    }
    if encoded.token_type_ids is not None:
        batch["token_type_ids"] = _padded([encoded.token_type_ids[row] for row in rows], 0)
    return batch


def _tokenize(
    texts: Sequence[tuple[str, ...]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
) -> dict[str, list[list[int]]]:
    encoding = tokenizer(
        *(list(column) for column in zip(*texts, strict=True)),
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        verbose=False,  # or it warns of rows that are about to be cut
    )
    wanted = ("input_ids", "token_type_ids")
    return {name: encoding[name] for name in wanted if name in tokenizer.model_input_names}


def _check_length(max_length: int, tokenizer: PreTrainedTokenizerBase, n_texts: int) -> None:
    shortest = tokenizer.num_special_tokens_to_add(pair=n_texts > 1) + n_texts
    longest = tokenizer.model_max_length
    if max_length < shortest:
        raise ConfigError(f"max_length: {max_length} leaves no room for text; at least {shortest}")
    if max_length > longest:
        raise ConfigError(
            f"max_length: {max_length} is more than the model reads; at most {longest}"
        )


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "batch token"]:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
