"""Texts for texts: columns, encoding, and metrics as the libraries have them."""

import json

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from tiny_language import BOS, EOS, tokenizer
from tokenizers.processors import TemplateProcessing

from autopeft.errors import ConfigError, DataError
from autopeft.tasks.data import load
from autopeft.tasks.encode import IGNORED, collate
from autopeft.tasks.language import Language, Written
from autopeft.tasks.spec import DataSpec, GenerationSpec
from autopeft.tasks.splits import Split

SHORT = GenerationSpec(max_target_length=8)
ROWS = Split("train", (("w3 w4 w5",), ("w6",)), ("w7 w8", "w9 w10 w11"))
TEXTS = ["the cat sat on the mat", "a dog", "no bird sings here today", "an apple"]
REFERENCES = [
    ("the cat sat on a mat", "a cat was on the mat"),
    ("the dog runs",),
    ("no bird sings",),
    ("an apple",),
]


def written(texts):
    out = np.empty(len(texts), dtype=object)
    for i, text in enumerate(texts):
        out[i] = Written(float(i + 1), 3 + i, text)
    return out


def references():
    out = np.empty(len(REFERENCES), dtype=object)
    out[:] = REFERENCES
    return out


def test_answer_of_an_encoder_decoder_is_apart_from_what_is_read():
    rows = Language("seq2seq", "likelihood", SHORT).encode(ROWS, tokenizer(), 8)
    assert rows.input_ids == [[3, 4, 5, EOS], [6, EOS]]
    assert rows.answers.targets == [[7, 8, EOS], [9, 10, 11, EOS]]
    assert rows.lengths == [7, 6]
    batch = collate(rows, [0, 1], 0)
    assert batch.targets.tolist() == [[7, 8, EOS, IGNORED], [9, 10, 11, EOS]]
    assert batch.labels.tolist() == [7, 8, EOS, 9, 10, 11, EOS]
    assert batch.places.states.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert batch.places.rows.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_answer_of_a_decoder_goes_on_with_what_is_read():
    task = Language("causal", "likelihood", GenerationSpec(separator=" w20 ", max_target_length=8))
    rows = task.encode(ROWS, tokenizer(), 8)
    assert rows.input_ids == [[3, 4, 5, 20, 7, 8, EOS], [6, 20, 9, 10, 11, EOS]]
    batch = collate(rows, [0, 1], 0)
    assert batch.targets is None
    assert batch.labels.tolist() == [7, 8, EOS, 9, 10, 11, EOS]
    # Each is read from the state of the token before it.
    assert batch.places.states.tolist() == [3, 4, 5, 8, 9, 10, 11]


def test_texts_that_are_too_long_are_cut_where_least_is_lost():
    task = Language("causal", "likelihood", GenerationSpec(separator=" w20 ", max_target_length=3))
    rows = task.encode(ROWS, tokenizer(), 4)
    assert rows.input_ids == [[3, 4, 5, 20, 7, 8, EOS], [6, 20, 9, 10, EOS]]
    assert rows.truncated_fraction == 0.5
    assert task.encode(ROWS, tokenizer(), 3).input_ids[0] == [4, 5, 20, 7, 8, EOS]
    apart = Language("seq2seq", "likelihood", GenerationSpec(max_target_length=3))
    assert apart.encode(ROWS, tokenizer(), 8).answers.targets == [[7, 8, EOS], [9, 10, EOS]]


def test_a_text_that_is_cut_begins_as_texts_begin():
    task = Language("causal", "likelihood", GenerationSpec(separator=" w20 ", max_target_length=8))
    llama = tokenizer()
    llama.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    whole, cut = (task.encode(ROWS, llama, longest) for longest in (5, 4))
    assert whole.input_ids == [[BOS, 3, 4, 5, 20, 7, 8, EOS], [BOS, 6, 20, 9, 10, 11, EOS]]
    assert (whole.truncated_fraction, cut.truncated_fraction) == (0, 0.5)
    assert cut.input_ids == [[BOS, 4, 5, 20, 7, 8, EOS], whole.input_ids[1]]
    assert cut.answers.targets[0] == [IGNORED] * 4 + [7, 8, EOS]


@pytest.mark.parametrize(("kind", "length"), [("causal", 36), ("seq2seq", 41)])
def test_answers_that_the_model_has_no_positions_for_are_refused(kind, length):
    task = Language(kind, "likelihood", GenerationSpec(max_target_length=length))
    with pytest.raises(ConfigError, match=r"max_target_length: \d+ is more than the model reads"):
        task.encode(ROWS, tokenizer(), 8)


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_tokenizer_without_an_end_is_refused(kind):
    endless = tokenizer()
    endless.eos_token = None
    with pytest.raises(ConfigError, match=f"task: {kind} takes a token that ends a text"):
        Language(kind, "likelihood", SHORT).encode(ROWS, endless, 8)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "rouge_1", "rouge_2", "rouge_l"])
