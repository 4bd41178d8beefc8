"""How a model that writes begins and ends its answers, as its checkpoint says it."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from autopeft.errors import DataError

OF_TOKENS = (
    *("bos_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
)
"""What `generation_config.json` says of the vocabulary, and so of the checkpoint."""

_NEUTRAL: Mapping[str, Any] = {
    "min_length": 0,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "early_stopping": False,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
    "guidance_scale": None,
    "stop_strings": None,
}
"""What it may say beside that would change a text, and that a study file has no key for."""


def check_start(name: str, model: PreTrainedModel) -> None:
    """Refuse an encoder-decoder that does not say how an answer begins.

    Args:
        name: of the model, for the message.
        model: also one on meta tensors.

    Raises:
        DataError: it does not.
    """
    if not model.config.is_encoder_decoder:
        return
    try:
        # mBART begins an answer with the last token of it that is not padding.
        decoder_inputs(model, torch.full((1, 1), 1 if model.config.pad_token_id != 1 else 2))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"model `{name}` does not say which token an answer begins with, or which one pads "
            "(`decoder_start_token_id`, `pad_token_id` in config.json)"
        ) from error


def decoder_inputs(
    model: PreTrainedModel, targets: Int[Tensor, "row token"]
) -> Int[Tensor, "row token"]:
    """What an encoder-decoder reads of answers while it learns to write them.

    Some classes (M2M100, Blenderbot) tell nobody, and shift labels in their forward pass alone: by
    the token that answers begin with.

    Args:
        model: that writes.
        targets: tokens to write, -100 behind them.
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        found: Tensor = model.prepare_decoder_input_ids_from_labels(targets)
        return found
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    read = torch.cat([torch.full_like(targets[:, :1], start), targets[:, :-1]], dim=1)
    return read.masked_fill(read < 0, pad)


def own_tokens(model: PreTrainedModel) -> dict[str, Any]:
    """What `generation_config.json` says of tokens that the configuration does not say, too."""
    own = getattr(model, "generation_config", None)
    if own is None:
        return {}
    told = {name: getattr(own, name, None) for name in OF_TOKENS}
    return {
        f"generation.{name}": value
        for name, value in told.items()
        if value != getattr(model.config, name, None)
    }


def forget_settings(model: PreTrainedModel) -> tuple[str, ...]:
    """Let a model that writes know nothing of how to write but `OF_TOKENS`.

    `generate` would take the rest from it wherever it is not told otherwise.

    Returns:
        What the user has to be told.
    """
    own = model.generation_config
    found = {name: getattr(own, name, None) for name in _NEUTRAL}
    told = [f"{name} {v}" for name, v in found.items() if v is not None and v != _NEUTRAL[name]]
    kept = {name: getattr(own, name, None) for name in OF_TOKENS}
    model.generation_config = GenerationConfig(**kept)
    note = (
        f"of the checkpoint's generation_config.json nobody uses {', '.join(told)}: texts are "
        "written as `generation` of the study file says, also by what is exported"
    )
    return (note,) if told else ()
