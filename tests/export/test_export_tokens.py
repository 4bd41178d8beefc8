"""Exports of models that tag words: loaded again they put out what was trained, word by word."""

import functools
import json

import pytest
import torch
from export.winners import LORA, MIXED, edit_json, winner_of
from tiny import same
from tiny_tokens import TAGS, tagged, tagging_backbone
from tokenizers.processors import TemplateProcessing

import autopeft
from autopeft.cli.loading import UNREAD, load_and_tell
from autopeft.errors import ConfigError, DataError
from autopeft.export import reload
from autopeft.export.bank import AdapterBank
from autopeft.export.card import model_card
from autopeft.export.native import CONFIG
from autopeft.export.proof import TOLERANCE, compare, question_of
from autopeft.export.run import TARGETS
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.study.spec import StudySpec

PROMPTED = (*MIXED, same(Form.PROMPT, Tap.EMBED, (3, 0, 0)))
OPS = {"native": PROMPTED, "peft": LORA, "merged": LORA}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


@functools.cache
def winner(home, family, target):
    """A winner of a family with what a target can hold."""
    model = home / family
    if not model.exists():
        backbone = tagging_backbone(family)
        backbone.model.base_model.save_pretrained(model)
        # A word's token is not at the word's own place.
        special = {name: backbone.tokenizer.convert_tokens_to_ids(name) for name in ("<s>", "</s>")}
        backbone.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=list(special.items())
        )
        backbone.tokenizer.save_pretrained(model)
    files = {}
    for seed, (name, n_rows) in enumerate({"train": 12, "validation": 40}.items()):
        split = tagged(n_rows, seed=seed)
        rows = [
            {"tokens": list(words), "tags": [TAGS[tag] for tag in tags]}
            for words, tags in zip(split.texts, split.labels, strict=True)
        ]
        files[name] = home / f"{name}.jsonl"
        files[name].write_text("\n".join(map(json.dumps, rows)))
    spec = {
        "model": str(model),
        "task": "token_classification",
        "data": {name: str(file) for name, file in files.items()},
        "training": {"max_length": 16, "precision": "fp32", "attention": "eager"},
    }
    folder = home / f"{family}-{target}"
    folder.mkdir()
    return winner_of(StudySpec.model_validate(spec), folder, *OPS[target])


@functools.cache
def exported(home, family, target):
    folder = home / f"{family}-{target}-export"
    folder.mkdir()
    TARGETS[target](winner(home, family, target), folder)
    return folder


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("target", OPS)
def test_what_is_loaded_tags_as_was_trained(home, family, target):
    one = winner(home, family, target)
    found, _ = reload.answer(question_of(target, exported(home, family, target), one))
    proof = compare(found, one.logits, one.outputs, TOLERANCE[target])
    assert proof.changed == 0
    assert proof.rows == sum(map(len, one.ground.validation.truth))
    assert f"on {proof.rows:,} words of the validation rows" in proof.told
    assert one.logits.std(0).min() > 0.1


def test_words_of_texts_are_tagged(home):
    one, folder = winner(home, "bert", "native"), exported(home, "bert", "native")
    rows = one.ground.dataset.validation.texts[:3]
    (words, *_), n_words = rows, [len(row) for row in rows]
    told = load_and_tell(folder, None, [" ".join(row) for row in rows])["texts"]
    tags = iter(TAGS[i] for i in one.logits[: sum(n_words)].argmax(-1))
    for row, said in zip(rows, told, strict=True):
        assert said["says"] == " ".join(f"{word}/{next(tags)}" for word in row)
    (long,) = load_and_tell(folder, None, [" ".join(words[:1] * 20)])["texts"]
    assert long["says"].split()[-1] == f"{words[0]}/{UNREAD}"
    model, _ = autopeft.load(folder)
    assert type(model).__name__ == "BertForTokenClassification"
    assert tuple(model.config.id2label.values()) == TAGS


def test_score_is_the_metric_of_the_outputs(home):
    one = winner(home, "bert", "peft")
    truth = torch.cat([torch.from_numpy(tags) for tags in one.ground.validation.truth])
    perfect = torch.nn.functional.one_hot(truth, len(TAGS)).float()
    assert one.score(perfect) == 1
    assert one.score(perfect[:, [2, 1, 0]]) < 1


def test_other_tags_are_counted(home):
    one = winner(home, "bert", "peft")
    found = compare(one.logits.flip(-1), one.logits, one.outputs, tolerance=1e3)
    assert found.changed == int((one.logits.argmax(-1) != 1).sum()) > 0


def test_card_says_how_to_load_it(home):
    text = model_card(winner(home, "bert", "peft"), "peft", "out", "autopeft export", None, [])
    assert "base = AutoModelForTokenClassification.from_pretrained(" in text
    assert "num_labels=3" in text
    assert "- token-classification" in text
    assert "each is tagged by its first token: B-X, I-X, O." in text


def test_bank_refuses_what_tags(home):
    with pytest.raises(ConfigError, match="adapter one tags words"):
        AdapterBank({"one": exported(home, "bert", "native")})


def test_description_without_tags_is_refused(home, tmp_path):
    for file in exported(home, "bert", "native").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit_json(tmp_path / CONFIG, lambda data: data["outputs"].update(labels=[]))
    with pytest.raises(DataError, match=r"outputs\.labels: regression has none, classes have"):
        autopeft.load(tmp_path)
