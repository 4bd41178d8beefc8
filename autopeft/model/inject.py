"""Putting the ops of one or several genotypes into a frozen model, by hooks, and taking them out.

No architecture is modelled here: an op acts by a pre-hook or a hook at the module whose input or
output its tap is. At one tap the order is fixed: parallel ops add first, then biases, then
scales, then sequential ops transform what came out.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.errors import ConfigError
from autopeft.model.anatomy import Anatomy
from autopeft.model.attention import (
    HeadOps,
    check_called,
    count_calls,
    put_ops,
    remove_ops,
    use_attention,
)
from autopeft.model.computing import Kernel
from autopeft.model.disentangled import (
    project_positions_at_once,
    project_positions_by_block,
    repeat_mask,
)
from autopeft.model.forks import Forks, join_hook, join_top_hook
from autopeft.model.head import OPS_ATTRIBUTE
from autopeft.model.prompts import lengthen
from autopeft.ops.base import SharedStack, Stack, StackedOp
from autopeft.ops.build import Group, build_layer, build_shared, op_path
from autopeft.ops.gate import Gate, Tokens
from autopeft.ops.multihead import MultiHead
from autopeft.ops.point import Part
from autopeft.ops.prefix import Prefix
from autopeft.ops.prompt import Prompt
from autopeft.ops.rows import Act, Blocks, change
from autopeft.space.forms import FORMS, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.shape import ModelShape
from autopeft.space.taps import ORDER, QUERIES, THROUGH_NORM, Tap

_ATTENTIONS = {Tap.HEAD: "attention", Tap.CROSS_HEAD: "cross_attention"}
"""The modules whose heads are taps."""

KEEPS_NO_OUTPUT = (nn.Linear, nn.LayerNorm, Conv1D)
"""Modules whose backward pass does not read what they put out."""


class LayerOps(nn.Module):
    """The ops of one layer, and the states that they read before they write.

    Args:
        ops: by group.
        n_blocks: blocks of rows that the layer computes.
    """

    def __init__(self, ops: Mapping[Group, StackedOp], n_blocks: int) -> None:
        super().__init__()
        self.n_blocks = n_blocks
        self.block: int | None = None
        self._positions: dict[Tap, tuple[Tensor, ...]] = {}
        self.stacks = nn.ModuleDict({_key(group): op for group, op in ops.items()})
        self.writes: dict[Tap, list[tuple[Tap, StackedOp]]] = {}
        self.through: dict[Tap, list[StackedOp]] = {}
        self.inside: dict[Tap, list[StackedOp]] = {}
        self.prompt: Prompt | None = None
        for group in sorted(ops, key=_rank):
            if isinstance(prompt := ops[group], Prompt):
                self.prompt = prompt
            elif THROUGH_NORM.get(group.read) == group.write:
                self.through.setdefault(group.read, []).append(ops[group])
            elif group.write in QUERIES:
                self.inside.setdefault(group.write, []).append(ops[group])
            else:
                self.writes.setdefault(group.write, []).append((group.read, ops[group]))
        self.looking = [op for op in ops.values() if isinstance(op, Prefix) and op.gate is not None]
        self._seen: dict[Tap, Blocks] = {}
        self._last_use = {
            read: write for write in Tap for read, _ in self.writes.get(write, []) if read != write
        }

    @property
    def taps(self) -> set[Tap]:
        """Where this layer has to be hooked."""
        looked_at = {Tap.ATTN_IN} if self.looking else set()
        return set(self.writes) | set(self._last_use) | looked_at

    @property
    def needs_all_tokens(self) -> bool:
        """Whether an op behind attention reads more than its own token."""
        behind = [op for tap, some in self.writes.items() for _, op in some if _is_behind(tap)]
        behind += [op for tap, some in self.through.items() for op in some if _is_behind(tap)]
        return any(op.gate is not None for op in behind)

    def pass_tap(self, tap: Tap, state: Tensor, *, fresh: bool) -> Tensor:
        """Apply what is written at a tap and keep what will be read from it.

        Args:
            tap: where.
            state: rows of all blocks.
            fresh: nobody else has the state.
        """
        if tap in self.writes:
            acts = [
                Act(op, None if read == tap else self._seen[read].take(op.blocks))
                for read, op in self.writes[tap]
            ]
            state = change(state, self.n_blocks, acts, fresh=fresh)
        for read in [r for r, last in self._last_use.items() if last == tap]:
            self._seen.pop(read, None)
        if tap in self._last_use:
            self._seen[tap] = Blocks(state, self.n_blocks)
        if tap is Tap.ATTN_IN:
            for op in self.looking:
                op.look(Blocks(state, self.n_blocks).take(op.blocks))
        return state

    def pass_norm(self, tap: Tap, norm: nn.Module, state: Tensor) -> Tensor:
        """Apply the ops that read a state through its LayerNorm, before the norm itself runs."""
        for op in self.through[tap]:
            through = norm.forward(Blocks(state, self.n_blocks).take(op.blocks))
            state = change(state, self.n_blocks, [Act(op, through)], fresh=False)
        return state

    def pass_positions(self, tap: Tap, x: Tensor, state: Tensor) -> Tensor:
        """Apply what is written to projected positions, for the trial whose turn it is.

        Args:
            tap: where.
            x: the positions before their projection, one row for all trials.
            state: and after it.
        """
        if tap not in self._positions:
            n = self.n_blocks
            before = Blocks(x.repeat(n, 1, 1), n)
            acts = [
                Act(op, None if read == tap else before.take(op.blocks))
                for read, op in self.writes[tap]
            ]
            self._positions[tap] = change(state.repeat(n, 1, 1), n, acts, fresh=True).chunk(n)
        return self._positions[tap][self.block or 0]

    def forget_positions(self) -> None:
        """Let go of what `pass_positions` keeps from block to block."""
        self._positions.clear()

    def keep_first_token(self, place: int) -> None:
        """Cut what was seen to the first token of every example, which is at this place."""
        for tap, blocks in self._seen.items():
            self._seen[tap] = Blocks(blocks.state[:, place : place + 1], self.n_blocks)


class Injection:
    """Ops in a model. `remove` restores the model to the bit.

    Rows of a trial begin at its lowest op. Below, frozen rows run once for all trials, or not at
    all if the states are given.

    Args:
        model: a model of a known family.
        genotypes: one for each trial.
        seeds: one for each trial.
        kernel: how attention is computed; None for as it is, where no op acts inside of it.
        fresh: parameters that were not in the checkpoint.
        given: frozen states are put into `states` before each call of the model.
        first_token: behind the last attention compute what the head reads and nothing else.

    Attributes:
        layers: the ops of each layer that has some.
        ops: the module that holds all parameters of the ops.
        forks: where the trials leave the trunk.
        genotypes: one for each trial.
        n_trials: trials in the cohort.
        states: for each fork above 0 the frozen state [batch, token, d_model] that layer reads,
            if they are given.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        genotypes: Sequence[Genotype],
        seeds: Sequence[int],
        kernel: Kernel | None,
        *,
        fresh: Collection[str] = (),
        given: bool = False,
        first_token: bool = False,
    ) -> None:
        if hasattr(model, OPS_ATTRIBUTE):
            raise ConfigError("this model has ops already; remove them first")
        anatomy = Anatomy(model, fresh)
        shape = anatomy.shape()
        _check(genotypes, shape)
        self.genotypes = tuple(genotypes)
        self.n_trials = len(genotypes)
        self.model = model
        self._handles: list[RemovableHandle] = []
        self._attentions = {
            (i, tap): anatomy.module(i, role)
            for tap, role in _ATTENTIONS.items()
            if tap in shape.widths
            for i in shape.layers_with([tap])
        }
        self._frozen = [p for p in model.parameters() if p.requires_grad]
        self._kernel = model.config._attn_implementation  # noqa: SLF001
        forks = tuple(anatomy.fork(genotype) for genotype in genotypes)
        self.forks = Forks(forks, shape.n_layers, given)
        self.states: dict[int, Tensor] = {}
        shared = build_shared(genotypes, seeds, shape.widths[Tap.ATTN_IN])
        layers = {
            i: LayerOps(ops, len(layout))
            for i in range(shape.n_layers)
            if (layout := self.forks.layout(i))
            and (ops := build_layer(genotypes, seeds, i, shape.widths, layout, shared))
        }
        self.layers: Mapping[int, LayerOps] = layers
        self.ops = nn.ModuleDict({f"layer{i}": layer for i, layer in layers.items()})
        self.ops.to(next(model.parameters()).device)
        model.requires_grad_(requires_grad=False)
        model.add_module(OPS_ATTRIBUTE, self.ops)
        if kernel is not None and anatomy.family.heads:
            use_attention(model, kernel)
        self._swapped = ExitStack()
        if self.forks.first:
            self._skip(anatomy)
        self._join(anatomy)
        last = layers.get(shape.n_layers - 1)
        cut = first_token and not (last and last.needs_all_tokens)
        prompt = layers[0].prompt if 0 in layers else None
        if cut:
            self._cut(anatomy, last, prompt.padded if prompt else 0)
        self._tell_gates(anatomy.base)
        self._by_block: list[nn.Module] = []
        if anatomy.family.disentangled:
            self._disentangle(anatomy)
        for i, layer in layers.items():
            self._hook(anatomy, i, layer)
        if prompt:
            self._handles += lengthen(anatomy, prompt, cut=cut)

    def _disentangle(self, anatomy: Anatomy) -> None:
        """Let attention with projected positions work with rows of several trials."""
        for i in range(self.forks.first, self.forks.n_layers):
            attention = anatomy.module(i, "attention")
            if len(self.forks.layout(i)) > 1:
                self._handles.append(repeat_mask(attention))
            if i in self.layers and project_positions_by_block(attention, self.layers[i]):
                self._by_block.append(attention)

    def _skip(self, anatomy: Anatomy) -> None:
        """Take out what is below the lowest fork, since its outcome is given."""
        dtype = next(self.model.parameters()).dtype
        self._swapped.enter_context(anatomy.without_embeddings(dtype))
        self._swapped.enter_context(anatomy.only(self.forks.first, self.forks.n_layers))

    def _join(self, anatomy: Anatomy) -> None:
        """Let trials begin where they fork."""
        if anatomy.n_encoder_layers:
            if self.n_trials > 1:
                repeat = partial(_repeat_hook, self.n_trials)
                handle = anatomy.base.register_forward_pre_hook(repeat, with_kwargs=True)
                self._handles.append(handle)
            return
        for layer in self.forks.joins:
            before, after = self.forks.layout(layer - 1), self.forks.layout(layer)
            if len(before) == len(after) == 1 and not (self.forks.given and layer):
                continue  # a trial alone: its rows are the trunk's
            if layer < self.forks.n_layers:
                hook = partial(join_hook, before, after, self.states, layer)
                handle = anatomy.module(layer, "layer").register_forward_pre_hook(hook)
            else:
                top = partial(join_top_hook, before, after, self.states, layer)
                handle = anatomy.last_running().register_forward_hook(top)
            self._handles.append(handle)

    def _cut(self, anatomy: Anatomy, last: LayerOps | None, place: int) -> None:
        """Let the last layer go on with the first token alone, once attention has run."""
        norm = anatomy.module(self.forks.n_layers - 1, "attn_norm")
        hook = partial(_first_token_hook, last, place)
        self._handles.append(norm.register_forward_pre_hook(hook))

    def _hook(self, anatomy: Anatomy, index: int, layer: LayerOps) -> None:
        for tap, written in layer.writes.items():
            for _, op in written:
                op.stand_at(anatomy.point(index, tap))
        fused: dict[nn.Module, dict[Tap, Part]] = {}
        for tap in sorted(layer.taps, key=ORDER.__getitem__):
            module, side, part = anatomy.point(index, tap)
            if part is not None:
                fused.setdefault(module, {})[tap] = part
                continue
            if side == "in":
                hook = partial(_in_hook, layer, tap)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            else:
                handle = module.register_forward_hook(partial(_out_hook, layer, tap))
            self._handles.append(handle)
        for module, parts in fused.items():
            self._handles.append(module.register_forward_hook(partial(_parts_hook, layer, parts)))
        for tap in layer.through:
            hook = partial(_norm_hook, layer, tap)
            self._handles.append(anatomy.point(index, tap).module.register_forward_pre_hook(hook))
        for tap, ops in layer.inside.items():
            attention = self._attentions[index, tap]
            put_ops(
                attention,
                HeadOps(
                    [op for op in ops if isinstance(op, Prefix)],
                    [op for op in ops if isinstance(op, MultiHead)],
                ),
            )
            check = partial(_called_hook, count_calls(attention), self.model.config.model_type)
            self._handles.append(self.model.register_forward_hook(check))

    def _tell_gates(self, base: nn.Module) -> None:
        """Let gates know which tokens are real, whoever calls the model."""
        tokens = Tokens()
        gates = list(_gates(self.ops))
        for gate in gates:
            gate.tokens = tokens
        if gates:
            hook = partial(_tokens_hook, tokens)
            self._handles.append(base.register_forward_pre_hook(hook, with_kwargs=True))

    def stacks(self) -> Iterator[Stack]:
        """Every stack of parameters once, those of the lowest layer first."""
        for module in self.ops.modules():
            if isinstance(module, Stack):
                yield module

    def tensors(self, trial: int) -> dict[str, Tensor]:
        """The parameters of one trial by full name, without padding; views."""
        return {name: own for op in self.stacks() for name, own in op.tensors(trial)}

    def memory(self, trial: int) -> dict[str, Tensor]:
        """What the ops of one trial have to remember from one step to the next; views."""
        return {
            f"{member.path}.{name}": view
            for stack in self.stacks()
            for i, member in enumerate(stack.stack)
            if member.trial == trial
            for name, view in stack.memory(i).items()
        }

    def stored(self, trial: int) -> tuple[Genotype, dict[str, Tensor]]:
        """What a trained trial has become: its genotype as it is stored, and that one's tensors."""
        genotype = self.genotypes[trial]
        found: dict[str, tuple[int, dict[str, Tensor]]] = {}
        tensors: dict[str, Tensor] = {}
        for stack in self.stacks():
            if not isinstance(stack, StackedOp):
                if not (isinstance(stack, SharedStack) and FORMS[stack.form].becomes):
                    tensors |= dict(stack.tensors(trial))
                continue
            for i, member in enumerate(stack.stack):
                if member.trial == trial:
                    found[member.path] = stack.stored(i)
        ops: list[Op] = []
        for op in genotype.ops:
            sizes = [0] * genotype.n_layers
            for layer in (i for i, size in enumerate(op.sizes) if size):
                sizes[layer], own = found[op_path(layer, op)]
                path = op_path(layer, op.stored)
                if sizes[layer]:
                    tensors |= {f"{path}.{name}": tensor for name, tensor in own.items()}
            ops.append(replace(op.stored, sizes=tuple(sizes)))
        return replace(genotype, ops=tuple(ops)), tensors

    @torch.no_grad()
    def load(self, trial: int, tensors: Mapping[str, Tensor]) -> None:
        """Put the parameters of one trial in, by full name, without padding.

        Raises:
            ValueError: names or shapes are not those of this trial.
        """
        fill(self.tensors(trial), tensors)

    def count(self, trial: int) -> int:
        """The parameters of one trial's ops, counted in the tensors; integers are none."""
        own = self.tensors(trial).values()
        return sum(tensor.numel() for tensor in own if tensor.is_floating_point())

    def remove(self) -> None:
        """Take all ops out; weights, hooks and attention are as before."""
        for handle in self._handles:
            handle.remove()
        self._swapped.close()
        for attention in self._attentions.values():
            remove_ops(attention)
        for attention in self._by_block:
            project_positions_at_once(attention)
        delattr(self.model, OPS_ATTRIBUTE)
        if self.model.config._attn_implementation != self._kernel:  # noqa: SLF001
            self.model.set_attn_implementation(self._kernel)
        for parameter in self._frozen:
            parameter.requires_grad_(requires_grad=True)


