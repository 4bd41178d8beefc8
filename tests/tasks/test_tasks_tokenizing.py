"""A few rows at a time, and all is as if they had been tokenised at once."""

import dataclasses

import pytest
from test_tasks_encode import PAIR, SINGLE, make_tokenizer
from tiny_language import texts, tokenizer
from tiny_tokens import TASK, tagged

from autopeft.tasks import tokenizing
from autopeft.tasks.encode import Encoded, encode
from autopeft.tasks.language import Language
from autopeft.tasks.spec import GenerationSpec
from autopeft.tasks.splits import Split
from autopeft.tasks.tokenizing import PIECE_CHARACTERS, PIECE_ROWS, pieces, tokenized

CUT = GenerationSpec(separator=" w20 ", max_target_length=4)


def sizes(texts):
    return [piece.stop - piece.start for piece in pieces(texts)]


def test_a_piece_has_few_rows_and_few_characters():
    assert sizes([("ab", "c")] * (2 * PIECE_ROWS + 1)) == [PIECE_ROWS, PIECE_ROWS, 1]
    third = "x" * (PIECE_CHARACTERS // 6)
    assert sizes([(third, third)] * 7) == [3, 3, 1]
    huge = "x" * (PIECE_CHARACTERS + 1)
    assert sizes([("a",), (huge,), (huge,), ("a",), ("b",)]) == [1, 1, 1, 2]
    assert sizes([]) == []


@pytest.mark.parametrize(
    ("task", "split", "make"),
    [
        (None, SINGLE, make_tokenizer),
        (None, PAIR, make_tokenizer),
        (Language("causal", "likelihood", CUT), texts(9), tokenizer),
        (Language("seq2seq", "likelihood", CUT), texts(9), tokenizer),
        (TASK, tagged(9), tokenizer),
    ],
    ids=["single", "pair", "causal", "seq2seq", "tags"],
)
def test_rows_are_the_same_in_pieces(monkeypatch, task, split, make):
    def encoded() -> tuple[object, ...]:
        found: Encoded = task.encode(split, make(), 6) if task else encode(split, make(), 6)
        told = dataclasses.asdict(dataclasses.replace(found, tags=None))
        tags = found.tags and (found.tags.targets, found.tags.words)
        return told.pop("labels").tolist(), told, tags

    whole = encoded()
    assert 0 < whole[1]["truncated_fraction"] < 1
    for name in ("PIECE_ROWS", "PIECE_CHARACTERS"):
        with monkeypatch.context() as small:
            small.setattr(tokenizing, name, 2)
            assert encoded() == whole


def test_no_more_is_tokenised_than_is_asked_for(monkeypatch):
    monkeypatch.setattr(tokenizing, "PIECE_ROWS", 2)
    seen = []
    inner = tokenizer()

    def counting(column, **more):
        seen.append(len(column))
        return inner(column, **more)

    counting.model_input_names = inner.model_input_names
    rows = tokenized([("w3 w4 w5",), ("w6",), ("w7",), ("w8",)], counting, 3)
    assert next(rows) == ([3, 4, 2], [], [], True)
    assert seen == [2, 1]
    assert [row.ids for row in rows] == [[6, 2], [7, 2], [8, 2]]
    assert seen == [2, 1, 2]


def test_equal_numbers_are_one_object():
    big = tokenizer()
    big.add_tokens([f"new{i}" for i in range(400)])
    split = Split("train", (("new390",), ("new390",)), (0, 1))
    one, other = (row.ids[0] for row in tokenized(split.texts, big))
    assert one > 256
    assert one is other
