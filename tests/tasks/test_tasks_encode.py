"""Tokenising and batching, against the tokenizer's own padding and truncation."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from autopeft.errors import ConfigError
from autopeft.tasks.encode import collate, encode
from autopeft.tasks.splits import Split

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


def make_tokenizer(inputs=("input_ids", "token_type_ids", "attention_mask")):
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=list(inputs),
        model_max_length=16,
    )


SINGLE = Split("train", (("a b",), ("c",), ("a b c d a b c d",)), (0, 1, 0))
PAIR = Split("train", (("a b", "c"), ("a b c d a b", "d")), (0.5, 1.0))


def test_single_texts():
    encoded = encode(SINGLE, make_tokenizer(), max_length=10)
    assert encoded.input_ids == [[2, 4, 5, 3], [2, 6, 3], [2, 4, 5, 6, 7, 4, 5, 6, 7, 3]]
    assert encoded.token_type_ids == [[0] * 4, [0] * 3, [0] * 10]
    assert encoded.lengths == [4, 3, 10]
    assert encoded.truncated_fraction == 0
    assert torch.equal(encoded.labels, torch.tensor([0, 1, 0]))


def test_pairs_and_the_type_of_numbers():
    encoded = encode(PAIR, make_tokenizer(), max_length=16)
    assert encoded.input_ids[0] == [2, 4, 5, 3, 6, 3]
    assert encoded.token_type_ids is not None
    assert encoded.token_type_ids[0] == [0, 0, 0, 0, 1, 1]
    assert encoded.labels.dtype == torch.float32
    assert encoded.labels.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("split", [SINGLE, PAIR], ids=["single", "pair"])
@pytest.mark.parametrize("max_length", [5, 7, 9, 16])
def test_truncation_is_the_tokenizers_own_and_is_counted(split, max_length):
    tokenizer = make_tokenizer()
    encoded = encode(split, tokenizer, max_length)
    columns = [list(column) for column in zip(*split.texts, strict=True)]
    assert (
        encoded.input_ids == tokenizer(*columns, truncation=True, max_length=max_length).input_ids
    )
    n_long = sum(len(ids) > max_length for ids in tokenizer(*columns).input_ids)
    assert encoded.truncated_fraction == n_long / len(split)
    assert encoded.token_type_ids is not None
    assert [len(row) for row in encoded.token_type_ids] == encoded.lengths


def test_token_types_only_where_the_model_takes_them():
    encoded = encode(PAIR, make_tokenizer(["input_ids", "attention_mask"]), max_length=16)
    assert encoded.token_type_ids is None
    assert set(collate(encoded, [0], 0).inputs) == {"input_ids", "attention_mask"}


def test_a_batch_is_padded_to_its_own_longest_row():
    encoded = encode(SINGLE, make_tokenizer(), max_length=16)
    batch = collate(encoded, [1, 0], pad_token_id=9).inputs
    assert batch["input_ids"].tolist() == [[2, 6, 3, 9], [2, 4, 5, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0] * 4, [0] * 4]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_a_batch_is_the_tokenizers_own():
    tokenizer = make_tokenizer()
    texts = [text for (text,) in SINGLE.texts]
    expected = tokenizer(texts, padding=True, return_tensors="pt")
    batch = collate(encode(SINGLE, tokenizer, 16), range(3), tokenizer.pad_token_id).inputs
    assert set(batch) == set(expected)
    assert all(torch.equal(batch[name], expected[name]) for name in batch)


@pytest.mark.parametrize(
    ("split", "max_length", "says"),
    [(SINGLE, 2, "at least 3"), (PAIR, 4, "at least 5"), (SINGLE, 17, "at most 16")],
)
def test_a_length_that_cannot_be(split, max_length, says):
    with pytest.raises(ConfigError, match=f"max_length: {max_length} .*{says}"):
        encode(split, make_tokenizer(), max_length)
