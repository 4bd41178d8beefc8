"""Putting the ops of one or several genotypes into a frozen model, by hooks, and taking them out.

No architecture is modelled here: an op acts by a pre-hook or a hook at the module whose input or
output its tap is. At one tap the order is fixed: parallel ops add first, then biases, then
scales, then sequential ops transform what came out.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from autopeft.errors import ConfigError
from autopeft.model.anatomy import Anatomy
from autopeft.model.attention import (
    Kernel,
    check_called,
    count_calls,
    put_prefixes,
    remove_prefixes,
    use_attention,
)
from autopeft.model.head import OPS_ATTRIBUTE
from autopeft.ops.base import StackedOp
from autopeft.ops.build import Group, build_layer
from autopeft.ops.prefix import Prefix
from autopeft.ops.rows import expand
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype
from autopeft.space.taps import THROUGH_NORM, Tap


class LayerOps(nn.Module):
    """The ops of one layer, and the states that they read before they write."""

    def __init__(self, ops: Mapping[Group, StackedOp]) -> None:
        super().__init__()
        self.stacks = nn.ModuleDict({_key(group): op for group, op in ops.items()})
        self.writes: dict[Tap, list[tuple[Tap, StackedOp]]] = {}
        self.through: dict[Tap, list[StackedOp]] = {}
        for (_, read, write, *_rest), op in sorted(ops.items(), key=lambda item: _rank(item[0])):
            if THROUGH_NORM.get(read) == write:
                self.through.setdefault(read, []).append(op)
            elif write is not Tap.HEAD:
                self.writes.setdefault(write, []).append((read, op))
        self._seen: dict[Tap, Tensor] = {}
        self._last_use = {
            read: write for write in Tap for read, _ in self.writes.get(write, []) if read != write
        }

    @property
    def taps(self) -> set[Tap]:
        """Where this layer has to be hooked."""
        return set(self.writes) | set(self._last_use)

    def pass_tap(self, tap: Tap, state: Tensor) -> Tensor:
        """Apply what is written at a tap and keep what will be read from it."""
        for read, op in self.writes.get(tap, []):
            state = op(state, state if read == tap else self._seen[read])
        for read in [r for r, last in self._last_use.items() if last == tap]:
            self._seen.pop(read, None)
        if tap in self._last_use:
            self._seen[tap] = state
        return state

    def pass_norm(self, tap: Tap, norm: nn.Module, state: Tensor) -> Tensor:
        """Apply the ops that read a state through its LayerNorm, before the norm itself runs."""
        for op in self.through[tap]:
            state = op(state, norm.forward(state))
        return state


class Injection:
    """Ops in a model. `remove` restores the model to the bit.

    Attributes:
        ops: the module that holds all parameters of the ops.
        fork: the lowest layer with an op; below it all trials share one batch.
        n_trials: trials in the cohort.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        genotypes: Sequence[Genotype],
        seeds: Sequence[int],
        kernel: Kernel,
        *,
        fresh: Collection[str] = (),
    ) -> None:
        if hasattr(model, OPS_ATTRIBUTE):
            raise ConfigError("this model has ops already; remove them first")
        anatomy = Anatomy(model, fresh)
        shape = anatomy.shape()
        for genotype in genotypes:
            genotype.check_fits(shape)
        self.n_trials = len(genotypes)
        self.model = model
        self._handles: list[RemovableHandle] = []
        self._attentions = [anatomy.module(i, "attention") for i in range(shape.n_layers)]
        self._frozen = [p for p in model.parameters() if p.requires_grad]
        self._kernel = model.config._attn_implementation  # noqa: SLF001
        layers = {
            i: LayerOps(ops)
            for i in range(shape.n_layers)
            if (ops := build_layer(genotypes, seeds, i, shape.widths))
        }
        self.fork = min(layers, default=shape.n_layers)
        self.ops = nn.ModuleDict({f"layer{i}": layer for i, layer in layers.items()})
        self.ops.to(next(model.parameters()).device)
        model.requires_grad_(requires_grad=False)
        model.add_module(OPS_ATTRIBUTE, self.ops)
        use_attention(model, kernel)
        if self.fork < shape.n_layers and self.n_trials > 1:
            hook = partial(_fork_hook, self.n_trials)
            self._handles.append(anatomy.module(self.fork, "layer").register_forward_pre_hook(hook))
        for i, layer in layers.items():
            self._hook(anatomy, i, layer)

    def _hook(self, anatomy: Anatomy, index: int, layer: LayerOps) -> None:
        for tap in sorted(layer.taps):
            module, side = anatomy.point(index, tap)
            if side == "in":
                handle = module.register_forward_pre_hook(partial(_in_hook, layer, tap))
            else:
                handle = module.register_forward_hook(partial(_out_hook, layer, tap))
            self._handles.append(handle)
        for tap in layer.through:
            module, _ = anatomy.point(index, tap)
            hook = partial(_norm_hook, layer, tap)
            self._handles.append(module.register_forward_pre_hook(hook))
        prefixes = [op for op in layer.stacks.values() if isinstance(op, Prefix)]
        if prefixes:
            attention = self._attentions[index]
            put_prefixes(attention, prefixes)
            check = partial(_called_hook, count_calls(attention), self.model.config.model_type)
            self._handles.append(self.model.register_forward_hook(check))

    def stacks(self) -> Iterator[StackedOp]:
        """Every stacked op, lowest layer first."""
        for module in self.ops.modules():
            if isinstance(module, StackedOp):
                yield module

    def tensors(self, trial: int) -> dict[str, Tensor]:
        """The parameters of one trial by full name, without padding; views."""
        return {name: own for op in self.stacks() for name, own in op.tensors(trial)}

    def count(self, trial: int) -> int:
        """The parameters of one trial's ops, counted in the tensors."""
        return sum(tensor.numel() for tensor in self.tensors(trial).values())

    def remove(self) -> None:
        """Take all ops out; weights, hooks and attention are as before."""
        for handle in self._handles:
            handle.remove()
        for attention in self._attentions:
            remove_prefixes(attention)
        delattr(self.model, OPS_ATTRIBUTE)
        self.model.set_attn_implementation(self._kernel)
        for parameter in self._frozen:
            parameter.requires_grad_(requires_grad=True)


def _key(group: Group) -> str:
    form, read, write, activation, learned, padded = group
    words = [form, read, write, activation, "learned" if learned else "", str(padded or "")]
    return "-".join(word for word in words if word)


def _rank(group: Group) -> tuple[int, Group]:
    form, read, write, *_ = group
    if form is Form.BIAS:
        return 1, group
    if form is Form.SCALE:
        return 2, group
    return (3 if read == write else 0), group


# Hooks are partials of plain functions: a closure would point at the old module after a deepcopy.


def _in_hook(layer: LayerOps, tap: Tap, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (layer.pass_tap(tap, args[0]), *args[1:])


def _out_hook(layer: LayerOps, tap: Tap, _: nn.Module, __: tuple[Any, ...], out: Any) -> Any:
    if isinstance(out, tuple):
        return (layer.pass_tap(tap, out[0]), *out[1:])
    return layer.pass_tap(tap, out)


def _norm_hook(
    layer: LayerOps, tap: Tap, norm: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (layer.pass_norm(tap, norm, args[0]), *args[1:])


def _called_hook(
    calls: Mapping[str, int], model_type: str, _: nn.Module, __: tuple[Any, ...], ___: Any
) -> None:
    check_called(calls, model_type)


def _fork_hook(n_trials: int, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (expand(args[0], n_trials), *args[1:])
