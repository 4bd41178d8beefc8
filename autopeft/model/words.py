"""Language models: the states that words are read from, and the words that come of them.

Words are the largest output there is, so they are never made of all states at once. What a model
does between its last state and its output embeddings is its own; what it does behind them is one
of the few things below, and a model is asked once whether that is all.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from autopeft.errors import DataError

CLOSE = 1e-4


class Words:
    """What a language model makes of the states that its output embeddings read.

    Args:
        model: with output embeddings.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._embeddings: nn.Module = model.get_output_embeddings()
        self._bias: Tensor | None = getattr(model, "final_logits_bias", None)  # BART's
        self._cap: float | None = getattr(model.config, "final_logit_softcapping", None)  # Gemma's
        scale, divisor = (getattr(model.config, n, None) for n in ("logit_scale", "logits_scaling"))
        self._factor: float = (scale or 1.0) / (divisor or 1.0)  # Cohere's, and Granite's
        self.n_words: int = self._embeddings.get_parameter("weight").shape[0]

    @property
    def is_frozen(self) -> bool:
        """What words come of is not trained."""
        weight: Tensor = self._embeddings.get_parameter("weight")
        return not weight.requires_grad

    def __call__(self, states: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest word"]:
        """The logits of words, in the precision of the states."""
        logits: Tensor = self._embeddings(states)
        if self._bias is not None:
            logits = logits + self._bias
        if self._factor != 1:
            logits = logits * self._factor
        if self._cap is not None:
            logits = self._cap * torch.tanh(logits / self._cap)
        return logits


def word_states(
    model: PreTrainedModel, inputs: Mapping[str, Tensor]
) -> Float[Tensor, "row token d"]:
    """The states that the output embeddings read; hardly any words are made of them.

    Args:
        model: a language model, with ops or without.
        inputs: as it takes them.
    """
    seen: list[Tensor] = []
    embeddings: nn.Module = model.get_output_embeddings()
    handle = embeddings.register_forward_pre_hook(partial(_see, seen))
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def _see(seen: list[Tensor], _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    seen.append(args[0])
    return (args[0][:1, :1], *args[1:])


@torch.no_grad()
def check_words(model: PreTrainedModel) -> None:
    """Compare with what the model says itself, and see that one that writes on can do so.

    Raises:
        DataError: it does something else behind its output embeddings, or is an encoder.
    """
    ids = torch.arange(1, 5, device=model.device).view(2, 2)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    own = model(**inputs, use_cache=False).logits
    wrong = float((Words(model)(word_states(model, inputs)) - own).abs().max())
    if not wrong < CLOSE:
        raise DataError(
            f"models of type `{model.config.model_type}` do something between their output "
            f"embeddings and words that is not known (off by {wrong:.2g})"
        )
    if not model.config.is_encoder_decoder:
        check_order(model)


@torch.no_grad()
def check_order(model: PreTrainedModel) -> None:
    """Refuse a model in which a token sees those behind it, as in encoders: it would read answers.

    Raises:
        DataError: it is one.
    """
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=model.device)
    states = word_states(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    changed = float((states[0, :3] - states[1, :3]).abs().max())
    if not changed < CLOSE * max(1.0, float(states.abs().max())):
        raise DataError(
            f"this model of type `{model.config.model_type}` does not write what comes next: what "
            "it makes of a token depends on the tokens behind it, as in encoders; `task: causal` "
            "takes a decoder"
        )
