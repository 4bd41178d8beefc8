"""A head that the checkpoint brings: its outputs become the study's, by name, place or scale."""

import pytest
import torch
from test_model_backbone import save_tokenizer
from tiny import DECODERS, tiny_batch, tiny_model
from transformers import BertForTokenClassification

from autopeft.model.backbone import load_backbone
from autopeft.model.brought import Meaning

FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "llama", "bart")
THEIRS = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
OURS = ("contradiction", "entailment", "neutral")
ORDER = [0, 2, 1]


@pytest.fixture
def checkpoint(tmp_path):
    """Save a model with a head, its outputs by these names; it and its folder."""

    def save(family, names=None, n_outputs=3, seed=0):
        model = tiny_model(family, n_outputs=n_outputs, seed=seed)
        if names is not None:
            model.config.id2label = dict(enumerate(names))
            model.config.label2id = {name: i for i, name in enumerate(names)}
        folder = tmp_path / f"{family}-{seed}"
        model.save_pretrained(folder)
        save_tokenizer(folder)
        return model.eval(), str(folder)

    return save


def logits(model):
    with torch.no_grad():
        return model(**tiny_batch(model)).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_of_the_same_names_are_put_in_order(checkpoint, family):
    model, folder = checkpoint(family, THEIRS)
    found = load_backbone(folder, 3, meaning=Meaning(OURS))
    assert found.fresh == ()
    assert torch.allclose(logits(found.model), logits(model)[:, ORDER], atol=1e-5)
    assert found.notes == ("the head that the model brings is used, its classes by their names",)


@pytest.mark.parametrize("names", [None, ("0", "1", "2")])
def test_classes_without_names_are_taken_by_position(checkpoint, names):
    model, folder = checkpoint("bert", names)
    found = load_backbone(folder, 3, meaning=Meaning(OURS))
    assert found.fresh == ()
    assert torch.allclose(logits(found.model), logits(model), atol=1e-5)
    first = "0" if names else "LABEL_0"
    (note,) = found.notes
    assert note.startswith(f"the head that the model brings is used by position: {first} for 'con")


@pytest.mark.parametrize(
    ("family", "last"), [("bert", "classifier"), ("roberta", "classifier.out_proj")]
)
def test_a_head_for_other_classes_begins_anew_with_its_last_layer(checkpoint, family, last):
    _, folder = checkpoint(family, ("O", "B-MISC", "I-MISC"))
    found = load_backbone(folder, 3, meaning=Meaning(OURS))
    assert found.fresh == (f"{last}.bias", f"{last}.weight")
    (note,) = found.notes
    assert "is for other classes ('O', 'B-MISC', 'I-MISC'), so a fresh one is trained" in note


def test_names_that_differ_by_case_alone_tell_no_classes_apart(checkpoint):
    _, folder = checkpoint("bert", ("us", "US", "them"))
    assert load_backbone(folder, 3, meaning=Meaning(("US", "them", "us"))).fresh


@pytest.mark.parametrize("family", [one for one in FAMILIES if one not in DECODERS])
def test_a_number_is_put_on_the_scale_of_the_study(checkpoint, family):
    model, folder = checkpoint(family, n_outputs=1)
    found = load_backbone(folder, 1, meaning=Meaning(mean=2.5, std=1.5))
    assert found.fresh == ()
    assert torch.allclose(logits(found.model) * 1.5 + 2.5, logits(model), atol=1e-5)
    assert "for the numbers that it puts out" in found.notes[0]


def test_a_number_without_a_bias_begins_anew(checkpoint):
    _, folder = checkpoint("llama", n_outputs=1)
    found = load_backbone(folder, 1, meaning=Meaning(mean=2.5, std=1.5))
    assert found.fresh == ("score.weight",)
    assert "has no bias" in found.notes[0]


def test_tags_are_taken_by_their_names(tmp_path):
    config = tiny_model("bert").config
    config.id2label = dict(enumerate(("O", "B-PER", "I-PER")))
    model = BertForTokenClassification(config).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    ours = Meaning(("B-PER", "I-PER", "O"))
    found = load_backbone(str(tmp_path), 3, writes="tags", meaning=ours)
    assert torch.equal(found.model.classifier.weight, model.classifier.weight[[1, 2, 0]])


def test_a_head_has_a_hash_of_its_own_and_the_backbone_keeps_its(checkpoint):
    model, folder = checkpoint("bert", THEIRS)
    plain = load_backbone(folder, 3)
    known = load_backbone(folder, 3, meaning=Meaning(OURS))
    assert (plain.fingerprint, plain.brought, plain.notes) == (known.fingerprint, None, ())
    again = load_backbone(folder, 3, meaning=Meaning(OURS))
    assert again.brought == known.brought
    anew = load_backbone(folder, 3, meaning=Meaning(("a", "b", "c")))
    with torch.no_grad():
        model.classifier.bias[0] += 1
    model.save_pretrained(folder)
    other = load_backbone(folder, 3, meaning=Meaning(OURS))
    assert other.fingerprint == known.fingerprint
    hashes = {one.brought.sha256 for one in (known, anew, other)}
    assert len(hashes) == 3, "a head that begins anew began otherwise before"
    model.base_model.save_pretrained(folder)
    assert load_backbone(folder, 3, meaning=Meaning(OURS)).brought is None
