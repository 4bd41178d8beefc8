"""Several adapters on one backbone: switched by name, or each row of a batch with its own.

The backbone computes all rows of a batch as one; at every tap each adapter changes its own. For
that rows are sorted by adapter and put back into their order at the end.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from autopeft.errors import ConfigError, DataError
from autopeft.export.adapter import Description, name_outputs
from autopeft.export.native import (
    base_of,
    check_place,
    put_on,
    read_description,
    tokenizer_of,
)
from autopeft.model.anatomy import Anatomy
from autopeft.model.attention import HeadOps, use_attention
from autopeft.model.backbone import Backbone
from autopeft.model.disentangled import project_positions_by_block
from autopeft.model.head import OPS_ATTRIBUTE, head_modules
from autopeft.model.hooks import hook_attention, hook_taps
from autopeft.model.inject import ATTENTIONS
from autopeft.model.layer_ops import LayerOps, LayerPass
from autopeft.model.positions import begin_at_zero
from autopeft.ops.multihead import MultiHead
from autopeft.ops.per_thread import PerThread
from autopeft.ops.prefix import Prefix
from autopeft.space.taps import Tap

Parts = Sequence[tuple[int, slice]]
"""Adapters, and their rows one behind the other."""


class _RoutePass(PerThread):
    """The rows of a forward pass, as they were when it began; None between passes."""

    def __init__(self) -> None:
        self.parts: Parts | None = None


class Route:
    """Which rows of a batch are whose.

    Attributes:
        default: adapter that has all rows, where nothing else is said of a pass.
        now: the pass that is going on.
    """

    def __init__(self) -> None:
        self.default = 0
        self.now = _RoutePass()

    @property
    def parts(self) -> Parts:
        """Of the pass that is going on, or of the next one."""
        parts = self.now.parts
        return [(self.default, slice(None))] if parts is None else parts

    def begin(self, *_: Any) -> None:
        """Hold on to the parts until the pass ends; a pre-hook of the model."""
        self.now.parts = self.parts

    def end(self, *_: Any) -> None:
        """Let go of them; a hook of the model."""
        self.now.parts = None

    def apply(self, state: Tensor, act: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Let each adapter act on its rows."""
        done = [act(adapter, state[rows]) for adapter, rows in self.parts]
        return torch.cat(done) if len(done) > 1 else done[0]


class RoutedLayer:
    """The ops that adapters have in one layer, each for its rows; see `LayerOps`.

    Args:
        own: by adapter.
        route: whose rows are which.

    Attributes:
        taps: where the layer has to be hooked.
        through: taps that ops read through their LayerNorm.
        inside: taps at which ops act inside attention.
        writes: the ops by the tap that they write.
        now: the pass that is going on.
    """

    def __init__(self, own: Mapping[int, LayerOps], route: Route) -> None:
        self._own, self._route = own, route
        self.taps = {tap for ops in own.values() for tap in ops.taps}
        self.through = {tap for ops in own.values() for tap in ops.through}
        self.inside = {tap for ops in own.values() for tap in ops.inside}
        self.writes: dict[Tap, Any] = {
            tap: written for ops in own.values() for tap, written in ops.writes.items()
        }
        self.now = LayerPass()

    def pass_tap(self, tap: Tap, state: Tensor, *, fresh: bool) -> Tensor:  # noqa: ARG002
        """Apply what each adapter writes at a tap, which others may read."""

        def act(adapter: int, rows: Tensor) -> Tensor:
            ops = self._own.get(adapter)
            return ops.pass_tap(tap, rows, fresh=False) if ops and tap in ops.taps else rows

        return self._route.apply(state, act)

    def pass_norm(self, tap: Tap, norm: nn.Module, state: Tensor) -> Tensor:
        """Apply what each adapter reads through a LayerNorm."""

        def act(adapter: int, rows: Tensor) -> Tensor:
            ops = self._own.get(adapter)
            return ops.pass_norm(tap, norm, rows) if ops and tap in ops.through else rows

        return self._route.apply(state, act)

    def pass_positions(self, tap: Tap, x: Tensor, state: Tensor) -> Tensor:
        """Apply what is written to projected positions by the adapter whose turn it is."""
        adapter, _ = self._route.parts[self.now.block or 0]
        ops = self._own.get(adapter)
        return ops.pass_positions(tap, x, state) if ops and tap in ops.writes else state

    def cut(self, rows: Tensor) -> Sequence[Tensor]:
        """The rows of each adapter."""
        return [rows[own] for _, own in self._route.parts]

    def forget_positions(self) -> None:
        """Let go of what was kept from adapter to adapter."""
        for ops in self._own.values():
            ops.forget_positions()

    def heads(self, tap: Tap) -> list[tuple[slice, HeadOps]]:
        """What acts inside attention, for the rows of each adapter."""
        found = []
        for adapter, rows in self._route.parts:
            ops = self._own.get(adapter)
            inside = ops.inside.get(tap, []) if ops else []
            prefixes = [op for op in inside if isinstance(op, Prefix)]
            adapters = [op for op in inside if isinstance(op, MultiHead)]
            found.append((rows, HeadOps(prefixes, adapters)))
        return found


