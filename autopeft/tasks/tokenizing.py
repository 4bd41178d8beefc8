"""Texts to tokens, a few at a time: a tokenizer takes a hundred bytes for each character."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from autopeft.errors import ConfigError
from autopeft.tasks.splits import Split

PIECE_ROWS = 1_000
PIECE_CHARACTERS = 500_000
"""Of the rows that are tokenised at once, at most; a longer row is tokenised by itself."""


class Tokens(NamedTuple):
    """What a tokenizer makes of a row.

    Attributes:
        ids: numbers of the tokens.
        types: 0 for the first text and 1 for the second; empty if the model takes none.
        offsets: where each token begins and ends in the text; empty if nobody asked.
        is_cut: there were more.
    """

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]]
    is_cut: bool


def tokenized(
    texts: Sequence[tuple[str, ...]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    *,
    with_offsets: bool = False,
) -> Iterator[Tokens]:
    """The tokens of each row, as they are needed.

    Args:
        texts: single ones or pairs.
        tokenizer: of the model.
        max_length: of a row; None for all of it.
        with_offsets: tell where tokens stand in the text.
    """

    def columns(some: Sequence[tuple[str, ...]], longest: int | None) -> dict[str, list[Any]]:
        return dict(
            tokenizer(
                *(list(column) for column in zip(*some, strict=True)),
                truncation=longest is not None,
                max_length=longest,
                return_attention_mask=False,
                return_offsets_mapping=with_offsets,
                verbose=False,  # or it warns of rows that are about to be cut
            )
        )

    takes_types = "token_type_ids" in tokenizer.model_input_names
    numbers: dict[int, int] = {}
    for piece in pieces(texts):
        some = texts[piece]
        found = columns(some, None)
        lengths = [len(ids) for ids in found["input_ids"]]
        long = [i for i, n in enumerate(lengths) if max_length is not None and n > max_length]
        if long:
            for name, values in columns([some[i] for i in long], max_length).items():
                for i, value in zip(long, values, strict=True):
                    found[name][i] = value
        for i, ids in enumerate(found["input_ids"]):
            yield Tokens(
                _compact(ids, numbers),
                found["token_type_ids"][i] if takes_types else [],
                found["offset_mapping"][i] if with_offsets else [],
                is_cut=len(ids) < lengths[i],
            )


def answer_tokens(split: Split, tokenize: Callable[[list[str]], Any]) -> Iterator[list[int]]:
    """The tokens of each answer, as they are needed.

    Args:
        split: its labels are texts.
        tokenize: makes `input_ids` of some of them.
    """
    answers = [str(label) for label in split.labels]
    numbers: dict[int, int] = {}
    for piece in pieces([(answer,) for answer in answers]):
        for ids in tokenize(answers[piece])["input_ids"]:
            yield _compact(ids, numbers)


def pieces(texts: Sequence[tuple[str, ...]]) -> Iterator[slice]:
    """Rows that are tokenised at once, in their order."""
    first = n_characters = 0
    for row, some in enumerate(texts):
        size = sum(map(len, some))
        is_full = row - first == PIECE_ROWS or n_characters + size > PIECE_CHARACTERS
        if is_full and row > first:
            yield slice(first, row)
            first = row
            n_characters = 0
        n_characters += size
    if first < len(texts):
        yield slice(first, len(texts))


def _compact(row: Iterable[int], numbers: dict[int, int]) -> list[int]:
    """The same row, where equal numbers are one object: a fifth of the memory."""
    return [numbers.setdefault(number, number) for number in row]


def check_length(
    length: int, tokenizer: PreTrainedTokenizerBase, n_texts: int, key: str = "max_length"
) -> None:
    """Refuse a longest row that leaves no room for text, or that the model cannot read.

    Args:
        length: of it, in tokens.
        tokenizer: of the model.
        n_texts: in a row.
        key: what asked for it.

    Raises:
        ConfigError: it is one.
    """
    shortest = tokenizer.num_special_tokens_to_add(pair=n_texts > 1) + n_texts
    longest = tokenizer.model_max_length
    if length < shortest:
        raise ConfigError(f"{key}: {length} leaves no room for text; at least {shortest}")
    if length > longest:
        raise ConfigError(f"{key}: {length} is more than the model reads; at most {longest}")