def fill(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into views of the same names and shapes.

    Raises:
        ValueError: names or shapes differ.
    """
    if set(own) != set(tensors):
        raise ValueError(f"other parameters than expected: {sorted(set(own) ^ set(tensors))}")
    for name, view in own.items():
        if view.shape != tensors[name].shape:
            raise ValueError(f"{name}: shape {tuple(tensors[name].shape)}, not {tuple(view.shape)}")
        view.copy_(tensors[name])


def _check(genotypes: Sequence[Genotype], shape: ModelShape) -> None:
    """Refuse genotypes that do not fit the model, or not each other."""
    for genotype in genotypes:
        genotype.check_fits(shape)
        if len(genotypes) > 1 and any(op.write is Tap.EMBED for op in genotype.ops):
            raise ConfigError("a trial with a prompt has longer rows, and no company")
        if shape.n_encoder_layers and any(op.scale == "gated" for op in genotype.ops):
            raise ConfigError("gated ops are not for models with an encoder and a decoder")


def _key(group: Group) -> str:
    nth = f"n{group.nth}" if group.nth else ""
    words = [group.form, group.read, group.write, group.activation, group.factor]
    return "-".join(word for word in [*words, str(group.padded or ""), nth] if word)


def _is_behind(tap: Tap) -> bool:
    return ORDER[tap] >= ORDER[Tap.ATTN_NORM]


def _rank(group: Group) -> tuple[int, Group]:
    if group.form is Form.BIAS:
        return 1, group
    if group.form is Form.SCALE:
        return 2, group
    return (3 if group.read == group.write else 0), group


def _gates(module: nn.Module) -> Iterator[Gate]:
    return (gate for gate in module.modules() if isinstance(gate, Gate))


# Hooks are partials of plain functions: a closure would point at the old module after a deepcopy.


def _repeat_hook(
    n_trials: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let every trial have rows of its own from the first layer on."""

    def repeated(value: Any) -> Any:
        return torch.cat([value] * n_trials) if isinstance(value, Tensor) else value

    return tuple(map(repeated, args)), {name: repeated(value) for name, value in kwargs.items()}


def _in_hook(
    layer: LayerOps, tap: Tap, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (layer.pass_tap(tap, args[0], fresh=False), *args[1:]), kwargs
    state = layer.pass_tap(tap, kwargs["hidden_states"], fresh=False)
    return args, kwargs | {"hidden_states": state}


def _out_hook(layer: LayerOps, tap: Tap, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
    if layer.block is not None:
        return layer.pass_positions(tap, args[0], out)
    fresh = isinstance(module, KEEPS_NO_OUTPUT)
    if isinstance(out, tuple):
        return (layer.pass_tap(tap, out[0], fresh=fresh), *out[1:])
    return layer.pass_tap(tap, out, fresh=fresh)


def _parts_hook(
    layer: LayerOps, parts: Mapping[Tap, Part], _: nn.Module, __: tuple[Any, ...], out: Tensor
) -> Tensor:
    pieces = list(out.chunk(next(iter(parts.values())).of, -1))
    for tap, part in parts.items():
        # A copy: the bits of a product depend on strides, and those on the company.
        own = pieces[part.index].clone(memory_format=torch.contiguous_format)
        pieces[part.index] = layer.pass_tap(tap, own, fresh=True)
    return torch.cat(pieces, -1)


def _norm_hook(
    layer: LayerOps, tap: Tap, norm: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (layer.pass_norm(tap, norm, args[0]), *args[1:])


def _called_hook(
    calls: Mapping[str, int], model_type: str, _: nn.Module, __: tuple[Any, ...], ___: Any
) -> None:
    check_called(calls, model_type)


def _first_token_hook(
    layer: LayerOps | None, place: int, _: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    if layer is not None:
        layer.keep_first_token(place)
    return (args[0][:, place : place + 1], *args[1:])


def _tokens_hook(
    tokens: Tokens, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    given = inspect.signature(base.forward).bind_partial(*args, **kwargs).arguments
    read = given.get("input_ids")
    like = given["inputs_embeds"][..., 0] if read is None else read
    past, mask = given.get("past_key_values"), given.get("attention_mask")
    tokens.real = (torch.ones_like(like) if mask is None else mask).float()
    if past is not None and past.get_seq_length():
        tokens.real = None