class RoutedHead(nn.Module):
    """A module of the task head, one for each adapter; narrower outputs are filled up with 0.

    Args:
        modules: one for each adapter.
        route: whose rows are which.
    """

    def __init__(self, modules: Sequence[nn.Module], route: Route) -> None:
        super().__init__()
        self.own, self._route = nn.ModuleList(modules), route

    def forward(self, x: Float[Tensor, "row *rest d"]) -> Float[Tensor, "row *rest out"]:
        """What each adapter's module makes of its rows."""
        outs = [self.own[adapter](x[rows]) for adapter, rows in self._route.parts]
        width = max(out.shape[-1] for out in outs)
        return torch.cat([nn.functional.pad(out, (0, width - out.shape[-1])) for out in outs])


class AdapterBank:
    """Several exported adapters on one copy of their backbone.

    Args:
        folders: of native exports, by the names that they get.
        backbone: where the pretrained weights are, if not where the first adapter says.
        device: where the model goes.

    Attributes:
        model: of `transformers`; computes all rows with the adapter chosen by `use`, the first one
            at the beginning.
        tokenizer: of the first adapter.
        names: of the adapters.

    Raises:
        ConfigError: an adapter has ops that read other rows than its own, or none is given; or the
            device is not there.
        DataError: a folder is not an export, or the adapters have different backbones.
    """

    def __init__(
        self,
        folders: Mapping[str, str | Path],
        *,
        backbone: str | Path | None = None,
        device: str = "cpu",
    ) -> None:
        if not folders or not isinstance(folders, Mapping):
            raise ConfigError("a bank needs an adapter, each by a name: {name: folder}")
        check_place(device)
        self.names = tuple(folders)
        told = [read_description(Path(folder)) for folder in folders.values()]
        self._descriptions = [description for description, _ in told]
        _check_alike(self.names, self._descriptions)
        base = base_of(self._descriptions[0], backbone)
        self.model: PreTrainedModel = base.model
        first = Path(next(iter(folders.values())))
        self.tokenizer: Any = tokenizer_of(first, base, self._descriptions[0])
        self._route = Route()
        layers: list[Mapping[int, LayerOps]] = []
        heads: list[dict[str, nn.Module]] = []
        for folder, (description, sha256) in zip(folders.values(), told, strict=True):
            _resize_head(base, description.outputs.n_outputs)
            injection = put_on(base, Path(folder), description, sha256)
            layers.append(injection.layers)
            found = head_modules(self.model, base.fresh)
            heads.append({name: copy.deepcopy(module) for name, module in found})
            injection.remove()
        self._hook(base, layers)
        for name in heads[0]:
            self.model.set_submodule(name, RoutedHead([h[name] for h in heads], self._route))
        self.model.requires_grad_(requires_grad=False).to(device)
        self.use(self.names[0])

    def use(self, name: str) -> None:
        """Let one adapter have all rows of every pass that begins from now on, in any thread.

        What the outputs mean (`id2label`) is then that of this adapter. Threads that need
        different ones at once name them to `outputs`.

        Raises:
            ConfigError: there is none of this name.
        """
        self._route.default = self._index(name)
        name_outputs(self.model, self._descriptions[self._route.default].outputs)

    @torch.no_grad()
    def outputs(
        self, batch: Mapping[str, Int[Tensor, "row token"]], names: Sequence[str]
    ) -> list[Float[Tensor, " output"]]:
        """The outputs of a batch whose rows have adapters of their own, in one pass.

        Args:
            batch: as the model takes it.
            names: the adapter of each row, in any order.

        Returns:
            For each row as many numbers as its adapter has outputs.

        Raises:
            ConfigError: there is no adapter of a name, or there are more or fewer names than rows.
        """
        whose = [self._index(name) for name in names]
        if not batch or not whose or any(len(tensor) != len(whose) for tensor in batch.values()):
            raise ConfigError(f"{len(whose)} names for another number of rows")
        order = sorted(range(len(whose)), key=whose.__getitem__)
        sorted_rows = {key: tensor[order] for key, tensor in batch.items()}
        self._route.now.parts = _parts([whose[row] for row in order])
        logits = self.model(**sorted_rows).logits
        widths = [d.outputs.n_outputs for d in self._descriptions]
        found = {row: logits[i, : widths[whose[row]]] for i, row in enumerate(order)}
        return [found[row] for row in range(len(whose))]

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise ConfigError(f"no adapter `{name}`; there are: {', '.join(self.names)}")
        return self.names.index(name)

    def _hook(self, base: Backbone, layers: Sequence[Mapping[int, LayerOps]]) -> None:
        anatomy = Anatomy(base.model, base.fresh)
        everything = nn.ModuleList()
        for i in range(base.shape.n_layers):
            own = {k: ops[i] for k, ops in enumerate(layers) if i in ops}
            everything.extend(own.values())
            _hook_layer(anatomy, i, RoutedLayer(own, self._route), base.model.config)
        if any(ops.inside for some in layers for ops in some.values()):
            use_attention(base.model, "sdpa")
        begin_at_zero(base.model)
        base.model.add_module(OPS_ATTRIBUTE, everything)
        base.model.register_forward_pre_hook(self._route.begin)
        base.model.register_forward_hook(self._route.end, always_call=True)


