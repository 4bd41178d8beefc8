"""Anatomy: where the taps are in each model family. A new family is a row of the table."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from autopeft.errors import DataError
from autopeft.model.forks import Passing, Placeholder
from autopeft.space.forms import Activation
from autopeft.space.shape import ModelShape
from autopeft.space.taps import LINEAR_INPUT, Tap

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Family:
    """Module names of one model family, relative to a layer where not said otherwise.

    Attributes:
        positions: the position embeddings, relative to the base model; None if positions are
            rotations.
        embeddings: what makes the first layer's input out of tokens, likewise.
        projection: what takes embeddings to the width of the layers, if a model has it; likewise.
        layers: the list of layers, likewise.
        attention: the module that is handed to the attention function.
        q: query projection; likewise k, v; o: output projection.
        up: first FFN projection.
        down: last FFN projection.
        attn_norm: LayerNorm after attention and its residual; None where norms come first.
        ffn_norm: LayerNorm after the FFN and its residual; likewise.
        gate: gate projection of a gated FFN.
        attn_input: the module whose output q, k and v read, if that is not simply the input of
            `attention`.
        ffn_input: the module whose output the FFN reads, if that is not simply the input of `up`.
        first_token: the task head reads the first token and no other one.
        end_head: a Linear, relative to the model, that is the task head and reads the last token.
        activation: what the configuration calls the activation of the FFN.
        ffn_width: what it calls the width of the FFN.
    """

    positions: str | None
    embeddings: str
    layers: str
    attention: str
    q: str
    k: str
    v: str
    o: str
    up: str
    down: str
    projection: str | None = None
    attn_norm: str | None = None
    ffn_norm: str | None = None
    gate: str | None = None
    attn_input: str | None = None
    ffn_input: str | None = None
    first_token: bool = True
    end_head: str | None = None
    activation: str = "hidden_act"
    ffn_width: str = "intermediate_size"


_BERT = Family(
    positions="embeddings.position_embeddings",
    embeddings="embeddings",
    layers="encoder.layer",
    attention="attention.self",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    o="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    attn_norm="attention.output.LayerNorm",
    ffn_norm="output.LayerNorm",
)

_LLAMA = Family(
    positions=None,
    embeddings="embed_tokens",
    layers="layers",
    attention="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    gate="mlp.gate_proj",
    attn_input="input_layernorm",
    ffn_input="post_attention_layernorm",
    first_token=False,
    end_head="score",
)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": replace(_BERT, projection="embeddings_project"),
    "distilbert": Family(
        positions="embeddings.position_embeddings",
        embeddings="embeddings",
        layers="transformer.layer",
        attention="attention",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        o="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        attn_norm="sa_layer_norm",
        ffn_norm="output_layer_norm",
        activation="activation",
        ffn_width="hidden_dim",
    ),
    "gemma3_text": replace(_LLAMA, ffn_input="pre_feedforward_layernorm"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""By `config.model_type`."""

_ROLES = (
    *("attention", "q", "k", "v", "o", "up", "down", "gate"),
    *("attn_norm", "ffn_norm", "attn_input", "ffn_input"),
)
"""The fields of a family that every layer has a module for, if they are given."""

_POINTS: Mapping[Tap, tuple[str, Side]] = {
    Tap.ATTN_IN: ("attention", "in"),
    Tap.Q: ("q", "out"),
    Tap.K: ("k", "out"),
    Tap.V: ("v", "out"),
    Tap.PRE_O: ("o", "in"),
    Tap.ATTN_OUT: ("o", "out"),
    Tap.ATTN_NORM: ("attn_norm", "out"),
    Tap.FFN_IN: ("up", "in"),
    Tap.FFN_GATE: ("gate", "out"),
    Tap.FFN_UP: ("up", "out"),
    Tap.FFN_MID: ("down", "in"),
    Tap.FFN_OUT: ("down", "out"),
    Tap.FFN_NORM: ("ffn_norm", "out"),
    Tap.BLOCK_OUT: ("layer", "out"),
}

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": Activation.GELU,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "tanh": Activation.TANH,
}
"""By their names in a configuration."""

_INPUTS: Mapping[Tap, str] = {Tap.ATTN_IN: "attn_input", Tap.FFN_IN: "ffn_input"}
"""The role whose output a tap is, in families that have it."""


