"""Checkpoints of models that read images, too: their part for texts is what is loaded."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_model_backbone import save_tokenizer
from tiny import same_bits
from transformers import AutoModelForCausalLM
from wholes import PARTS, WHOLES, whole

from autopeft.errors import DataError
from autopeft.model.backbone import load_backbone
from autopeft.model.outline import outline

IDS = torch.tensor([[5, 9, 2, 7, 3], [4, 4, 8, 6, 9]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("wholes")
    for kind in WHOLES:
        save_tokenizer(home / kind)
        whole(kind).save_pretrained(home / kind)
    return {kind: home / kind for kind in WHOLES}


@pytest.mark.parametrize("kind", WHOLES)
@pytest.mark.parametrize("writes", [None, "causal"])
@torch.no_grad()
def test_what_is_loaded_computes_what_the_whole_does(folders, kind, writes):
    found = load_backbone(str(folders[kind]), 3, writes=writes)
    model = whole(kind)
    inner = model.model
    text = inner.language_model if hasattr(inner, "language_model") else inner.text_model
    state = text(input_ids=IDS).last_hidden_state
    assert torch.equal(found.model.base_model(input_ids=IDS).last_hidden_state, state)
    assert found.model.config.model_type == PARTS[kind]
    if writes:
        assert torch.equal(found.model(input_ids=IDS).logits, model(input_ids=IDS).logits)
        assert not found.fresh
    else:
        assert found.model.config.num_labels == 3
        assert found.fresh == ("score.weight",)
    told, is_part = found.notes[0].split(" model reads more than texts; its part for texts, a ")
    assert told == f"this `{model.config.model_type}`"
    assert is_part == f"`{PARTS[kind]}`, is what is searched and exported"
    before = outline(str(folders[kind]), 3, writes)
    assert (before.kind, before.shape) == (PARTS[kind], found.shape)
    assert before.notes == found.notes


@pytest.mark.parametrize("kind", WHOLES)
def test_a_part_is_saved_as_a_model_of_its_own(folders, kind, tmp_path):
    model = load_backbone(str(folders[kind]), 2, writes="causal").model
    model.save_pretrained(tmp_path)
    again, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    assert same_bits(dict(again.named_parameters()), dict(model.named_parameters()))
    AutoModelForCausalLM.from_config(model.config).save_pretrained(tmp_path / "plain")
    saved, plain = (load_file(p / "model.safetensors") for p in (tmp_path, tmp_path / "plain"))
    assert saved.keys() == plain.keys()


def renamed(folder, place, at):
    """A checkpoint of LLaVA whose language model is somewhere else."""
    (file,) = folder.glob("*.safetensors")
    names = (("language_model.model.", at), ("language_model.lm_head.", "lm_head."))
    found = load_file(file)
    for old, new in names:
        found = {
            new + key.removeprefix(old) if key.startswith(old) else key: tensor
            for key, tensor in found.items()
        }
    save_file(found, place / file.name, metadata={"format": "pt"})
    for other in folder.glob("*.json"):
        (place / other.name).write_text(other.read_text())
    return str(place)


@torch.no_grad()
def test_names_of_later_versions_of_transformers_are_known(folders, tmp_path):
    found = load_backbone(
        renamed(folders["llava"], tmp_path, "model.language_model."), 2, writes="causal"
    )
    assert torch.equal(found.model(input_ids=IDS).logits, whole("llava")(input_ids=IDS).logits)


def test_weights_under_other_names_are_told(folders, tmp_path):
    with pytest.raises(
        DataError,
        match=r"29 parameters of the backbone are not in .*; those of a `llama` in a `llava` model "
        "are looked for at model.language_model, language_model and model.text_model",
    ):
        load_backbone(renamed(folders["llava"], tmp_path, "speaker."), 2)


@pytest.mark.parametrize("load", [load_backbone, outline])
def test_a_part_without_a_class_for_the_task_is_refused(folders, load):
    with pytest.raises(
        DataError,
        match=r"`qwen3_5` read more than texts, and cannot .* is a `qwen3_5_text`, which is known: "
        r"load it alone \(docs/adding-a-family.md\), as a study does where transformers can",
    ):
        load(str(folders["qwen3_5"]), 3, writes="tags")
