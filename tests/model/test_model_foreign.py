"""Checkpoints that bring code of their own, or another model: neither is loaded, but told."""

import json
import shutil

import pytest
import torch
from model.test_model_backbone import save_tokenizer
from tiny import tiny_model
from transformers.utils import logging

from autopeft.errors import DataError
from autopeft.model.backbone import load_backbone
from autopeft.model.foreign import asked
from autopeft.model.outline import outline


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A pretrained model without a head; to be copied."""
    folder = tmp_path_factory.mktemp("saved") / "bert"
    tiny_model("bert").base_model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def with_code(bert, tmp_path):
    """A checkpoint whose files name code, which leaves a mark when it runs."""

    def make(model_type, auto_map):
        folder = shutil.copytree(bert, tmp_path / "own")
        for module in ("configuration_own", "modeling_own"):
            mark = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
            (folder / f"{module}.py").write_text(mark, encoding="utf-8")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {"model_type": model_type, "auto_map": auto_map}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    return make


def test_code_of_a_checkpoint_is_not_run_and_named(with_code, tmp_path):
    folder = with_code(
        "own",
        {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForSequenceClassification": "else/where--modeling_own.OwnModel",
        },
    )
    with pytest.raises(DataError) as refused:
        load_backbone(str(folder), 2)
    told = str(refused.value)
    assert told.startswith(f"model `{folder}` needs code of its own: config.json has AutoConfig in")
    assert "auto_map: OwnConfig in configuration_own.py; " in told
    assert (
        "AutoModelForSequenceClassification in auto_map: OwnModel in modeling_own.py of else/"
        in told
    )
    assert "trust_remote_code is off and cannot be switched on" in told
    assert "without auto_map" in told
    assert "\n" not in told
    assert not (tmp_path / "ran").exists()


def test_code_beside_an_architecture_that_is_known_is_not_run(with_code, tmp_path):
    folder = with_code("bert", {"AutoConfig": "configuration_own.OwnConfig"})
    assert type(load_backbone(str(folder), 2).model).__name__ == "BertForSequenceClassification"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("value", ["someone/kernel", "someone/kernel:fn", {"": "a/b"}, ["x"], 5])
@pytest.mark.parametrize("load", [load_backbone, outline])
def test_attention_of_a_checkpoint_is_not_fetched_from_the_hub(bert, tmp_path, key, value, load):
    folder = shutil.copytree(bert, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {key: value}), encoding="utf-8")
    with pytest.raises(DataError, match=r"has attn_implementation .* never runs code of the Hub"):
        load(str(folder), 2)


class _Code:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


def test_code_in_a_file_of_weights_is_not_run(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "own")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Code(str(tmp_path / "ran"))}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"its weights are a pickle that is damaged, or of more"):
        load_backbone(str(folder), 2)
    assert not (tmp_path / "ran").exists()


def test_attention_of_a_part_of_a_model_is_not_fetched_either(tmp_path):
    told = {"model_type": "gemma3", "attn_implementation": {"text_config": "someone/kernel"}}
    (tmp_path / "config.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(DataError, match=r"has attn_implementation 'someone/kernel'"):
        load_backbone(str(tmp_path), 2)


@pytest.mark.parametrize("load", [load_backbone, outline])
def test_adapter_beside_a_checkpoint_does_not_name_another_model(bert, tmp_path, load):
    folder = shutil.copytree(bert, tmp_path / "own")
    told = {"base_model_name_or_path": "someone/else", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(DataError, match=r"holds an adapter of peft \(adapter_config\.json\)"):
        load(str(folder), 2)


def test_map_of_a_stranger_is_told_whatever_it_holds():
    config = {"auto_map": {"AutoModel": [None, "m.A"], "x" * 200: 3, "AutoTokenizer": ["../t.T"]}}
    told = [*asked(config, "config.json")]
    assert told == [
        "config.json has AutoModel in auto_map: A in m.py",
        "config.json has AutoTokenizer in auto_map: T in ../t.py",
    ]
    assert [*asked({"auto_map": "m.A"}, "config.json")] == []
