"""Anatomy: where the taps are in a model."""

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

from autopeft.errors import DataError
from autopeft.model.families import FAMILIES
from autopeft.model.family import Family, Layers, Pool
from autopeft.model.forks import Passing, Placeholder
from autopeft.model.quantized_linear import quantized
from autopeft.model.unknown import read_family, told
from autopeft.ops.point import Part, Point, Side
from autopeft.space.forms import Activation
from autopeft.space.genotype import Genotype
from autopeft.space.shape import ModelShape, spans
from autopeft.space.taps import LINEAR_INPUT, THROUGH_NORM, Tap

_ROLES = (
    *("attention", "q", "k", "v", "o", "up", "down", "gate"),
    *("attn_norm", "ffn_norm", "attn_input", "ffn_input", "ffn"),
    *("cross_attention", "cross_q", "cross_k", "cross_v", "cross_o", "cross_norm"),
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
    Tap.CROSS_IN: ("cross_attention", "in"),
    Tap.CROSS_Q: ("cross_q", "out"),
    Tap.CROSS_MEMORY: ("cross_k", "in"),
    Tap.CROSS_K: ("cross_k", "out"),
    Tap.CROSS_V: ("cross_v", "out"),
    Tap.CROSS_PRE_O: ("cross_o", "in"),
    Tap.CROSS_OUT: ("cross_o", "out"),
    Tap.CROSS_NORM: ("cross_norm", "out"),
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
    "gelu_new": Activation.GELU_NEW,
    "gelu_pytorch_tanh": Activation.GELU_NEW,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "tanh": Activation.TANH,
}
"""By their names in a configuration."""

_INPUTS: Mapping[Tap, str] = {Tap.ATTN_IN: "attn_input", Tap.FFN_IN: "ffn_input"}
"""The role whose output a tap is, in families that have it."""

_PROJECTIONS = (
    *("q", "k", "v", "o", "up", "down", "gate"),
    *("cross_q", "cross_k", "cross_v", "cross_o"),
)
"""The roles that have widths of their own."""

_KEYS = {Tap.HEAD: Tap.K, Tap.CROSS_HEAD: Tap.CROSS_K}
"""For the heads of each kind of attention, the tap of their keys."""

_POOLS: Mapping[str, Pool] = {"cls": "first", "bos": "first", "mean": "mean", "late": "late"}
"""By `config.classifier_pooling`."""


def tags_words(model: PreTrainedModel) -> bool:
    """The head of a model reads every token."""
    return type(model).__name__ in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.values()


