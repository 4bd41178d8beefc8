"""A trained genotype in the format of peft: LoRA, DoRA, VeRA, IA3 or LN tuning, and biases.

peft itself writes the files, so they are what its installed version writes.
"""

import copy
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.errors import DataError
from autopeft.export.adapter import head_tensors
from autopeft.export.peft_parts import Parts, Update, approximated_parts, exact_parts, names_of
from autopeft.export.winner import Winner
from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.model.quantized_linear import be_quiet
from autopeft.ops.point import Point
from autopeft.ops.vera import Vera
from autopeft.space.taps import Tap

_NAME = "default"
_TASK_TYPES = {
    "seq2seq": "SEQ_2_SEQ_LM",
    "causal": "CAUSAL_LM",
    "token_classification": "TOKEN_CLS",
}


@torch.no_grad()
def write_peft(winner: Winner, folder: Path, as_lora: int | None = None) -> PreTrainedModel:
    """Write the adapter; what is written is returned, too.

    Args:
        winner: to export.
        folder: is there.
        as_lora: replace every change of a weight by its best approximation of this rank.

    Raises:
        ConfigError: peft cannot hold it.
        DataError: peft is not installed.
    """
    peft = _library()
    model = winner.model_with_head()
    plain = copy.deepcopy(model)
    injection = Injection(model, [winner.genotype], [winner.record.seed], "eager")
    try:
        injection.load(0, winner.ops)
        parts = (
            approximated_parts(injection, plain, as_lora)
            if as_lora
            else exact_parts(injection, plain)
        )
    finally:
        injection.remove()
    kind = _TASK_TYPES.get(winner.outputs.kind, "SEQ_CLS")
    config = _config(peft, parts, plain, _saved_whole(winner, parts), kind)
    config.base_model_name_or_path = winner.description.backbone
    config.revision = winner.description.revision
    with warnings.catch_warnings():
        # What it says of LayerNorms whatever the configuration, and what transformers says of it.
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        wrapped = peft.get_peft_model(plain, config)
    _fill(wrapped.base_model.model, parts)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    written: PreTrainedModel = wrapped.eval()
    return written


def _library() -> Any:
    be_quiet()  # peft imports bitsandbytes where it is installed
    try:
        import peft  # noqa: PLC0415
    except ImportError:
        raise DataError("--to peft needs peft: pip install 'autopeft[peft]'") from None
    return peft


def _saved_whole(winner: Winner, parts: Parts) -> list[str]:
    """Modules that are saved as a whole: the task head, and what is trained of LayerNorms."""
    prefix = f"{winner.backbone.model.base_model_prefix}."
    owners = [
        name.rpartition(".")[0]
        for name in head_tensors(winner.backbone.model, winner.backbone.fresh)
    ]
    tops = [name if name.startswith(prefix) else name.partition(".")[0] for name in owners]
    return [*dict.fromkeys(tops), *dict.fromkeys(parts.norms)]


def _config(
    peft: Any, parts: Parts, model: PreTrainedModel, whole: Sequence[str], task_type: str
) -> Any:
    """The configuration of the one type that holds the parts."""
    more = {"task_type": task_type, "modules_to_save": list(whole) or None}
    if parts.scales or parts.input_scales:
        return peft.IA3Config(
            target_modules=[*parts.scales, *parts.input_scales],
            feedforward_modules=list(parts.input_scales),
            fan_in_fan_out=_is_conv(model),
            **more,
        )
    if parts.kroneckers:
        widest = max(width for _, b in parts.kroneckers.values() for width in b.shape)
        (size,) = {len(a) for a, _ in parts.kroneckers.values()}
        return peft.LoKrConfig(
            # From half the widest on, peft keeps the second factor whole; alpha / r is the scale.
            r=widest,
            alpha=widest,
            decompose_factor=size,
            target_modules=list(parts.kroneckers),
            **more,
        )
    vera = parts.vera
    kinds = {(op.stack[0].size, op.d_read, op.d_write) for op in vera.values()}
    if set(vera) == set(parts.updates) and len(kinds) == 1 and not parts.biased:
        return peft.VeraConfig(
            r=next(iter(kinds))[0], target_modules=list(vera), save_projection=True, **more
        )
    if parts.norms and not parts.updates and not parts.biased:
        heads = [name for name in whole if name not in parts.norms]
        norms = list(dict.fromkeys(parts.norms))
        more = {"task_type": task_type, "modules_to_save": heads or None}
        return peft.LNTuningConfig(target_modules=norms, **more)
    if not parts.updates:
        # peft has no type for biases, or a head, alone: a LoRA that is zero carries them.
        weight = Anatomy(model).point(0, Tap.ATTN_OUT)
        d_out, d_in = weight.weight.shape
        zeros = weight.weight.new_zeros
        parts.updates[names_of(model)[weight.module]] = Update(zeros(1, d_in), zeros(1, d_out))
    anchored = {f"^{re.escape(name)}$": len(one.down) for name, one in parts.updates.items()}
    return peft.LoraConfig(
        r=max(anchored.values()),
        lora_alpha=max(anchored.values()),
        target_modules=list(parts.updates),
        rank_pattern=anchored,
        alpha_pattern=anchored,
        use_dora=any(one.magnitude is not None for one in parts.updates.values()),
        bias="all" if parts.biased else "none",
        fan_in_fan_out=_is_conv(model),
        **more,
    )


def _is_conv(model: PreTrainedModel) -> bool:
    return isinstance(Anatomy(model).point(0, Tap.ATTN_OUT).module, Conv1D)


def _fill(model: PreTrainedModel, parts: Parts) -> None:
    """Put the trained numbers where peft has put its fresh ones."""
    for name, vector in [*parts.scales.items(), *parts.input_scales.items()]:
        ia3: Any = model.get_submodule(name)
        held = ia3.ia3_l[_NAME]
        held.copy_(vector.view_as(held))
    for name, (a, b) in parts.kroneckers.items():
        lokr: Any = model.get_submodule(name)
        lokr.lokr_w1[_NAME].copy_(a)
        lokr.lokr_w2[_NAME].copy_(b)
    for name, update in parts.updates.items():
        module: Any = model.get_submodule(name)
        if hasattr(module, "vera_lambda_b"):
            _fill_vera(module, parts.vera[name])
            continue
        module.lora_A[_NAME].weight.copy_(update.down)
        module.lora_B[_NAME].weight.copy_(update.up.T)
        if len(module.lora_magnitude_vector):
            _fill_magnitude(module, update)


def _fill_vera(module: Any, op: Vera) -> None:
    size = op.stack[0].size
    module.vera_A[_NAME].copy_(op.get_buffer("down")[0, :size])
    module.vera_B[_NAME].copy_(op.get_buffer("up")[0, :size].T)
    module.vera_lambda_d[_NAME].copy_(op.own("lambda_d", 0)[:, 0])
    module.vera_lambda_b[_NAME].copy_(op.own("b", 0)[0] * op.factor_of(0)[0])


def _fill_magnitude(module: Any, update: Update) -> None:
    """A LoRA beside a DoRA is a DoRA that keeps the norm which its update leads to."""
    weight = Point(module.get_base_layer(), "out").weight
    norm = torch.linalg.vector_norm(weight + update.up.T @ update.down, dim=1)
    held = module.lora_magnitude_vector[_NAME].weight
    held.copy_((norm if update.magnitude is None else update.magnitude).view_as(held))
