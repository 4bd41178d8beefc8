"""Anatomy: where the taps are in a model of a known family."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from autopeft.errors import DataError
from autopeft.model.families import FAMILIES, Pool
from autopeft.model.forks import Passing, Placeholder
from autopeft.ops.point import Part, Point, Side
from autopeft.space.forms import Activation
from autopeft.space.shape import ModelShape
from autopeft.space.taps import LINEAR_INPUT, Tap

_ROLES = (
    *("attention", "q", "k", "v", "o", "up", "down", "gate"),
    *("attn_norm", "ffn_norm", "attn_input", "ffn_input"),
)
"""The fields of `Layers` that every layer has a module for, if they are given."""

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

_PROJECTIONS = ("q", "k", "v", "o", "up", "down", "gate")
"""The roles that have widths of their own."""

_POOLS: Mapping[str, Pool] = {"cls": "first", "mean": "mean"}
"""By `config.classifier_pooling`."""


class Anatomy:
    """The taps of one model.

    Args:
        model: a transformers model of a known family, with or without a task head.
        fresh: parameters that were not in the checkpoint; they are head, not backbone.

    Attributes:
        family: its row of the table.
        base: the model without its task head.
        layers: its layers.
        pool: the tokens that the task head reads.

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
        self.pool = _POOLS.get(getattr(model.config, "classifier_pooling", ""), self.family.pool)
        self._fresh = {name.removeprefix(f"{model.base_model_prefix}.") for name in fresh}
        layers = self.base.get_submodule(self.family.layers.at)
        if not isinstance(layers, nn.ModuleList):
            raise DataError(
                f"`{self.family.layers.at}` of this {kind} model is not a list of layers"
            )
        self.layers = layers
        absent = [
            name
            for role in _ROLES
            if (name := self._name(role)) and not _has(layers[0], _split(name)[0])
        ]
        if absent:
            raise DataError(f"this {kind} model has no module {', '.join(absent)} in its layers")
        if self.family.without and _has(self.base, self.family.without):
            raise DataError(
                f"this {kind} model has a `{self.family.without}` between its layers, "
                "which rows of several trials do not pass"
            )

    def _name(self, role: str) -> str | None:
        name: str | None = getattr(self.family.layers, role)
        return name

    def module(self, layer: int, role: str) -> nn.Module:
        """A module of a layer by its role in `Layers`; `layer` is the layer itself."""
        block = self.layers[layer]
        return block if role == "layer" else block.get_submodule(_split(self._name(role) or "")[0])

    def point(self, layer: int, tap: Tap) -> Point:
        """Where a tap is; `head` is nowhere."""
        role, side = self._role(tap)
        part = None if role == "layer" else _split(self._name(role) or "")[1]
        return Point(self.module(layer, role), side, part if side == "out" else None)

    def _role(self, tap: Tap) -> tuple[str, Side]:
        role = _INPUTS.get(tap)
        return (role, "out") if role and self._name(role) else _POINTS[tap]

    def last_running(self) -> nn.Module:
        """The last layer, or what stands for it while `only` is in effect."""
        layers = self.base.get_submodule(self.family.layers.at)
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
            placeholder = Placeholder(dtype, self._d_model)
            stack.enter_context(self.swapped(self.family.embeddings, placeholder))
            if projection and _has(self.base, projection):
                stack.enter_context(self.swapped(projection, Passing()))
            yield

    @contextmanager
    def only(self, first: int, end: int) -> Iterator[None]:
        """Let the base model run the layers from `first` to before `end`, and no others."""
        # Layers keep their index, by which some models choose a mask; others ask the layer.
        paired = self.family.disentangled
        below = [Passing(self.layers[i], paired=paired) for i in range(first if end > first else 1)]
        some = nn.ModuleList([*below, *self.layers[first:end]])
        with self.swapped(self.family.layers.at, some):
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

    @property
    def _d_model(self) -> int:
        return Point(self.module(0, "q"), "in").width

    def shape(self) -> ModelShape:
        """Depth, widths and size of the model."""
        widths: dict[Tap, int] = {}
        for tap in Tap:
            if tap is Tap.HEAD:
                if self.family.heads:
                    widths[tap] = self.point(0, Tap.K).width
                continue
            role, _ = self._role(tap)
            if role == "layer" or self._name(role):
                point = self.point(0, tap)
                widths[tap] = point.width if role in _PROJECTIONS else self._d_model
        size = sum(p.numel() for name, p in self.base.named_parameters() if name not in self._fresh)
        return ModelShape(len(self.layers), widths, size, self._activation(), self._biased(widths))

    def _activation(self) -> Activation | None:
        # A wider Conv1D is nothing that `export` makes.
        up, down = (self.module(0, role) for role in ("up", "down"))
        if self.family.layers.gate or not isinstance(up, nn.Linear):
            return None
        if up.bias is None or getattr(down, "bias", None) is None:
            return None
        return _ACTIVATIONS.get(getattr(self.base.config, self.family.activation))

    def _biased(self, taps: Collection[Tap]) -> frozenset[Tap]:
        outputs = [tap for tap in (*LINEAR_INPUT, Tap.ATTN_NORM, Tap.FFN_NORM) if tap in taps]
        return frozenset(
            t for t in outputs if getattr(self.point(0, t).module, "bias", None) is not None
        )


def _split(name: str) -> tuple[str, Part | None]:
    """The module and the part of a name in the table."""
    module, _, part = name.partition(" ")
    if not part:
        return module, None
    index, of = part.split("/")
    return module, Part(int(index), int(of))


def _has(block: nn.Module, name: str) -> bool:
    try:
        block.get_submodule(name)
    except AttributeError:
        return False
    return True
