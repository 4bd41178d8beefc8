"""A study of a decoder: its space shrinks to the taps it has, and its head reads the last token."""

import json

import pytest
import torch
from study_factory import N_LAYERS, save_checkpoint
from transformers import LlamaConfig, LlamaModel

from autopeft.model.backbone import load_backbone
from autopeft.study.limits import budget_of
from autopeft.study.prepare import prepare
from autopeft.study.search import run_search
from autopeft.study.starting import starts_of


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A Llama of two layers without a classifier, and a tokenizer that adds no token types."""
    folder = save_checkpoint(tmp_path_factory.mktemp("decoder"))
    file = folder / "tokenizer_config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told["model_input_names"] = ["input_ids", "attention_mask"]
    file.write_text(json.dumps(told), encoding="utf-8")
    config = LlamaConfig(
        vocab_size=19,
        hidden_size=16,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaModel(config).save_pretrained(folder)
    return folder


def test_a_decoder_is_searched_and_learns(decoder, spec_of, tmp_path):
    spec = spec_of(model=str(decoder), trials=6, training={"epochs": 30})
    study = run_search(spec, tmp_path / "study")
    front = study.front()
    assert max(point.quality for point in front.points) > 0.8
    assert any(point.trainable_params for point in front.points)
    assert {record.state for record in study.records()} == {"complete"}


def test_what_the_decoder_lacks_is_told(decoder, spec_of, tmp_path):
    spec = spec_of(model=str(decoder))
    shape = prepare(spec, tmp_path).backbone.shape
    budget = budget_of(spec, shape)
    starts, notes = starts_of(shape, budget, ["lora", "pfeiffer", "mam"])
    assert [start.origin for start in starts.first] == ["method lora", "method mam"]
    assert notes == ["method pfeiffer is left out: the model has no tap ffn_norm"]


def test_a_decoder_keeps_no_keys_and_values_while_it_is_trained(decoder):
    assert load_backbone(str(decoder), 2).model.config.use_cache is False