def _hook_layer(anatomy: Anatomy, index: int, layer: RoutedLayer, config: PretrainedConfig) -> None:
    hook_taps(anatomy, index, layer)
    for tap in layer.inside:
        attention = anatomy.module(index, ATTENTIONS[tap])
        hook_attention(attention, partial(layer.heads, tap), config)
    if anatomy.family.disentangled:
        project_positions_by_block(anatomy.module(index, "attention"), layer)


def _check_alike(names: Sequence[str], descriptions: Sequence[Description]) -> None:
    first = descriptions[0]
    for name, other in zip(names, descriptions, strict=True):
        told, also = first.configuration, other.configuration
        configured = told is not None and also is not None and told.differs(also)
        if configured or other.backbone_sha256 != first.backbone_sha256:
            raise DataError(f"adapters {names[0]} and {name} were trained on different backbones")
        if other.outputs.writes:
            raise ConfigError(f"adapter {name} writes texts; a bank puts out one number a row")
        if other.outputs.kind == "token_classification":
            raise ConfigError(f"adapter {name} tags words; a bank puts out one number a row")
        if any(op.scale == "gated" for op in other.genotype.ops):
            raise ConfigError(f"adapter {name} has gated ops, which a bank cannot route")
        if any(op.write is Tap.EMBED for op in other.genotype.ops):
            raise ConfigError(f"adapter {name} has a prompt, and a bank's rows are of one length")


def _resize_head(base: Backbone, n_outputs: int) -> None:
    """Give the head's last Linear another number of outputs."""
    *_, (name, last) = head_modules(base.model, base.fresh)
    if isinstance(last, nn.Linear) and last.out_features != n_outputs:
        has_bias, dtype = last.bias is not None, last.weight.dtype
        other = nn.Linear(last.in_features, n_outputs, bias=has_bias, dtype=dtype)
        base.model.set_submodule(name, other)


def _parts(whose: Sequence[int]) -> Parts:
    """Runs of equal numbers."""
    ends = [i for i in range(1, len(whose) + 1) if i == len(whose) or whose[i] != whose[i - 1]]
    starts = [0, *ends[:-1]]
    return [(whose[i], slice(i, end)) for i, end in zip(starts, ends, strict=True)]