class Anatomy:
    """The taps of one model.

    Args:
        model: a transformers model, with or without a task head.
        fresh: parameters that were not in the checkpoint; they are head, not backbone.

    Attributes:
        family: its row of the table, or what such a row would be.
        base: the model without its task head.
        layers: its layers, those of an encoder before those of a decoder.
        n_encoder_layers: of an encoder-decoder, 0 for other models.
        attending: the layers that have attention, which are all but some of a hybrid's.
        pool: the tokens that the task head reads.
        first_token: it reads the first one alone, and norms come last; see `Family`.

    Raises:
        DataError: the family is not in the table, and the names of the modules tell too little.
    """

    def __init__(self, model: PreTrainedModel, fresh: Collection[str] = ()) -> None:
        kind = model.config.model_type
        self._model = model
        self.base: nn.Module = getattr(model, model.base_model_prefix, model)
        self.family = self._row(kind) if kind in FAMILIES else read_family(model, self.base)
        self.pool = _POOLS.get(getattr(model.config, "classifier_pooling", ""), self.family.pool)
        self.first_token = self.family.first_token and not tags_words(model)
        self._fresh = {name.removeprefix(f"{model.base_model_prefix}.") for name in fresh}
        encoder, decoder = self.family.layers, self.family.decoder
        self.layers = tuple(self._list(encoder))
        self.n_encoder_layers = len(self.layers) if decoder else 0
        if decoder:
            self.layers += tuple(self._list(decoder))
        self.attending = tuple(
            i for i, block in enumerate(self.layers) if not _mixes(self.family, block)
        )
        self._mixing = [i for i in range(len(self.layers)) if i not in self.attending]
        if not self.attending:
            raise DataError(f"this {kind} model has no layer with attention")
        module, why = self.family.without or ("", "")
        if module and _has(self.base, module):
            raise DataError(f"this {kind} model has a `{module}` {why}")

    def _row(self, kind: str) -> Family:
        """The row of a family whose modules this model has."""
        rows = FAMILIES[kind]
        rows = rows if isinstance(rows, tuple) else (rows,)
        for row in rows:
            absent = [name for layers in _stacks(row) for name in self._absent(kind, row, layers)]
            if not absent:
                return row
        raise DataError(f"this {kind} model has no module {', '.join(absent)} in its layers")

    def _absent(self, kind: str, row: Family, layers: Layers) -> list[str]:
        """The modules that layers lack."""
        found = self.base.get_submodule(layers.at) if _has(self.base, layers.at) else None
        if not isinstance(found, nn.ModuleList):
            raise DataError(f"`{layers.at}` of this {kind} model is not a list of layers")
        absent: dict[str, None] = {}
        for block in found:
            own = row.mixers if row.mixers and _mixes(row, block) else layers
            names = [_split(name)[0] for role in _ROLES if (name := getattr(own, role))]
            absent |= dict.fromkeys(name for name in names if not _has(block, name))
        return list(absent)

    def _list(self, layers: Layers) -> list[nn.Module]:
        return list(self.base.get_submodule(layers.at).children())

    def _name(self, layer: int, role: str) -> str | None:
        family = self.family
        layers = family.decoder if layer >= self.n_encoder_layers else None
        if layer in self._mixing:
            layers = family.mixers
        name: str | None = getattr(layers or family.layers, role)
        return name

    def fork(self, genotype: Genotype) -> int:
        """The first layer in which a trial has rows of its own; the depth, if there is none."""
        return 0 if self.apart else genotype.fork

    @property
    def apart(self) -> bool:
        """Whether trials have rows of their own from the first layer on."""
        # A decoder's layers read what the encoder put out, so there is no trunk below a layer.
        return self.family.apart or self.family.decoder is not None

    @property
    def words(self) -> nn.Module:
        """The embedding of words, without positions."""
        found: nn.Module = self._model.get_input_embeddings()
        return found

    def module(self, layer: int, role: str) -> nn.Module:
        """A module of a layer by its role in `Layers`; `layer` is the layer itself."""
        block = self.layers[layer]
        if role == "layer":
            return block
        if not (name := self._name(layer, role)):
            raise ValueError(f"layer {layer} has no {role}")
        return block.get_submodule(_split(name)[0])

    def point(self, layer: int, tap: Tap) -> Point:
        """Where a tap is; heads are nowhere."""
        role, side = self._role(layer, tap)
        part = self._part(layer, role) if side == "out" and role != "layer" else None
        return Point(self.module(layer, role), side, part)

    def _part(self, layer: int, role: str) -> Part | None:
        """What a role is of its module's output; None if it is all of it.

        Parts are equal, but a query among them, whose heads may be more than those of keys and
        values, is as wide as what `o` reads.
        """
        module, index, n_parts = _split(self._name(layer, role) or "")
        if n_parts == 1:
            return None
        whole = Point(self.module(layer, role), "out").width
        widths = [whole // n_parts] * n_parts
        fused, query, _ = _split(self._name(layer, "q") or "")
        if fused == module:
            wide = Point(self.module(layer, "o"), "in").width
            widths = [(whole - wide) // (n_parts - 1)] * n_parts
            widths[query] = wide
        return Part(index, tuple(widths))

    def _role(self, layer: int, tap: Tap) -> tuple[str, Side]:
        role = _INPUTS.get(tap)
        if role and self._name(layer, role):
            return role, "out"
        if tap is Tap.FFN_IN and self._name(layer, "ffn"):
            return "ffn", "in"
        is_whole = tap is Tap.FFN_OUT and not self._name(layer, "down")
        return ("ffn", "out") if is_whole else _POINTS[tap]

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
            return int(getattr(self.base.config, "max_position_embeddings", sys.maxsize))
        positions = self.base.get_submodule(self.family.positions)
        if not isinstance(positions, nn.Embedding):
            raise DataError(f"`{self.family.positions}` of this model is not an embedding")
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        return positions.num_embeddings - first

    @property
    def n_positions(self) -> int | None:
        """Tokens that there are embeddings of positions for; None if no table limits them."""
        return self.longest_row() if self.family.positions else None

    @property
    def _d_model(self) -> int:
        return Point(self.module(self.attending[0], "q"), "in").width

    def shape(self) -> ModelShape:
        """Depth, widths and size of the model."""
        last = self.attending[-1]
        widths = self._widths(last)
        everywhere = set(widths)
        for layer in range(len(self.layers)):
            own = self._widths(layer)
            if layer in self._mixing:
                everywhere = {tap for tap in everywhere if own.get(tap) == widths[tap]}
                continue
            for tap, width in own.items():
                if width != widths[tap]:
                    raise DataError(
                        f"`{tap}` is {width} wide in layer {layer} and {widths[tap]} in layer "
                        f"{last}; only models whose layers are alike can be used"
                    )
        return ModelShape(
            len(self.layers),
            widths,
            self._size(),
            self._activation(),
            self._biased(widths, everywhere),
            self.n_encoder_layers,
            frozenset({Tap.ATTN_IN}) if self.family.disentangled else frozenset(),
            self.family.apart,
            only_in={tap: self.attending for tap in widths if tap not in everywhere},
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be told of how the model is known."""
        kind = self._model.config.model_type
        notes = () if kind in FAMILIES else (told(kind, self.family),)
        if self.family.mixers is None:
            return notes
        there, only = self.family.mixers.attention, ", ".join(self.shape().only_in)
        note = (
            f"{spans(self._mixing)} of this {kind} model have `{there}` instead of attention: "
            f"{only} are in {spans(self.attending)} alone"
        )
        return (*notes, note)

    def _size(self) -> int:
        """Parameters without the head's; weights in few bits count as what they stand for."""
        parameters = self.base.named_parameters()
        size = sum(p.numel() for name, p in parameters if name not in self._fresh)
        return size + sum(m.in_features * m.out_features for _, m in quantized(self.base))

    def _widths(self, layer: int) -> dict[Tap, int]:
        """The width at each tap of a layer."""
        widths: dict[Tap, int] = {}
        if self.family.prompts:
            widths[Tap.EMBED] = self.words.get_parameter("weight").shape[1]
        for tap in Tap:
            if tap is Tap.EMBED:
                continue
            key = _KEYS.get(tap)
            role, _ = self._role(layer, key or tap)
            if (key and not self.family.heads) or (role != "layer" and not self._name(layer, role)):
                continue
            point = self.point(layer, key or tap)
            widths[tap] = point.width if role in _PROJECTIONS else self._d_model
        return widths

    def _activation(self) -> Activation | None:
        layers = self.family.layers
        ends = [self.module(0, role) for role in ("up", "down") if getattr(layers, role)]
        if not ends or layers.gate or any(getattr(end, "bias", None) is None for end in ends):
            return None
        return _ACTIVATIONS.get(getattr(self.base.config, self.family.activation, ""))

    def _biased(self, taps: Collection[Tap], everywhere: Collection[Tap]) -> frozenset[Tap]:
        def has_bias(tap: Tap) -> bool:
            layers = {self.attending[-1], *(self._mixing if tap in everywhere else ())}
            return all(self.point(layer, tap).bias is not None for layer in layers)

        outputs = {*LINEAR_INPUT, *THROUGH_NORM} & set(taps)
        return frozenset(filter(has_bias, outputs))


def _stacks(family: Family) -> tuple[Layers, ...]:
    return (family.layers, family.decoder) if family.decoder else (family.layers,)


def _mixes(family: Family, block: nn.Module) -> bool:
    """Whether a layer of a hybrid has something instead of attention."""
    return family.mixers is not None and not _has(block, family.layers.attention)


def _split(name: str) -> tuple[str, int, int]:
    """Of a name in the table the module, which part of its output is meant, and of how many."""
    module, _, part = name.partition(" ")
    index, _, n_parts = (part or "0/1").partition("/")
    return module, int(index), int(n_parts)


def _has(block: nn.Module, name: str) -> bool:
    try:
        block.get_submodule(name)
    except AttributeError:
        return False
    return True
