"""A study of a checkpoint that brings a head: what its outputs are decides, not where they are."""

import json

import pytest
import torch
from study_factory import save_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from autopeft.errors import ConfigError
from autopeft.space.genotype import Genotype
from autopeft.study.prepare import prepare
from autopeft.study.search import run_search
from autopeft.training.cohort import Cohort

HEAD_ONLY = Genotype(2, (), learning_rate=1e-3)


@pytest.fixture
def with_head(tmp_path):
    """Save the same classifier with its classes in this order."""

    def save(names, order):
        folder = tmp_path / "".join(names)
        folder.mkdir()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            config = BertConfig(
                vocab_size=save_tokenizer(folder),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
                initializer_range=0.3,
                id2label=dict(enumerate(names)),
                label2id={name: i for i, name in enumerate(names)},
            )
            model = BertForSequenceClassification(config)
            model.classifier.bias.copy_(torch.tensor([0.1, -0.1]))
            for parameter in model.classifier.parameters():
                parameter.copy_(parameter[order])
        model.save_pretrained(folder)
        return str(folder)

    return save


def test_the_order_of_its_classes_changes_no_score(with_head, spec_of, tmp_path):
    found = []
    for names, order in ((("bad", "good"), [0, 1]), (("GOOD", "BAD"), [1, 0])):
        model = with_head(names, order)
        study = run_search(spec_of(model=model, trials=2), tmp_path / model[-3:])
        found.append([record.metrics for record in study.records()])
    assert found[0] == found[1]


def test_a_trial_begins_with_it(with_head, spec_of, tmp_path):
    model = with_head(("good", "bad"), [1, 0])
    ground = prepare(spec_of(model=model), tmp_path)
    assert any("its classes by their names" in note for note in ground.facts.notes)
    assert ground.another_backbone().brought.sha256 == ground.facts.head_hash
    with Cohort(ground.backbone, [HEAD_ONLY], [0], ground.task, ground.settings) as one:
        bias = one.tensors(0)["classifier.bias"]
    assert bias.tolist() == pytest.approx([0.1, -0.1])


def test_another_head_is_another_study(with_head, spec_of, tmp_path):
    spec = spec_of(model=with_head(("bad", "good"), [0, 1]), trials=1)
    study = run_search(spec, tmp_path / "study")
    model = BertForSequenceClassification.from_pretrained(spec.model)
    with torch.no_grad():
        model.classifier.weight.neg_()
    model.save_pretrained(spec.model)
    with pytest.raises(ConfigError, match=r"(?m)differences:\n  head: was .*$\Z"):
        run_search(spec, study.folder)


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("bad", "good"), ("good", "bad")])
def test_a_study_of_before_goes_on_where_its_head_begins_as_it_did(
    with_head, spec_of, tmp_path, names
):
    spec = spec_of(model=with_head(names, [0, 1]), trials=1)
    study = run_search(spec, tmp_path / "study")
    manifest = json.loads(study.manifest_file.read_text(encoding="utf-8"))
    assert manifest["fingerprint"].pop("head")
    manifest["fingerprint"].pop("head_is_changed", None)
    study.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    more = spec_of(model=spec.model, trials=2)
    if names == ("good", "bad"):  # it began by position, and would begin by names
        with pytest.raises(ConfigError, match="head: was null"):
            run_search(more, study.folder)
    else:
        assert len(run_search(more, study.folder).records()) == 2
