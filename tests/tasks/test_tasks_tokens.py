"""Tags for words: columns, alignment with tokens, and metrics as seqeval has them."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from seqeval.metrics import f1_score
from tiny_language import EOS, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from autopeft.errors import ConfigError, DataError
from autopeft.tasks import spans
from autopeft.tasks.data import load
from autopeft.tasks.encode import IGNORED, collate
from autopeft.tasks.spec import DataSpec
from autopeft.tasks.splits import Split
from autopeft.tasks.tokens import TokenClassification

TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
TASK = TokenClassification(TAGS, "span_f1")
KIND = "token_classification"
ROWS = [
    {
        "tokens": ["Ada", "lives", "in", "New", "York"],
        "tags": ["B-PER", "O", "O", "B-LOC", "I-LOC"],
    },
    {"tokens": ["nobody"], "tags": ["O"]},
]


def spaced(*, trim):
    """Byte pairs, of which those that begin a word hold its space; offsets with it or without."""
    words = ["Ġ", "N", "e", "w", "ĠN", "ĠNe", "wY", "ĠY", "Y", "o", "r", "k"]
    merges = [("Ġ", "N"), ("ĠN", "e"), ("Ġ", "Y")]
    vocabulary = {word: i for i, word in enumerate([*words, "</s>"])}
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if trim:
        from tokenizers import processors

        inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", model_max_length=40)


@pytest.mark.parametrize("trim", [True, False])
def test_a_words_tag_stands_at_its_first_token_whoever_owns_the_space(trim):
    split = Split("train", (("New", "York", "N"),), ((0, 2, 1),))
    rows = TASK.encode(split, spaced(trim=trim), 40)
    assert len(rows.input_ids[0]) == 8  # N e w, ĠY o r k, ĠN
    assert rows.tags.targets == [[0, IGNORED, IGNORED, 2, IGNORED, IGNORED, IGNORED, 1]]
    assert rows.labels.tolist() == [3]


def test_batches_have_a_place_for_each_first_token_and_rows_get_their_own_back():
    split = Split("train", (("w3", "w4 w5", "w6"), ("w7",)), ((0, 1, 2), (4,)))
    rows = TASK.encode(split, tokenizer(), 20)
    assert rows.input_ids == [[3, 4, 5, 6, EOS], [7, EOS]]
    batch = collate(rows, [1, 0], 0)
    assert batch.labels.tolist() == [4, 0, 1, 2]
    assert batch.places.states.tolist() == [0, 5, 6, 8]
    found = rows.by_row(np.array([[4, 0, 1, 2], [9, 8, 7, 6]]), [1, 0])
    assert [row.tolist() for row in found[0]] == [[0, 1, 2], [4]]
    assert [row.tolist() for row in found[1]] == [[8, 7, 6], [9]]


def test_words_that_are_cut_off_are_wrong():
    split = Split("train", (("w3", "w4", "w5"), ("w6",)), ((1, 3, 1), (4,)))
    rows = TASK.encode(split, tokenizer(), 3)
    assert rows.truncated_fraction == 0.5
    assert rows.tags.behind == 1 / 4
    assert TASK.encode(split, tokenizer(), 4).tags.behind == 0
    found = rows.by_row(np.array([[1, 3, 4]]), [0, 1])
    assert found[0, 0].tolist() == [1, 3, IGNORED]
    assert TASK.named(found[0, :1]) == [["B-PER", "I-PER", "O"]]
    measured = TASK.metrics(found[0], rows.truth)
    assert measured["accuracy"].value == pytest.approx(3 / 4)
    assert measured["span_f1"].value == pytest.approx(2 / 3)  # one of the two is there


def random_tags(n_rows, seed):
    draw = np.random.default_rng(seed)
    out = np.empty(n_rows, dtype=object)
    for row in range(n_rows):
        out[row] = draw.integers(0, len(TAGS), draw.integers(1, 9))
    return out


def test_f1_is_that_of_seqeval_and_rows_add_up_to_it():
    truth = random_tags(40, 0)
    draw = np.random.default_rng(1)
    predictions = truth.copy()
    for row, tags in enumerate(truth):
        noise = draw.random(len(tags)) < 0.2
        predictions[row] = np.where(noise, draw.integers(0, len(TAGS), len(tags)), tags)
    measured = TASK.metrics(predictions, truth)
    named = TASK.named(truth), TASK.named(predictions)
    assert list(measured) == ["span_f1", "accuracy"]
    assert measured["span_f1"].value == pytest.approx(f1_score(*named))
    hits = sum((one == other).sum() for one, other in zip(predictions, truth, strict=True))
    assert measured["accuracy"].value == pytest.approx(hits / sum(map(len, truth)))
    for metric in ("span_f1", "accuracy"):
        rows = TokenClassification(TAGS, metric).row_scores(predictions, truth)
        assert rows.mean() == pytest.approx(measured[metric].value)
        assert rows.std(ddof=1) / math.sqrt(40) == pytest.approx(measured[metric].stderr)
    resampled = []
    for _ in range(200):
        chosen = draw.integers(40, size=40)
        resampled.append(f1_score(*([some[i] for i in chosen] for some in named)))
    assert measured["span_f1"].stderr == pytest.approx(np.std(resampled), rel=0.25)


def test_nothing_found_is_zero():
    outside = np.empty(2, dtype=object)
    outside[:] = [np.array([4, 4]), np.array([4])]
    assert TASK.metrics(outside, outside)["span_f1"].value == 0
    assert TASK.row_scores(outside[:1], outside[:1]).tolist() == [0]


def test_spans_need_tags_that_mark_them():
    words = ("ADJ", "NOUN")
    with pytest.raises(ConfigError, match="needs tags like O, B-PER and I-PER, and one is 'ADJ'"):
        TokenClassification(words, "span_f1")
    tags = np.empty(1, dtype=object)
    tags[0] = np.array([0, 1])
    assert list(TokenClassification(words, "accuracy").metrics(tags, tags)) == ["accuracy"]
    with pytest.raises(ConfigError, match="'f1' does not suit token_classification; allowed: span"):
        TokenClassification(words, "f1")


def test_spans_need_seqeval(monkeypatch):
    monkeypatch.setattr(spans, "has_seqeval", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'autopeft\[tokens\]'"):
        TokenClassification(TAGS, "span_f1")
    truth = random_tags(3, 0)
    assert list(TokenClassification(TAGS, "accuracy").metrics(truth, truth)) == ["accuracy"]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_of_words_and_tags_are_read(tmp_path, suffix):
    train = write(tmp_path / f"train{suffix}", ROWS * 3)
    dataset = load(DataSpec(train=train, validation=train), KIND, tmp_path, seed=0)
    assert dataset.label_names == ("B-LOC", "B-PER", "I-LOC", "O")
    assert dataset.train.texts[:2] == (("Ada", "lives", "in", "New", "York"), ("nobody",))
    assert dataset.train.labels[:2] == ((1, 3, 3, 0, 2), (3,))


def test_tags_that_are_drawn_away_are_told(tmp_path):
    train = write(
        tmp_path / "train.jsonl", [ROWS[0], *[ROWS[1], {"tokens": ["a"], "tags": ["B-LOC"]}] * 9]
    )
    spec = DataSpec(train=train, validation=train, train_rows=4)
    notes = load(spec, KIND, tmp_path, seed=1).notes
    assert any("leaves no row of 'B-PER', 'I-LOC'" in note for note in notes)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"tokens": "Ada", "tags": ["O"]}, "column 'tokens' is 'Ada', not a list of words"),
        ({"tokens": [], "tags": []}, "column 'tokens' is [], not a list of words"),
        ({"tokens": ["Ada", " "], "tags": ["O", "O"]}, "column 'tokens' with word '2' is empty"),
        (
            {"tokens": ["Ada", 3], "tags": ["O", "O"]},
            "column 'tokens' with word '2' is of type int",
        ),
        ({"tokens": ["Ada"], "tags": "O"}, "tags 'O' are no list"),
        ({"tokens": ["Ada"], "tags": ["O", "O"]}, "1 words and 2 tags"),
        ({"tokens": ["Ada"], "tags": [0.5]}, "tag 0.5 is neither a string nor an integer"),
        ({"tokens": ["Ada", "is"], "tags": ["O", -100]}, "tag -100 stands for none in other"),
        ({"tokens": ["Ada"], "tags": [1]}, "tag 1 is of type int, the first one of type str"),
        ({"tokens": ["Ada", "is"], "tags": ["O", " "]}, "a tag is empty"),
        ({"tokens": ["Ada"], "tags": [" O"]}, "tag ' O' differs from 'O' by blanks around it"),
        ({"tokens": ["Ada"], "tags": None}, "column 'tags' is null"),
    ],
)
def test_bad_rows_are_refused(tmp_path, row, told):
    train = write(tmp_path / "train.jsonl", [*ROWS, row])
    with pytest.raises(DataError) as caught:
        load(DataSpec(train=train), KIND, tmp_path, seed=0)
    assert f"train.jsonl:3: {told}" in str(caught.value)


def test_tags_that_train_lacks_are_refused(tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS)
    later = write(tmp_path / "later.jsonl", [{"tokens": ["Ada"], "tags": ["B-ORG"]}])
    with pytest.raises(
        DataError, match=r"later\.jsonl:1: tag 'B-ORG' is not one of train: 'B-LOC'"
    ):
        load(DataSpec(train=train, validation=later), KIND, tmp_path, seed=0)
    later = write(tmp_path / "later.jsonl", [{"tokens": ["Ada"], "tags": ["b-loc"]}])
    with pytest.raises(DataError, match="; it differs from 'B-LOC' by upper and lower case alone"):
        load(DataSpec(train=train, validation=later), KIND, tmp_path, seed=0)


def test_rows_of_one_tag_are_refused(tmp_path):
    train = write(tmp_path / "train.jsonl", [ROWS[1], {"tokens": ["a", "b"], "tags": ["O", "O"]}])
    with pytest.raises(DataError, match="all rows have the same label"):
        load(DataSpec(train=train, validation=train), KIND, tmp_path, seed=0)


def test_csv_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("tokens,tags\nAda,O\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.csv: CSV has no lists of words; take"):
        load(DataSpec(train="train.csv"), KIND, tmp_path, seed=0)
