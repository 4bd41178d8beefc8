"""Seeing that a model whose anatomy was read computes with ops what it computes alone."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from autopeft.errors import ConfigError, DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.head import pooled_logits
from autopeft.model.inject import Injection
from autopeft.space.forms import Form, misplaced
from autopeft.space.genotype import Genotype, Op

CLOSE = 1e-4


@torch.no_grad()
def check(model: PreTrainedModel, fresh: tuple[str, ...], *, pools: bool = True) -> None:
    """Run a tiny batch with two trials, with biases that are zero at every tap and with none.

    Args:
        model: in evaluation mode.
        fresh: names of parameters that were not in the checkpoint.
        pools: it has a head with one output for each row.

    Raises:
        DataError: another outcome than the model's own, or none.
    """
    anatomy = Anatomy(model, fresh)
    batch = _rows(int(model.config.vocab_size))
    rows = [{name: t[i : i + 1, : 4 - i] for name, t in batch.items()} for i in range(2)]
    try:
        states = model.base_model(**batch, output_hidden_states=True)
        plain = states.last_hidden_state
        fork = len(anatomy.layers) - 1
        everywhere, on_top, nothing = (_biases(anatomy, first) for first in (0, fork, fork + 1))
        together = _run(model, [everywhere, nothing, on_top], batch)
        given = _run(model, [on_top], batch, {fork: states.hidden_states[fork]} if fork else {})
        pairs = [*zip(together, [plain] * 3, strict=True), (given[0], plain)]
        if pools:
            # Some look for padding by its number, so each row is one of its own.
            logits = torch.cat([model(**row).logits for row in rows])
            own = _logits(model, anatomy, [everywhere, nothing], batch, rows)
            pairs.append((own, logits.repeat(2, 1)))
        wrong = max(float((one - other).abs().max()) for one, other in pairs)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, ConfigError) as error:
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


def _biases(anatomy: Anatomy, first: int) -> Genotype:
    depth = len(anatomy.layers)
    sizes = tuple(int(layer >= first) for layer in range(depth))
    taps = [tap for tap in anatomy.shape().widths if misplaced(Form.BIAS, tap, tap) is None]
    ops = tuple(Op(Form.BIAS, tap, tap, sizes) for tap in taps) if any(sizes) else ()
    return Genotype(depth, ops, learning_rate=1.0)


def _logits(
    model: PreTrainedModel,
    anatomy: Anatomy,
    genotypes: list[Genotype],
    batch: dict[str, Tensor],
    rows: list[dict[str, Tensor]],
) -> Tensor:
    """The outputs of every trial for every row."""
    injection = Injection(model, genotypes, range(len(genotypes)), "eager")
    head = anatomy.family.head
    try:
        if head:
            return pooled_logits(model, head, anatomy.pool, batch, model.config.pad_token_id)
        return torch.stack([model(**row).logits for row in rows], 1).flatten(0, 1)
    finally:
        injection.remove()


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
