"""Seeing that a model whose anatomy was read computes with ops what it computes alone."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from autopeft.errors import ConfigError, DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.head import pooled_logits
from autopeft.model.inject import Injection
from autopeft.ops.point import Side
from autopeft.space.forms import Form, misplaced
from autopeft.space.genotype import Genotype, Op
from autopeft.space.taps import LINEAR_INPUT, Tap

CLOSE = 1e-4

_NOT_RUNNING = (
    *(RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, ConfigError),
)
"""What a model raises that is not built as was read."""


@torch.no_grad()
def check(model: PreTrainedModel, fresh: tuple[str, ...], *, pools: bool = True) -> None:
    """Run a tiny batch with several trials, with ops that do nothing at every tap and with none.

    Weight matrices have to read what is seen at the taps that are said to be their inputs.

    Args:
        model: in evaluation mode.
        fresh: names of parameters that were not in the checkpoint.
        pools: it has a head with one output for each row.

    Raises:
        DataError: another outcome than the model's own, or none; or other inputs.
    """
    anatomy = Anatomy(model, fresh)
    batch = _rows(int(model.config.vocab_size))
    try:
        if misread := _misread(anatomy, lambda: model.base_model(**batch)):
            raise DataError(
                f"models of type `{model.config.model_type}` are not known, and in what was read "
                f"of this one {', '.join(misread)} are not made of what was taken for their inputs"
            )
        states = model.base_model(**batch, output_hidden_states=True)
        plain = states.last_hidden_state
        fork = len(anatomy.layers) - 1
        everywhere, on_top, nothing = (_idle(anatomy, first) for first in (0, fork, fork + 1))
        together = _run(model, [everywhere, nothing, on_top], batch)
        given = _run(model, [on_top], batch, {fork: states.hidden_states[fork]} if fork else {})
        pairs = [*zip(together, [plain] * 3, strict=True), (given[0], plain)]
        if pools:
            pairs += _logits(model, anatomy, [everywhere, nothing], batch)
        wrong = max(float((one - other).abs().max()) for one, other in pairs)
    except _NOT_RUNNING as error:
        raise DataError(
            f"models of type `{model.config.model_type}` are not known, and what was read of this "
            f"one does not run with several trials: {str(error).splitlines()[0]}"
        ) from error
    if not wrong < CLOSE:
        raise DataError(
            f"models of type `{model.config.model_type}` are not known, and with what was read of "
            f"this one ops that do nothing change its outcome by {wrong:.2g}"
        )


def _rows(vocabulary: int) -> dict[str, Tensor]:
    """Two short rows, the second one padded."""
    ids = torch.arange(vocabulary - 8, vocabulary).clamp(min=0).view(2, 4)
    mask = torch.ones(2, 4, dtype=torch.int64)
    mask[1, 3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _idle(anatomy: Anatomy, first: int) -> Genotype:
    """Biases at every tap and low-rank ops at every weight matrix, which do nothing as yet."""
    depth = len(anatomy.layers)
    shape = anatomy.shape()

    def sizes(*taps: Tap) -> tuple[int, ...]:
        return tuple(int(i >= first and i in shape.layers_with(taps)) for i in range(depth))

    taps = [tap for tap in shape.widths if misplaced(Form.BIAS, tap, tap) is None]
    ops = [Op(Form.BIAS, tap, tap, sizes(tap)) for tap in taps]
    ops += [Op(Form.LOWRANK, read, tap, sizes(read, tap)) for tap, read in shape.matrices.items()]
    return Genotype(depth, tuple(op for op in ops if any(op.sizes)), learning_rate=1.0)


def _logits(
    model: PreTrainedModel, anatomy: Anatomy, genotypes: list[Genotype], batch: dict[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The outputs of every trial for every row, beside the model's own."""
    # Some look for padding by its number, so each row is one of its own, or none has any.
    rows = [{name: t[i : i + 1, : 4 - i] for name, t in batch.items()} for i in range(2)]
    full = {name: t[:, :3] for name, t in batch.items()}
    head = anatomy.family.head
    alone, plain = torch.cat([model(**row).logits for row in rows]), model(**full).logits
    injection = Injection(model, genotypes, range(len(genotypes)), "eager")
    try:
        if head:
            pad = model.config.pad_token_id
            return [(pooled_logits(model, head, anatomy.pool, batch, pad), alone.repeat(2, 1))]
        one_by_one = torch.stack([model(**row).logits for row in rows], 1).flatten(0, 1)
        return [(one_by_one, alone.repeat(2, 1)), (model(**full).logits, plain.repeat(2, 1))]
    finally:
        injection.remove()


def _misread(anatomy: Anatomy, run: Callable[[], object]) -> list[Tap]:
    """Taps behind weight matrices that read something else than is seen at the tap before them."""
    shape = anatomy.shape()
    wrong: list[Tap] = []
    with ExitStack() as stack:
        for layer in range(len(anatomy.layers)):
            seen: dict[Tap, Tensor] = {}
            every = shape.matrices.items()
            matrices = {out: read for out, read in every if layer in shape.layers_with((out, read))}
            for tap in {*matrices.values()}:
                module, side, _ = anatomy.point(layer, tap)
                stack.callback(_watch(module, side, partial(seen.__setitem__, tap)).remove)
            for tap in matrices:
                module, _, _ = anatomy.point(layer, tap)
                stack.callback(_watch(module, "in", partial(_compare, wrong, seen, tap)).remove)
        run()
    return sorted({*wrong})


def _watch(module: nn.Module, side: Side, look: Callable[[Tensor], None]) -> RemovableHandle:
    if side == "in":
        return module.register_forward_pre_hook(
            lambda _, args, kwargs: look(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    return module.register_forward_hook(
        lambda _, __, out: look(out[0] if isinstance(out, tuple) else out)
    )


def _compare(wrong: list[Tap], seen: Mapping[Tap, Tensor], tap: Tap, read: Tensor) -> None:
    before = seen.get(LINEAR_INPUT[tap])
    if before is None or not torch.equal(before, read):
        wrong.append(tap)


def _run(
    model: PreTrainedModel,
    genotypes: list[Genotype],
    batch: dict[str, Tensor],
    given: dict[int, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """The last hidden states of each trial."""
    seeds = range(len(genotypes))
    injection = Injection(model, genotypes, seeds, "eager", given=bool(given))
    injection.states.update(given or {})
    try:
        return model.base_model(**batch).last_hidden_state.chunk(len(genotypes))  # type: ignore[no-any-return]
    finally:
        injection.remove()
