"""A study from a checkpoint on disk to a front, on the families that differ most from BERT."""

import json

import pytest
import torch
from study_factory import save_checkpoint
from transformers import (
    BartConfig,
    BartModel,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2Model,
    ModernBertConfig,
    ModernBertModel,
    Phi3Config,
    Phi3Model,
    Qwen3_5TextConfig,
    Qwen3_5TextModel,
    T5Config,
    T5Model,
)

from autopeft.errors import ConfigError
from autopeft.study.search import run_search

SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
SIZES = {
    "vocab_size": 19,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}


def gpt2():
    return GPT2Model(GPT2Config(**SIZES, **SPECIAL, n_inner=32))


def modernbert():
    pooling = {"classifier_pooling": "mean", "local_attention": 8}
    return ModernBertModel(ModernBertConfig(**SIZES, **SPECIAL, **pooling, intermediate_size=32))


def phi3():
    heads = {"num_key_value_heads": 1, "partial_rotary_factor": 0.75}
    return Phi3Model(Phi3Config(**SIZES, **SPECIAL, **heads, intermediate_size=32))


def qwen3_5():
    kinds = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 16}
    widths = {"linear_key_head_dim": 8, "linear_value_head_dim": 1, "num_key_value_heads": 1}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
    config = Qwen3_5TextConfig(
        **SIZES,
        **SPECIAL,
        **kinds,
        **heads,
        **widths,
        intermediate_size=32,
        rope_parameters=rope | {"partial_rotary_factor": 0.5},
    )
    return Qwen3_5TextModel(config)


def deberta():
    disentangled = {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    }
    return DebertaV2Model(DebertaV2Config(**SIZES, **disentangled, intermediate_size=32))


def t5():
    sizes = {"d_model": 16, "num_heads": 2, "d_kv": 8, "d_ff": 32}
    layers = {"num_layers": 2, "num_decoder_layers": 2, "decoder_start_token_id": 0}
    return T5Model(T5Config(vocab_size=19, **sizes, **layers, **SPECIAL))


def bart():
    sizes = {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 32,
        "init_std": 0.3,
        "decoder_start_token_id": 3,
    }
    return BartModel(BartConfig(vocab_size=19, **sizes, **SPECIAL))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Base models without a classifier, whose tokenizer ends a row with [SEP], their eos."""
    made = {}
    for build in (gpt2, modernbert, phi3, qwen3_5, deberta, t5, bart):
        folder = save_checkpoint(tmp_path_factory.mktemp(build.__name__))
        file = folder / "tokenizer_config.json"
        told = json.loads(file.read_text(encoding="utf-8"))
        told["model_input_names"] = ["input_ids", "attention_mask"]
        file.write_text(json.dumps(told), encoding="utf-8")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            build().save_pretrained(folder)
        made[build.__name__] = folder
    return made


@pytest.mark.parametrize(
    "family", ["gpt2", "modernbert", "phi3", "qwen3_5", "deberta", "t5", "bart"]
)
def test_it_is_searched(family, folders, spec_of, tmp_path):
    spec = spec_of(model=str(folders[family]), trials=3, methods=["lora", "pfeiffer"])
    study = run_search(spec, tmp_path / "study")
    records = list(study.records())
    assert {record.state for record in records} == {"complete"}
    assert any(point.trainable_params for point in study.front().points)
    crossing = [r for r in records if '"cross_' in json.dumps(r.to_dict())]
    assert bool(crossing) is (family in ("t5", "bart"))


def test_keeping_states_of_an_encoder_decoder_is_refused(folders, spec_of, tmp_path):
    spec = spec_of(model=str(folders["t5"]), training={"frozen_cache": True})
    with pytest.raises(ConfigError, match=r"frozen_cache: true: trials of this model have rows"):
        run_search(spec, tmp_path / "study")
