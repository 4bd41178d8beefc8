"""Anatomy: where the taps are in each model family. A new family is a row of the table."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from autopeft.errors import DataError
from autopeft.model.forks import Passing
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Family:
    """Module names of one model family, relative to a layer where not said otherwise.

    Attributes:
        positions: the position embeddings, relative to the base model.
        embeddings: what makes the first layer's input out of tokens, likewise.
        layers: the list of layers, likewise.
        attention: the module that is handed to the attention function.
        q: query projection; likewise k, v; o: output projection.
        up: first FFN projection.
        down: last FFN projection.
        attn_norm: LayerNorm after attention and its residual.
        ffn_norm: LayerNorm after the FFN and its residual.
        first_token: the task head reads the first token and no other one.
    """

    positions: str
    embeddings: str
    layers: str
    attention: str
    q: str
    k: str
    v: str
    o: str
    up: str
    down: str
    attn_norm: str
    ffn_norm: str
    first_token: bool = True


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

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _BERT,
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
    ),
}
"""By `config.model_type`."""

_ROLES = ("attention", "q", "k", "v", "o", "up", "down", "attn_norm", "ffn_norm")
"""The fields of a family that every layer has a module for."""

_POINTS: Mapping[Tap, tuple[str, Side]] = {
    Tap.ATTN_IN: ("attention", "in"),
    Tap.Q: ("q", "out"),
    Tap.K: ("k", "out"),
    Tap.V: ("v", "out"),
    Tap.PRE_O: ("o", "in"),
    Tap.ATTN_OUT: ("o", "out"),
    Tap.ATTN_NORM: ("attn_norm", "out"),
    Tap.FFN_IN: ("up", "in"),
    Tap.FFN_UP: ("up", "out"),
    Tap.FFN_MID: ("down", "in"),
    Tap.FFN_OUT: ("down", "out"),
    Tap.FFN_NORM: ("ffn_norm", "out"),
    Tap.BLOCK_OUT: ("layer", "out"),
}


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
            name for role in _ROLES if not _has(layers[0], name := getattr(self.family, role))
        ]
        if absent:
            raise DataError(f"this {kind} model has no module {', '.join(absent)} in its layers")

    def module(self, layer: int, role: str) -> nn.Module:
        """A module of a layer by its role in `Family`; `layer` is the layer itself."""
        block = self.layers[layer]
        return block if role == "layer" else block.get_submodule(getattr(self.family, role))

    def point(self, layer: int, tap: Tap) -> tuple[nn.Module, Side]:
        """The module whose input or output a tap is; `head` has none."""
        role, side = _POINTS[tap]
        return self.module(layer, role), side

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
    def only(self, first: int, end: int) -> Iterator[None]:
        """Let the base model run the layers from `first` to before `end`, and no others."""
        some = nn.ModuleList(self.layers[first:end] or [Passing()])
        with self.swapped(self.family.layers, some):
            yield

    def longest_row(self) -> int:
        """Tokens that the model has positions for; RoBERTa's begin after its padding index."""
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
            elif _POINTS[tap][0] in ("attention", "attn_norm", "ffn_norm", "layer"):
                widths[tap] = d_model
            else:
                role, side = _POINTS[tap]
                widths[tap] = _features(self.module(0, role), side)
        size = sum(p.numel() for name, p in self.base.named_parameters() if name not in self._fresh)
        return ModelShape(len(self.layers), widths, size)


def _has(block: nn.Module, name: str) -> bool:
    try:
        block.get_submodule(name)
    except AttributeError:
        return False
    return True


def _features(module: nn.Module, side: Side) -> int:
    width = getattr(module, "in_features" if side == "in" else "out_features")
    return int(width)