def test_metrics_are_those_of_the_libraries(metric):
    task = Language("seq2seq", metric)
    found = task.metrics(written(TEXTS), references())
    columns = [[r[min(i, len(r) - 1)] for r in REFERENCES] for i in range(2)]
    if metric == "bleu":
        expected = sacrebleu.corpus_bleu(TEXTS, columns).score / 100
    elif metric == "chrf":
        expected = sacrebleu.corpus_chrf(TEXTS, columns).score / 100
    else:
        name = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}[metric]
        scorer = RougeScorer([name], use_stemmer=True)
        expected = np.mean(
            [
                scorer.score_multi(r, t)[name].fmeasure
                for r, t in zip(REFERENCES, TEXTS, strict=True)
            ]
        )
    assert next(iter(found)) == metric
    assert found[metric].value == pytest.approx(expected)
    assert found[metric].stderr > 0
    rows = task.row_scores(written(TEXTS), references())
    assert rows.mean() == pytest.approx(found[metric].value)
    assert found["exact_match"].value == 0.25


def test_likelihood_is_the_inverse_of_the_perplexity():
    found = Language("causal", "likelihood").metrics(written([None] * 4), references())
    assert found["likelihood"].value == pytest.approx(np.exp(-10 / 18))
    assert set(found) == {"likelihood"}


def test_a_spread_of_bleu_is_that_of_its_resamples():
    rng = np.random.default_rng(0)
    words = np.array(["a", "b", "c", "d", "e", "f", "g", "h"])
    texts, others = [], []
    for _ in range(120):
        row = rng.choice(words, 9)
        texts.append(" ".join(row))
        row[rng.random(9) < 0.3] = "x"
        others.append((" ".join(row),))
    truth = np.empty(120, dtype=object)
    truth[:] = others
    found = Language("seq2seq", "bleu").metrics(written(texts), truth)["bleu"]
    resampled = []
    for _ in range(60):
        some = rng.integers(0, 120, 120)
        columns = [[others[i][0] for i in some]]
        resampled.append(sacrebleu.corpus_bleu([texts[i] for i in some], columns).score / 100)
    assert found.stderr == pytest.approx(np.std(resampled), rel=0.4)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "a", "target": 3, "references": "b"}, "answer 3 is of type int, not a string"),
        ({"source": "a", "target": "", "references": "b"}, "column 'target' is empty"),
        ({"source": "a", "target": "b", "references": []}, "neither a text nor a list"),
        ({"source": "a", "target": "b", "references": ["c", 4]}, "neither a text nor a list"),
        ({"source": "a", "target": "b"}, "no column 'references'"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(tmp_path, row, message):
    good = {"source": "x", "target": "y", "references": ["y", "z"]}
    for name, rows in (("train", [good, good | {"target": "q"}]), ("validation", [good, row])):
        lines = "\n".join(map(json.dumps, rows))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    spec = DataSpec(train="train.jsonl", validation="validation.jsonl", references="references")
    with pytest.raises(DataError, match=rf"validation.jsonl:2: .*{message}"):
        load(spec, "seq2seq", tmp_path, 0)


def test_references_are_read_where_something_is_scored(tmp_path):
    rows = [{"source": f"s{i}", "target": f"t{i}"} for i in range(4)]
    scored = [row | {"references": [row["target"], "other"]} for row in rows]
    for name, some in (("train", rows), ("validation", scored)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    spec = DataSpec(train="train.jsonl", validation="validation.jsonl", references="references")
    found = load(spec, "seq2seq", tmp_path, 0)
    assert found.train.answers[1] == ("t1",)
    assert found.validation.answers[1] == ("t1", "other")
    one = [row | {"references": row["target"]} for row in rows]
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, one)))
    other = load(spec, "seq2seq", tmp_path, 0)
    assert other.validation.answers[1] == ("t1",)
    assert other.fingerprint != found.fingerprint


def test_more_references_on_one_side_are_told(tmp_path):
    rows = [{"source": f"s{i}", "target": f"t{i}"} for i in range(12)]
    more = [row | {"references": ["a", "b", "c"][: 1 + i % 3]} for i, row in enumerate(rows[:6])]
    for name, some in (("train", rows), ("validation", more)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    spec = DataSpec(train="train.jsonl", validation="validation.jsonl", selection_rows=2)
    told = "selection: 1.0 answers a row to score against, in validation 2.0, so that"
    with_all = spec.model_copy(update={"references": "references"})
    found = load(with_all, "seq2seq", tmp_path, 0)
    assert told in " ".join(found.notes)
    assert (found.other_answers("selection") or "").startswith(told)
    assert (found.other_answers("fold") or "").startswith("train: 1.0 answers a row to score")
    assert found.other_answers(None) is None
    folds = load(with_all.model_copy(update={"selection_rows": None}), "seq2seq", tmp_path, 0)
    assert "train: 1.0 answers a row to score against, in validation 2.0" in " ".join(folds.notes)
    none = load(with_all.model_copy(update={"selection_rows": 0}), "seq2seq", tmp_path, 0)
    assert "answers a row" not in " ".join(none.notes)
    found = load(spec, "seq2seq", tmp_path, 0)
    assert "answers a row" not in " ".join(found.notes)
    assert found.other_answers("selection") is None


@pytest.mark.parametrize(
    ("kind", "metric", "message"),
    [
        ("seq2seq", "accuracy", "does not suit seq2seq; allowed: bleu"),
        ("causal", "f1", "likelihood"),
    ],
)
def test_metric_of_another_task_is_refused(kind, metric, message):
    with pytest.raises(ConfigError, match=message):
        Language(kind, metric)


def test_text_of_no_tokens_is_told():
    task = Language("causal", "likelihood", GenerationSpec(separator=" ", max_target_length=8))
    with pytest.raises(DataError, match=r"makes no token of \(' ',\)"):
        task.encode(Split("train", ((" ",),), ("w7",)), tokenizer(), 8)
