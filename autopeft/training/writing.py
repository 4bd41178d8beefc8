"""Answers that the trials of a cohort write by themselves, all in one batch."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    PreTrainedModel,
)

from autopeft.model.answers import OF_TOKENS, decoder_inputs
from autopeft.tasks.encode import IGNORED, Answers, Encoded
from autopeft.tasks.spec import GenerationSpec


def written(
    model: PreTrainedModel,
    tokenizer: Any,
    rows: Encoded,
    indices: Sequence[int],
    *,
    n_trials: int,
    generation: GenerationSpec,
    cached: bool = True,
) -> list[list[str]]:
    """What each trial answers to some rows.

    Args:
        model: with ops; its rows are those of every trial, trial by trial.
        tokenizer: of the model.
        rows: where the rows are.
        indices: their positions.
        n_trials: in the model.
        generation: how to write.
        cached: keep keys and values of what was written; the answers are the same.

    Returns:
        The texts by trial and row.
    """
    answers = rows.answers
    if answers is None:
        raise ValueError("these rows have no answers")
    inputs = _asked(rows, answers, indices, tokenizer, model.device)
    tiled: dict[str, Any] = {name: tensor.repeat(n_trials, 1) for name, tensor in inputs.items()}
    if cached and not answers.continues:
        # One that grows: transformers would count T5's layers in its encoder.
        parameters = inspect.signature(model.forward).parameters
        name = "cache" if "cache" in parameters else "past_key_values"
        tiled[name] = EncoderDecoderCache(DynamicCache(), DynamicCache())
    found: Tensor = model.generate(
        **tiled,
        generation_config=GenerationConfig(**writing(model, tokenizer, generation, cached=cached)),
    )
    n_read = tiled["input_ids"].shape[1] if answers.continues else 0
    texts = tokenizer.batch_decode(found[:, n_read:], skip_special_tokens=True)
    n_rows = len(indices)
    stripped = [text.strip() for text in texts]
    return [stripped[i * n_rows : (i + 1) * n_rows] for i in range(n_trials)]


def _asked(
    rows: Encoded, answers: Answers, indices: Sequence[int], tokenizer: Any, device: torch.device
) -> dict[str, Tensor]:
    """What is read; padded on the left where the answer goes on with it."""
    ids = [rows.input_ids[row] for row in indices]
    if answers.continues:
        n_read = [answers.targets[row].count(IGNORED) for row in indices]
        ids = [read[:n] for read, n in zip(ids, n_read, strict=True)]
    longest = max(map(len, ids))
    pad = tokenizer.pad_token_id or 0
    filled, mask = [], []
    for row in ids:
        rest = longest - len(row)
        before, behind = (rest, 0) if answers.continues else (0, rest)
        filled.append([*[pad] * before, *row, *[pad] * behind])
        mask.append([*[0] * before, *[1] * len(row), *[0] * behind])
    return {
        "input_ids": torch.tensor(filled, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def writing(
    model: PreTrainedModel, tokenizer: Any, generation: GenerationSpec, *, cached: bool
) -> dict[str, Any]:
    """How a model writes, as `generate` takes it: its special tokens, and what a study says.

    What was learnt as the end of an answer ends one, whatever the checkpoint has for ends beside,
    and what begins one is what was learnt behind. A model of many languages begins an answer with
    its language, either as what is read first or as what is written first; which one, an answer of
    no words tells.

    Args:
        model: that writes.
        tokenizer: of the model, told of languages (`autopeft.tasks.language.speak`).
        generation: what the study says.
        cached: keep keys and values of what was written.
    """
    own = model.generation_config
    told = {name: getattr(own, name, None) for name in OF_TOKENS}
    if model.config.is_encoder_decoder:
        nothing = torch.tensor([tokenizer(text_target="")["input_ids"] or [tokenizer.eos_token_id]])
        begun = decoder_inputs(model, nothing)
        told["decoder_start_token_id"] = int(begun[0, 0])
        if generation.target_language is not None:
            language = tokenizer.convert_tokens_to_ids(generation.target_language)
            if nothing[0, 0] == language:
                told["forced_bos_token_id"] = language
    ends, eos, pad = own.eos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    others = ends if isinstance(ends, list) else [ends]
    return {
        **{name: value for name, value in told.items() if value is not None},
        "eos_token_id": sorted({eos, *others} - {None}),
        "pad_token_id": eos if pad is None else pad,
        "do_sample": False,
        "num_beams": generation.beams,
        "max_new_tokens": generation.n_new,
        "length_penalty": generation.length_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram,
        "use_cache": cached,
    }
