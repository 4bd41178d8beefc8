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
from transformers import PreTrainedModel

from autopeft.errors import ConfigError, DataError
from autopeft.export.adapter import Description
from autopeft.export.native import base_of, put_on, read_description
from autopeft.model.anatomy import Anatomy
from autopeft.model.attention import HeadOps, put_ops, use_attention
from autopeft.model.backbone import Backbone
from autopeft.model.head import OPS_ATTRIBUTE, head_modules
from autopeft.model.layer_ops import LayerOps
from autopeft.ops.multihead import MultiHead
from autopeft.ops.prefix import Prefix
from autopeft.space.taps import ORDER, QUERIES, Tap


class Route:
    """Which rows of a batch are whose.

    Attributes:
        parts: adapters, and their rows one behind the other.
    """

    def __init__(self) -> None:
        self.parts: Sequence[tuple[int, slice]] = [(0, slice(None))]

    def apply(self, state: Tensor, act: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Let each adapter act on its rows."""
        done = [act(adapter, state[rows]) for adapter, rows in self.parts]
        return torch.cat(done) if len(done) > 1 else done[0]


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
        tokenizer: of the backbone.
        names: of the adapters.

    Raises:
        ConfigError: an adapter has ops that read other rows than its own, or none is given.
        DataError: a folder is not an export, or the adapters have different backbones.
    """

    def __init__(
        self,
        folders: Mapping[str, str | Path],
        *,
        backbone: str | Path | None = None,
        device: str = "cpu",
    ) -> None:
        if not folders:
            raise ConfigError("a bank needs an adapter")
        self.names = tuple(folders)
        told = [read_description(Path(folder)) for folder in folders.values()]
        self._descriptions = [description for description, _ in told]
        _check_alike(self.names, self._descriptions)
        base = base_of(self._descriptions[0], backbone)
        self.model: PreTrainedModel = base.model
        self.tokenizer: Any = base.tokenizer
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

    def use(self, name: str) -> None:
        """Let one adapter have all rows from now on.

        Raises:
            ConfigError: there is none of this name.
        """
        self._route.parts = [(self._index(name), slice(None))]

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
        if any(len(tensor) != len(whose) for tensor in batch.values()):
            raise ConfigError(f"{len(whose)} names for another number of rows")
        order = sorted(range(len(whose)), key=whose.__getitem__)
        before, self._route.parts = self._route.parts, _parts([whose[row] for row in order])
        try:
            logits = self.model(**{key: tensor[order] for key, tensor in batch.items()}).logits
        finally:
            self._route.parts = before
        widths = [d.outputs.n_outputs for d in self._descriptions]
        found = {row: logits[i, : widths[whose[row]]] for i, row in enumerate(order)}
        return [found[row] for row in range(len(whose))]

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise ConfigError(f"no adapter `{name}`; there are: {', '.join(self.names)}")
        return self.names.index(name)

    def _hook(self, base: Backbone, layers: Sequence[Mapping[int, LayerOps]]) -> None:
        anatomy, route = Anatomy(base.model, base.fresh), self._route
        everything = nn.ModuleList()
        for i in range(base.shape.n_layers):
            own = {k: ops[i] for k, ops in enumerate(layers) if i in ops}
            everything.extend(own.values())
            fused: dict[nn.Module, list[Tap]] = {}
            for tap in sorted({t for ops in own.values() for t in ops.taps}, key=ORDER.__getitem__):
                module, side, part = anatomy.point(i, tap)
                if part is not None:
                    fused.setdefault(module, []).append(tap)
                elif side == "in":
                    module.register_forward_pre_hook(partial(_in_hook, route, own, tap))
                else:
                    module.register_forward_hook(partial(_out_hook, route, own, tap))
            for module, taps in fused.items():
                parts = {tap: anatomy.point(i, tap).part for tap in taps}
                module.register_forward_hook(partial(_parts_hook, route, own, parts))
            for tap in {t for ops in own.values() for t in ops.through}:
                hook = partial(_norm_hook, route, own, tap)
                anatomy.point(i, tap).module.register_forward_pre_hook(hook)
            if any(ops.inside for ops in own.values()):
                put_ops(anatomy.module(i, "attention"), partial(_inside, route, own))
        if any(ops.inside for some in layers for ops in some.values()):
            use_attention(base.model, "sdpa")
        base.model.add_module(OPS_ATTRIBUTE, everything)


def _check_alike(names: Sequence[str], descriptions: Sequence[Description]) -> None:
    first = descriptions[0]
    for name, other in zip(names, descriptions, strict=True):
        if other.backbone_sha256 != first.backbone_sha256:
            raise DataError(f"adapters {names[0]} and {name} were trained on different backbones")
        if any(op.scale == "gated" for op in other.genotype.ops):
            raise ConfigError(f"adapter {name} has gated ops, which a bank cannot route")
        if any(op.write is Tap.EMBED for op in other.genotype.ops):
            raise ConfigError(f"adapter {name} has a prompt, and a bank's rows are of one length")


def _resize_head(base: Backbone, n_outputs: int) -> None:
    """Give the head's last Linear another number of outputs."""
    *_, (name, last) = head_modules(base.model, base.fresh)
    if isinstance(last, nn.Linear) and last.out_features != n_outputs:
        has_bias = last.bias is not None
        base.model.set_submodule(name, nn.Linear(last.in_features, n_outputs, bias=has_bias))


def _parts(whose: Sequence[int]) -> list[tuple[int, slice]]:
    """Runs of equal numbers."""
    ends = [i for i in range(1, len(whose) + 1) if i == len(whose) or whose[i] != whose[i - 1]]
    starts = [0, *ends[:-1]]
    return [(whose[i], slice(i, end)) for i, end in zip(starts, ends, strict=True)]


Own = Mapping[int, LayerOps]
"""The ops that adapters have in a layer."""


def _pass(own: Own, tap: Tap, adapter: int, state: Tensor) -> Tensor:
    ops = own.get(adapter)
    return state if ops is None or tap not in ops.taps else ops.pass_tap(tap, state, fresh=False)


def _in_hook(
    route: Route, own: Own, tap: Tap, _: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (route.apply(args[0], partial(_pass, own, tap)), *args[1:])


def _out_hook(route: Route, own: Own, tap: Tap, _: nn.Module, __: tuple[Any, ...], out: Any) -> Any:
    if isinstance(out, tuple):
        return (route.apply(out[0], partial(_pass, own, tap)), *out[1:])
    return route.apply(out, partial(_pass, own, tap))


def _parts_hook(
    route: Route, own: Own, parts: Mapping[Tap, Any], _: nn.Module, __: Any, out: Tensor
) -> Tensor:
    pieces = list(out.chunk(next(iter(parts.values())).of, -1))
    for tap, part in parts.items():
        pieces[part.index] = route.apply(pieces[part.index].contiguous(), partial(_pass, own, tap))
    return torch.cat(pieces, -1)


def _norm_hook(
    route: Route, own: Own, tap: Tap, norm: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    def act(adapter: int, state: Tensor) -> Tensor:
        ops = own.get(adapter)
        return ops.pass_norm(tap, norm, state) if ops and tap in ops.through else state

    return (route.apply(args[0], act), *args[1:])


def _inside(route: Route, own: Own) -> list[tuple[slice, HeadOps]]:
    """What acts inside attention, for the rows of each adapter."""
    found = []
    for adapter, rows in route.parts:
        ops = own.get(adapter)
        inside = [op for tap in QUERIES for op in (ops.inside.get(tap, []) if ops else [])]
        prefixes = [op for op in inside if isinstance(op, Prefix)]
        found.append((rows, HeadOps(prefixes, [op for op in inside if isinstance(op, MultiHead)])))
    return found
