"""Tiny models that read images, too, whose part for texts is of a known family."""

import torch
from tiny import D_FFN, D_MODEL, N_HEADS, N_LAYERS, N_POSITIONS, N_WORDS
from transformers import AutoConfig, AutoModelForImageTextToText

_TEXT = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_HEADS // 2,
    "head_dim": D_MODEL // N_HEADS,
    "intermediate_size": D_FFN,
    "max_position_embeddings": N_POSITIONS,
    "vocab_size": N_WORDS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_IMAGE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
_IMAGE |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 32}
_LINEAR |= {"linear_key_head_dim": 4, "linear_value_head_dim": 1}
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}

WHOLES = {
    "gemma3": {"text_config": _TEXT, "vision_config": _IMAGE},
    "mistral3": {
        "text_config": _TEXT | {"model_type": "mistral"},
        "vision_config": _IMAGE | {"model_type": "pixtral"},
    },
    "llava": {
        "text_config": _TEXT | {"model_type": "llama"},
        "vision_config": _IMAGE | {"model_type": "clip_vision_model"},
        "tie_word_embeddings": False,
    },
    "llava of experts": {
        "text_config": _TEXT | {"model_type": "mixtral", "num_local_experts": 4},
        "vision_config": _IMAGE | {"model_type": "clip_vision_model"},
        "tie_word_embeddings": False,
    },
    "smolvlm": {"text_config": _TEXT | {"model_type": "llama"}, "vision_config": _IMAGE},
    "qwen3_5": {
        "text_config": _TEXT
        | _LINEAR
        | {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "rope_parameters": _MROPE | {"partial_rotary_factor": 1.0},
        },
        "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
        | {"out_hidden_size": D_MODEL},
    },
}
"""Their names begin with the model type."""
_PARTS = ("gemma3_text", "mistral", "llama", "mixtral", "llama", "qwen3_5_text")
PARTS = dict(zip(WHOLES, _PARTS, strict=True))


def whole(kind):
    """A model of images and texts, none of whose parameters is as it would be initialised."""
    config = AutoConfig.for_model(kind.split()[0], **WHOLES[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    return model.eval()
