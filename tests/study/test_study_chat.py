"""A study of conversations, whose answers a function of its user scores."""

import json

import pytest
from study_factory import write_jsonl
from tiny_language import texts, writing_backbone

from autopeft.cli.loading import load_and_tell
from autopeft.export.card import model_card
from autopeft.export.run import TARGETS
from autopeft.export.winner import winner_of
from autopeft.study.search import run_search

TEMPLATE = (
    "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}w3{% endif %}"
)
CODE = """
def first(predictions, references):
    hits = [p.split()[:1] == r[0].split()[:1] for p, r in zip(predictions, references)]
    return sum(hits) / len(hits)
"""


@pytest.fixture
def model(tmp_path):
    """A tiny decoder with a chat template."""
    backbone = writing_backbone("llama")
    backbone.model.save_pretrained(tmp_path / "model")
    tokenizer = backbone.tokenizer
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    tokenizer.chat_template = None
    return str(tmp_path / "model")


def test_answers_to_messages_are_searched(spec_of, model, tmp_path):
    files = {}
    for seed, (name, n_rows) in enumerate({"train": 32, "validation": 8}.items()):
        rows = texts(n_rows, seed=seed)
        both = zip(rows.texts, rows.labels, strict=True)
        told = [
            {"m": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
            for (asked,), answer in both
        ]
        files[name] = str(write_jsonl(tmp_path / f"{name}.jsonl", told))
    (tmp_path / "my.py").write_text(CODE, encoding="utf-8")
    spec = spec_of(
        model=model,
        task="causal",
        data={**files, "messages": "m"},
        metric="my.py:first",
        generation={"max_target_length": 10},
        trials=2,
        max_params="50%",
    )
    study = run_search(spec, tmp_path / "study", base=tmp_path)
    assert study.front().metric == "my.py:first"
    assert study.front().points[0].summary == "frozen backbone"
    for record in study.records():
        assert record.failure is None
        assert 0 <= record.metrics["my.py:first"].value <= 1
        assert record.metrics["likelihood"].value > 0
    winner = winner_of(study, "best")
    assert winner.ground.facts.answered, "so that there are no gates, which would see the answers"
    (tmp_path / "exported").mkdir()
    TARGETS["native"](winner, tmp_path / "exported")
    asked = [json.loads(text)[0]["content"] for (text,) in winner.ground.dataset.validation.texts]
    told = load_and_tell(tmp_path / "exported", None, asked)
    assert [row["says"] for row in told["texts"]] == winner.answers
    card = model_card(winner, "native", "out", "autopeft export", None, [])
    assert "as the tokenizer's chat template writes them" in card
