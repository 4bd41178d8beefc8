"""Putting the ops of one or several genotypes into a frozen model, by hooks, and taking them out.

No architecture is modelled here: an op acts by a pre-hook or a hook at the module whose input or
output its tap is. At one tap the order is fixed: parallel ops add first, then biases, then
scales, then sequential ops transform what came out.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from autopeft.errors import ConfigError
from autopeft.model import hooks
from autopeft.model.anatomy import Anatomy
from autopeft.model.attention import (
    HeadOps,
    calls_attention,
    keep_query,
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
from autopeft.model.layer_ops import LayerOps
from autopeft.model.prompts import lengthen
from autopeft.model.recompute import recomputed
from autopeft.ops.base import SharedStack, Stack, StackedOp
from autopeft.ops.build import build_layer, build_shared, op_path
from autopeft.ops.gate import Gate, Tokens
from autopeft.ops.multihead import MultiHead
from autopeft.ops.prefix import Prefix
from autopeft.space.forms import FORMS
from autopeft.space.genotype import Genotype, Op
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap

ATTENTIONS = {Tap.HEAD: "attention", Tap.CROSS_HEAD: "cross_attention"}
"""The modules whose heads are taps."""


class Injection:
    """Ops in a model. `remove` restores the model to the bit, as does whatever is raised here.

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
        apart: rows are those of every trial from outside, trial by trial, as `generate` needs them.
        checkpointing: what layers compute is not kept for the backward pass but computed again.

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
        apart: bool = False,
        checkpointing: bool = False,
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
            for tap, role in ATTENTIONS.items()
            if tap in shape.widths
            for i in shape.layers_with([tap])
        }
        self._flags = [(p, p.requires_grad) for p in model.parameters()]
        self._kernel = model.config._attn_implementation  # noqa: SLF001
        forks = tuple(0 if apart else anatomy.fork(genotype) for genotype in genotypes)
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
        self._stacks = [module for module in self.ops.modules() if isinstance(module, Stack)]
        self._swapped = ExitStack()
        self._by_block: list[nn.Module] = []
        model.requires_grad_(requires_grad=False)
        model.add_module(OPS_ATTRIBUTE, self.ops)
        with ExitStack() as undoing:
            undoing.callback(self.remove)
            if kernel is not None and anatomy.family.heads:
                use_attention(model, kernel)
            self._route(anatomy, apart=apart)
            if checkpointing:
                self._recompute(anatomy)
            self._tell_gates(anatomy.base, self.n_trials if apart or anatomy.apart else 1)
            if anatomy.family.disentangled:
                self._disentangle(anatomy)
            self._put_in(anatomy, first_token=first_token)
            if not apart:
                self._join_top(anatomy)
            undoing.pop_all()

    def _route(self, anatomy: Anatomy, *, apart: bool) -> None:
        """Lead the rows of trials through the layers."""
        if self.forks.first:
            self._skip(anatomy)
        if not apart:
            self._join(anatomy)
            self._share(anatomy)

    def _put_in(self, anatomy: Anatomy, *, first_token: bool) -> None:
        """Let the ops act, on one token alone where the head reads no other one."""
        top = self.forks.n_layers - 1
        last = self.layers.get(top)
        prompt = self.layers[0].prompt if 0 in self.layers else None
        cut = first_token and not (last and last.needs_all_tokens)
        one = self._cut(anatomy, last, prompt.padded if prompt else 0) if cut else None
        for i, layer in self.layers.items():
            self._hook(anatomy, i, layer)
        if one is not None:
            self._handles.append(anatomy.module(top, "q").register_forward_hook(one.spread))
        if prompt:
            self._handles += lengthen(anatomy, prompt, cut=cut)

    def _recompute(self, anatomy: Anatomy) -> None:
        """Let every layer that runs be computed again in the backward pass."""
        for i in range(self.forks.first, self.forks.n_layers):
            layer = anatomy.module(i, "layer")
            self._swapped.enter_context(recomputed(layer, self.layers.get(i)))
        for stack in self.stacks():
            if isinstance(stack, StackedOp):
                stack.again = True

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
        if anatomy.apart:
            if self.n_trials > 1:
                repeat = partial(hooks.repeat_hook, self.n_trials)
                handle = anatomy.base.register_forward_pre_hook(repeat, with_kwargs=True)
                self._handles.append(handle)
            return
        for layer in self.forks.joins:
            if layer < self.forks.n_layers and self._changes_at(layer):
                layouts = self.forks.layout(layer - 1), self.forks.layout(layer)
                hook = partial(join_hook, *layouts, self.states, layer)
                self._before(anatomy.module(layer, "layer"), hook)

    def _join_top(self, anatomy: Anatomy) -> None:
        """Let trials begin that have no op, behind ops that write what the last layer puts out."""
        top = self.forks.n_layers
        if top in self.forks.joins and self._changes_at(top):
            layouts = self.forks.layout(top - 1), self.forks.layout(top)
            hook = partial(join_top_hook, *layouts, self.states, top)
            self._handles.append(anatomy.last_running().register_forward_hook(hook))

    def _changes_at(self, layer: int) -> bool:
        """Whether rows change where trials fork; those of a trial alone are the trunk's."""
        alone = len(self.forks.layout(layer - 1)) == len(self.forks.layout(layer)) == 1
        return not alone or (self.forks.given and layer > 0)

    def _share(self, anatomy: Anatomy) -> None:
        """Project once what attention reads in the lowest layer of any trial: it is frozen there.

        All blocks have the same rows, unless an op writes what is read. Disentangled attention
        projects positions by the same modules.
        """
        lowest = min(self.forks.forks)
        layer = self.layers.get(lowest)
        if lowest not in anatomy.attending or anatomy.family.disentangled:
            return
        n_blocks = len(self.forks.layout(lowest))
        if n_blocks == 1 or (layer and Tap.ATTN_IN in layer.writes):
            return
        take = partial(hooks.one_block_hook, n_blocks)
        repeat = partial(hooks.every_block_hook, n_blocks)
        for module in {anatomy.module(lowest, role) for role in ("q", "k", "v")}:
            self._before(module, take)
            self._handles.append(module.register_forward_hook(repeat))

    def _cut(self, anatomy: Anatomy, last: LayerOps | None, place: int) -> hooks.OneQuery | None:
        """Let the last layer go on with the first token alone, where it can from its query on.

        Returns:
            How the query is computed then; what it puts out has to be spread behind all ops.
        """
        top = self.forks.n_layers - 1
        one_token = partial(hooks.one_token_hook, place)
        self._before(anatomy.module(top, "attn_norm"), one_token)
        if last:
            last.place = place
        if not calls_attention(self.model) or (last and last.needs_all_queries):
            return None
        keep_query(anatomy.module(top, "attention"), place)
        self._before(anatomy.module(top, "o"), one_token)
        one = hooks.OneQuery(place)
        self._before(anatomy.module(top, "q"), one.take)
        return one

    def _before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._handles.append(module.register_forward_pre_hook(hook))

    def _hook(self, anatomy: Anatomy, index: int, layer: LayerOps) -> None:
        for tap, written in layer.writes.items():
            for _, op in written:
                op.stand_at(anatomy.point(index, tap))
        self._handles += hooks.hook_taps(anatomy, index, layer)
        for tap, ops in layer.inside.items():
            inside = HeadOps(
                [op for op in ops if isinstance(op, Prefix)],
                [op for op in ops if isinstance(op, MultiHead)],
            )
            attention = self._attentions[index, tap]
            self._handles += hooks.hook_attention(attention, inside, self.model.config)

    def _tell_gates(self, base: nn.Module, n_blocks: int) -> None:
        """Let gates know which tokens are real, whoever calls the model with so many blocks."""
        tokens = Tokens()
        gates = [module for module in self.ops.modules() if isinstance(module, Gate)]
        for gate in gates:
            gate.tokens = tokens
        if gates:
            hook = partial(hooks.tokens_hook, tokens, n_blocks)
            self._handles.append(base.register_forward_pre_hook(hook, with_kwargs=True))

    def stacks(self) -> Iterator[Stack]:
        """Every stack of parameters once, those of the lowest layer first."""
        return iter(self._stacks)

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

    def remove(self) -> None:
        """Take all ops out, if they are there; all else is as before, but for a trained head."""
        if getattr(self.model, OPS_ATTRIBUTE, None) is not self.ops:
            return
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
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)


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
        if genotype.full:
            raise ConfigError("full fine-tuning trains the backbone itself, nothing is attached")
        if len(genotypes) > 1 and any(op.write is Tap.EMBED for op in genotype.ops):
            raise ConfigError("a trial with a prompt has longer rows, and no company")
