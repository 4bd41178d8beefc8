"""The native format: `autopeft_config.json`, `adapter_model.safetensors` and the tokenizer."""

import importlib.metadata
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from autopeft.checks import path_of
from autopeft.errors import ConfigError, DataError
from autopeft.export.adapter import (
    Configuration,
    Description,
    head_tensors,
    keeps_keys,
    leave_room,
    mount,
    name_padding,
)
from autopeft.files import read_json, write_atomic
from autopeft.model.backbone import Backbone, load_backbone, to_dtype
from autopeft.model.checkpoint import UNREADABLE, load_tokenizer
from autopeft.model.head import OPS_ATTRIBUTE, head_modules
from autopeft.model.inject import Injection, fill
from autopeft.model.positions import begin_at_zero
from autopeft.ops.base import Stack
from autopeft.ops.entries import Entries
from autopeft.tasks.language import speak
from autopeft.training.tensors import Kind, read_kinds, tensors_of, write_tensors
from autopeft.training.writing import writing

CONFIG = "autopeft_config.json"
TENSORS = "adapter_model.safetensors"
TOKENIZER = "tokenizer_config.json"
_UNWELCOME = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".py", ".so")
"""Files that can hold code; nothing here reads them, and what brings one is not trusted."""
_OF_TRAINER = re.compile(
    r"(optimizer\.(pt|bin)|sc(heduler|aler)\.pt|rng_state(_\d+)?\.pth|training_args\.bin)"
)
"""What `transformers.Trainer` leaves beside a model that it trains further, for itself."""


_OF_WHOLE = {
    *("max_shard_size", "safe_serialization", "save_function", "token"),
    *("save_peft_format", "save_original_format"),
}
"""Arguments of `save_pretrained` that say nothing to one small file in one format."""