class Anatomy:
    """The taps of one model.

    Args:
        model: a transformers model of a known family, with or without a task head.
        fresh: parameters that were not in the checkpoint; they are head, not backbone.

    Raises:
        DataError: the family is not in the table.
    """

    def __init__(self, model: PreTrainedModel, fresh: Collection[str] = ()) -> None:
        kind = model.config.model_type
        if kind not in FAMILIES:
            raise DataError(
                f"models of type `{kind}` are not known; known: {', '.join(sorted(FAMILIES))}"
            )
        self.family = FAMILIES[kind]
        self.base: nn.Module = getattr(model, model.base_model_prefix, model)
        self._fresh = {name.removeprefix(f"{model.base_model_prefix}.") for name in fresh}
        layers = self.base.get_submodule(self.family.layers)
        if not isinstance(layers, nn.ModuleList):
            raise DataError(f"`{self.family.layers}` of this {kind} model is not a list of layers")
        self.layers = layers
        absent = [
            name
            for role in _ROLES
            if (name := getattr(self.family, role)) and not _has(layers[0], name)
        ]
        if absent:
            raise DataError(f"this {kind} model has no module {', '.join(absent)} in its layers")

    def module(self, layer: int, role: str) -> nn.Module:
        """A module of a layer by its role in `Family`; `layer` is the layer itself."""
        block = self.layers[layer]
        return block if role == "layer" else block.get_submodule(getattr(self.family, role))

    def point(self, layer: int, tap: Tap) -> tuple[nn.Module, Side]:
        """The module whose input or output a tap is; `head` has none."""
        role, side = self._role(tap)
        return self.module(layer, role), side

    def _role(self, tap: Tap) -> tuple[str, Side]:
        role = _INPUTS.get(tap)
        return (role, "out") if role and getattr(self.family, role) else _POINTS[tap]

    def last_running(self) -> nn.Module:
        """The last layer, or what stands for it while `only` is in effect."""
        layers = self.base.get_submodule(self.family.layers)
        return list(layers.children())[-1]

    @contextmanager
    def swapped(self, name: str, other: nn.Module) -> Iterator[None]:
        """Let another module stand for one of the base model's."""
        old = self.base.get_submodule(name)
        self.base.set_submodule(name, other)
        try:
            yield
        finally:
            self.base.set_submodule(name, old)

    @contextmanager
    def without_embeddings(self, dtype: torch.dtype) -> Iterator[None]:
        """Let the base model run without making the first layer's input out of tokens."""
        projection = self.family.projection
        with ExitStack() as stack:
            stack.enter_context(self.swapped(self.family.embeddings, Placeholder(dtype)))
            if projection and _has(self.base, projection):
                stack.enter_context(self.swapped(projection, Passing()))
            yield

    @contextmanager
    def only(self, first: int, end: int) -> Iterator[None]:
        """Let the base model run the layers from `first` to before `end`, and no others."""
        # Layers keep their index, by which some models choose a mask.
        below = [Passing() for _ in range(first if end > first else 1)]
        some = nn.ModuleList([*below, *self.layers[first:end]])
        with self.swapped(self.family.layers, some):
            yield

    def longest_row(self) -> int:
        """Tokens that the model has positions for; RoBERTa's begin after its padding index."""
        if self.family.positions is None:
            return int(self.base.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
        positions = self.base.get_submodule(self.family.positions)
        if not isinstance(positions, nn.Embedding):
            raise DataError(f"`{self.family.positions}` of this model is not an embedding")
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        return positions.num_embeddings - first

    def shape(self) -> ModelShape:
        """Depth, widths and size of the model."""
        widths: dict[Tap, int] = {}
        d_model = _features(self.module(0, "q"), "in")
        for tap in Tap:
            if tap is Tap.HEAD:
                widths[tap] = _features(self.module(0, "k"), "out")
                continue
            role, side = self._role(tap)
            if role != "layer" and getattr(self.family, role) is None:
                continue
            linear = role in ("q", "k", "v", "o", "up", "down", "gate")
            widths[tap] = _features(self.module(0, role), side) if linear else d_model
        size = sum(p.numel() for name, p in self.base.named_parameters() if name not in self._fresh)
        return ModelShape(len(self.layers), widths, size, self._activation(), self._biased(widths))

    def _activation(self) -> Activation | None:
        if self.family.gate:
            return None
        return _ACTIVATIONS.get(getattr(self.base.config, self.family.activation))

    def _biased(self, taps: Collection[Tap]) -> frozenset[Tap]:
        outputs = [tap for tap in (*LINEAR_INPUT, Tap.ATTN_NORM, Tap.FFN_NORM) if tap in taps]
        return frozenset(
            t for t in outputs if getattr(self.point(0, t)[0], "bias", None) is not None
        )


def _has(block: nn.Module, name: str) -> bool:
    try:
        block.get_submodule(name)
    except AttributeError:
        return False
    return True


def _features(module: nn.Module, side: Side) -> int:
    width = getattr(module, "in_features" if side == "in" else "out_features")
    return int(width)