def write_native(folder: Path, description: Description, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter into a folder that is there; the tokenizer writes itself.

    Args:
        folder: where to.
        description: of the adapter.
        tensors: parameters of its ops and head, by full name.
    """
    sha256 = write_tensors(folder / TENSORS, tensors)
    version = importlib.metadata.version("autopeft")
    text = json.dumps(description.to_dict(sha256, version), indent=2, allow_nan=False)
    write_atomic(folder / CONFIG, text + "\n")


def load(
    folder: str | Path,
    *,
    backbone: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Load an exported adapter on its backbone.

    Args:
        folder: of the export.
        backbone: Hub name or folder to take the pretrained weights from, if not from where the
            adapter says; they have to be the same.
        device: where the model goes.
        dtype: of all weights; fp32 if None.

    Returns:
        The model, in evaluation mode, and the tokenizer. The model is the `transformers` class of
        the backbone: it generates, goes into a pipeline, moves, compiles as any other. Ops and head
        can be trained further. What `save_pretrained` writes is a folder for this function. Where a
        call gives a decoder no `position_ids`, those of each row begin at its first token.

    Raises:
        ConfigError: that is no path, no device that is there, or no type of weights.
        DataError: the folder is not an export or has been changed, or the backbone is another one.
    """
    folder = path_of(folder, "folder")
    check_place(device, dtype)
    description, sha256 = read_description(folder)
    base = base_of(description, backbone)
    tokenizer = tokenizer_of(folder, base, description)
    put_on(base, folder, description, sha256)
    model = base.model
    begin_at_zero(model)
    for _, module in head_modules(model, base.fresh):
        module.requires_grad_(requires_grad=True)
    model.save_pretrained = partial(_save_again, model, tokenizer, description, base.fresh)
    if (generation := description.outputs.generation) is not None:
        speak(tokenizer, generation)
        model.config.use_cache = keeps_keys(base, description.genotype)
        told = writing(model, tokenizer, generation, cached=model.config.use_cache)
        model.generation_config = GenerationConfig(**told)
    to_dtype(model, dtype or torch.float32)
    return model.to(device=device), tokenizer


def check_place(device: Any, dtype: Any = None) -> None:
    """Refuse a device that is not there, and weights that are no real numbers.

    Raises:
        ConfigError: naming what was given.
    """
    is_type = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    if dtype is not None and not is_type:
        raise ConfigError(f"dtype is {dtype!r}, allowed: such as torch.bfloat16")
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(f"device {device!r} cannot be used: {reason}") from None


def put_on(base: Backbone, folder: Path, description: Description, sha256: str) -> Injection:
    """Put an adapter on its backbone, whose head has the right size; see `read_description`.

    Raises:
        DataError: the tensor file is not what the description says.
    """
    path = folder / TENSORS
    data, kinds = read_kinds(path, sha256)
    injection, own = _mounted(folder, description, base, kinds)
    with torch.no_grad():
        fill(own, tensors_of(data, kinds, own, path))
    _check_entries(base.model, path)
    return injection


def read_description(folder: Path) -> tuple[Description, str]:
    """What the folder says of its adapter, and the SHA-256 of its tensor file.

    Raises:
        DataError: it is not an export.
    """
    if not (folder / CONFIG).is_file():
        raise DataError(
            f"{folder}: not an export: it has no {CONFIG}, which `autopeft export` writes, and the "
            "`save` of what `autopeft.attach` returns"
        )
    suspects = sorted(p.name for p in folder.rglob("*") if p.suffix.lower() in _UNWELCOME)
    if unwelcome := [name for name in suspects if not _OF_TRAINER.fullmatch(name)]:
        raise DataError(f"{folder}: {unwelcome[0]} can hold code; no export of autopeft has such")
    try:
        return Description.from_dict(read_json(folder / CONFIG), str(folder / CONFIG))
    except ConfigError as error:  # in a file that was written for us it is the data that is wrong
        raise DataError(str(error)) from None


def base_of(description: Description, name: str | Path | None = None) -> Backbone:
    """The backbone of an adapter, with a head of the right size.

    Raises:
        DataError: it cannot be loaded, or has other weights, or another configuration, than what
            was trained on.
    """
    source = str(name or description.backbone)
    if name is None and description.revision is not None:
        source = f"{source}@{description.revision}"
    outputs = description.outputs
    base = load_backbone(
        source, outputs.n_outputs, writes=outputs.loaded_as, scheme=description.scheme
    )
    if base.fingerprint != description.backbone_sha256:
        raise DataError(
            f"{source} has other weights (sha256 {base.fingerprint}) than those that the adapter "
            f"was trained on ({description.backbone_sha256})"
        )
    told = description.configuration
    if told is not None and told.differs(Configuration.of(base)):
        raise DataError(
            f"{source} has another configuration (sha256 {base.configuration}) than when the "
            f"adapter was trained on it ({told.sha256}): the same weights compute something else"
        )
    return base


def _mounted(
    folder: Path, description: Description, base: Backbone, kinds: Mapping[str, Kind]
) -> tuple[Injection, dict[str, Tensor]]:
    """The ops and views of the parameters to fill, once their number is what the file has."""
    head = head_tensors(base.model, base.fresh)
    numbers = (kind for name, kind in kinds.items() if name not in head and kind.real)
    found = sum(math.prod(kind.shape) for kind in numbers)
    try:
        description.genotype.check_fits(base.shape)
        # Before anything is made of a size that a stranger chose.
        if found != (expected := description.genotype.count_params(base.shape)):
            raise DataError(
                f"{folder / TENSORS}: its ops have {found:,} parameters, those of its genotype "
                f"{expected:,}"
            )
        return mount(base.model, base.fresh, description)
    except ConfigError as error:
        raise DataError(f"{folder / CONFIG}: {error}") from None


def _check_entries(model: PreTrainedModel, path: Path) -> None:
    """Refuse sparse deltas that point beside their table, or twice at one place of it."""
    for op in getattr(model, OPS_ATTRIBUTE).modules():
        if isinstance(op, Entries):
            places = op.own("entries", 0).flatten()
            rows, columns = op.table_shape
            inside = bool(((places >= 0) & (places < rows * columns)).all())
            if not inside or len(set(places.tolist())) < len(places):
                raise DataError(
                    f"{path}: {op.stack[0].path}.entries are not {len(places)} different places "
                    f"of {rows * columns:,}"
                )


def tokenizer_of(folder: Path, base: Backbone, description: Description) -> Any:
    """The one in the folder, or else that of the backbone, whose model then pads as it does.

    Args:
        folder: of the export.
        base: without ops.
        description: of the export.

    Raises:
        DataError: the one in the folder cannot be loaded.
    """
    tokenizer = base.tokenizer
    if (folder / TOKENIZER).is_file():
        try:
            tokenizer = load_tokenizer(folder, description.outputs.loaded_as)
        except UNREADABLE as error:
            raise DataError(f"{folder}: its tokenizer cannot be loaded: {error}") from None
    leave_room(tokenizer, base, description.genotype)
    name_padding(base, tokenizer)
    return tokenizer


def _save_again(
    model: PreTrainedModel,
    tokenizer: Any,
    description: Description,
    fresh: Sequence[str],
    save_directory: str | Path,
    is_main_process: bool = True,  # noqa: FBT001, FBT002 - as transformers has it
    state_dict: Mapping[str, Tensor] | None = None,
    **others: Any,
) -> None:
    """`save_pretrained` of a loaded model: the folder that it came from, as it is now.

    Args:
        model: that was loaded.
        tokenizer: that came with it.
        description: of the adapter.
        fresh: parameters that were not in the checkpoint of its backbone.
        save_directory: where to.
        is_main_process: the other ones write nothing.
        state_dict: what to save in the place of what the model has now, by the model's own names.
        others: arguments of transformers, with which it would write a whole model.

    Raises:
        ConfigError: one of them asks for what is not done here.
        DataError: the state lacks a tensor, or has it in another shape.
    """
    if asked := sorted(name for name, value in others.items() if value and name not in _OF_WHOLE):
        raise ConfigError(
            f"save_pretrained of an adapter of autopeft has no {', '.join(asked)}; "
            "`model.push_to_hub(name)` puts it on the Hub"
        )
    if not is_main_process:
        return
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_native(folder, description, _tensors_now(model, fresh, state_dict))
    if not (folder / TOKENIZER).exists():  # or somebody wrote one of their own
        tokenizer.save_pretrained(folder)


def _tensors_now(
    model: PreTrainedModel, fresh: Sequence[str], state: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Those of ops and head by full name, as a model has them, or as a state of it says."""
    stacks = [(at, module) for at, module in model.named_modules() if isinstance(module, Stack)]
    ops = {path: own for _, stack in stacks for path, own in stack.tensors(0)}
    head = head_tensors(model, fresh)
    if state is None:
        return ops | head
    # Entries that were chosen are no part of a state, and are not trained.
    names = {
        path: f"{at}.{path.rpartition('.')[2]}"
        for at, stack in stacks
        for path, own in stack.tensors(0)
        if own.is_floating_point()
    }
    if lacking := sorted({*names.values(), *head} - state.keys()):
        raise DataError(f"the state_dict to save lacks {', '.join(lacking[:3])}")
    # A stack of one trial, behind whose rows is padding.
    given = {path: state[name][0, : len(ops[path])] for path, name in names.items()}
    given |= {name: state[name] for name in head}
    now = ops | head
    for path, tensor in given.items():
        if tensor.shape != now[path].shape:
            raise DataError(
                f"the state_dict to save has {path} of shape {list(tensor.shape)}, not "
                f"{list(now[path].shape)}"
            )
    return ops | given
