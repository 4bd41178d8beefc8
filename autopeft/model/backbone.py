"""Loading a pretrained model with a task head, and knowing exactly what was loaded."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.activations import GELUTanh, NewGELUActivation

from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy, tags_words
from autopeft.model.answers import check_start, forget_settings, own_tokens
from autopeft.model.brought import Brought, Meaning, adopt
from autopeft.model.check import check
from autopeft.model.checkpoint import (
    CLASSES,
    HEADED,
    UNREADABLE,
    Writes,
    cause,
    check_full,
    check_tags,
    commit_of,
    load_tokenizer,
    quiet,
    source_of,
)
from autopeft.model.computing import Precision, Scheme
from autopeft.model.families import FAMILIES
from autopeft.model.foreign import needs_code, own_config, refusal
from autopeft.model.part import Part, forget_names, part_of, told_beside
from autopeft.model.quantized import check_gradients, quantize
from autopeft.model.quantized_linear import library, quantized
from autopeft.model.words import check_words
from autopeft.space.shape import ModelShape

DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

OF_NO_STATE = {
    *("_name_or_path", "_commit_hash", "transformers_version", "architectures"),
    *("dtype", "torch_dtype", "use_cache", "id2label", "label2id", "problem_type"),
}
"""Keys of a configuration that do not decide what the layers compute."""


@dataclass(frozen=True)
class Backbone:
    """A frozen pretrained model, with a task head or one that writes.

    Attributes:
        model: in evaluation mode, so the frozen part has no dropout.
        tokenizer: of the same checkpoint; its `model_max_length` is what the model can read, and
            it pads as `load_tokenizer` says.
        shape: what a search space needs to know of it.
        fresh: names of parameters that were not in the checkpoint, or there for other outputs.
        name: Hub name or folder.
        revision: commit on the Hub, None for a folder.
        fingerprint: SHA-256 over the pretrained weights, as loaded.
        configuration: SHA-256 over what the checkpoint says of its computing, and of the tokens
            that begin and end what it writes.
        precision: of the weights in memory, and so of all products with them.
        scheme: how the weight matrices of the layers are kept in few bits; None if they are not.
        notes: what the user has to be told.
        brought: the head of the checkpoint, as trials begin with it; None if it brought none, or
            nobody said what its outputs are for.
        part: what it is of the model that the checkpoint is of; None if it is all of it.
    """

    model: PreTrainedModel
    tokenizer: Any
    shape: ModelShape
    fresh: tuple[str, ...]
    name: str
    revision: str | None
    fingerprint: str
    configuration: str = ""
    precision: Precision = "fp32"
    scheme: Scheme | None = None
    notes: tuple[str, ...] = ()
    brought: Brought | None = None
    part: Part | None = None

    @property
    def finds_padding(self) -> bool:
        """Its head looks for the last token of a row by the number of those that fill rows up."""
        has_head = self.model.get_output_embeddings() is None and not tags_words(self.model)
        return has_head and Anatomy(self.model, self.fresh).pool == "last"


def load_backbone(
    name: str,
    n_outputs: int,
    device: str = "cpu",
    writes: Writes | None = None,
    scheme: Scheme | None = None,
    meaning: Meaning | None = None,
) -> Backbone:
    """Load a model for classification (or regression with one output), or one that writes, in fp32.

    Args:
        name: a Hub name, with `@revision` if wanted, or a folder.
        n_outputs: outputs of the head; of no meaning if it writes.
        device: where the model goes.
        writes: how it writes; None for a model whose head reads a row.
        scheme: how the weight matrices of its layers are kept in few bits; None for as they are.
        meaning: what the outputs of the head are for; None leaves one that the checkpoint brings as
            it is.

    Raises:
        DataError: it cannot be loaded, its family is not known, it needs code of its own, or the
            checkpoint lacks a part of the backbone, or is in few bits itself.
    """
    if scheme is not None:
        library(scheme)  # or refuse before anything large is read
    with quiet():
        model, loading, tokenizer, part = _loaded(name, n_outputs, writes)
    configuration = _hash_of(model)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # What transformers makes of missing files: every word would be the unknown one.
        raise DataError(f"model `{name}` has no tokenizer: its vocabulary is empty")
    if writes == "tags":
        check_tags(name, model)
    fresh = _fresh(name, model, loading, part)
    brought = None if meaning is None else adopt(model, fresh, meaning)
    fresh = tuple(sorted((*fresh, *(brought.fresh if brought else ()))))
    anatomy = Anatomy(model, fresh)
    tokenizer.model_max_length = min(tokenizer.model_max_length, anatomy.longest_row())
    model.config.use_cache = False  # decoders would keep keys and values of every batch
    model.eval().requires_grad_(requires_grad=False)
    if model.config.model_type not in FAMILIES:
        check(model, fresh, pools=writes is None)
    notes = (*((part.note,) if part else ()), *anatomy.notes)
    if brought and brought.note:
        notes = (*notes, brought.note)
    if writes not in HEADED:
        check_start(name, model)
        check_words(model)
        notes = (*notes, *forget_settings(model))
    if scheme is not None:
        notes = (*notes, quantize(model, scheme, fresh))
    _fuse_activations(model)
    model.to(device)
    check_gradients(model)
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        shape=anatomy.shape(),
        fresh=fresh,
        name=name,
        revision=commit_of(name),
        fingerprint=fingerprint(model, fresh),
        configuration=configuration,
        scheme=scheme,
        notes=notes,
        brought=brought,
        part=part,
    )


def _loaded(
    name: str, n_outputs: int, writes: Writes | None
) -> tuple[PreTrainedModel, Mapping[str, Any], Any, Part | None]:
    """The model in fp32, what transformers tells of its loading, the tokenizer and the part."""
    source, arguments = source_of(name)
    try:
        config = own_config(name, source, arguments)
        check_full(name, config)
        part = part_of(config, n_outputs, writes)
        # torch.manual_seed would change the caller's stream; fresh heads are re-seeded per trial.
        with torch.random.fork_rng(devices=[]):
            own = {} if part is None else {"config": part.configuration(config)}
            own |= told_beside(n_outputs, writes, part)
            model, loading = CLASSES[writes].from_pretrained(
                source,
                output_loading_info=True,
                dtype=torch.float32,
                trust_remote_code=False,
                **own,
                **arguments,
            )
        if part is not None:
            forget_names(model)
        tokenizer = load_tokenizer(source, writes, **arguments)
    except UNREADABLE as error:
        if needs_code(error):
            raise DataError(refusal(name, source, arguments)) from error
        raise DataError(f"model `{name}` cannot be loaded: {cause(error)}") from error
    return model, loading, tokenizer, part


def _hash_of(model: PreTrainedModel) -> str:
    told = {key: v for key, v in model.config.to_dict().items() if key not in OF_NO_STATE}
    told |= own_tokens(model)
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _fuse_activations(model: PreTrainedModel) -> None:
    """Let one kernel compute GELU's tanh form, which GPT-2 and T5 1.1 spell out in eight.

    Values differ by rounding alone; of the training time of GPT-2 it is a quarter.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, GELUTanh())


def cast(backbone: Backbone, precision: Precision) -> Backbone:
    """The same backbone with weights, hence activations, in another precision.

    Ops and heads have parameters in fp32 whatever the backbone computes in.

    Args:
        backbone: as loaded; it is not changed, and returned itself if nothing is to be done.
        precision: what to compute in.
    """
    if precision == backbone.precision:
        return backbone
    model = copy.deepcopy(backbone.model)
    to_dtype(model, DTYPES[precision])
    return replace(backbone, model=model, precision=precision)


def to_dtype(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast all weights, but not the frequencies of rotary positions and what experts are chosen by.

    Rounded to bf16, frequencies turn token 512 by up to .2, and tokens go to other experts;
    `from_pretrained(dtype=...)` leaves them in fp32, too.
    """
    kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    exact = [
        (module, name, tensor, tensor.data)
        for path, module in model.named_modules()
        for named in (module.named_parameters, module.named_buffers)
        for name, tensor in named(recurse=False)
        if tensor.dtype is torch.float32
        and (name.endswith("inv_freq") or any(f".{k}." in f".{path}.{name}." for k in kept))
    ]
    model.to(dtype)
    for module, name, tensor, numbers in exact:
        tensor.data = numbers
        setattr(module, name, tensor)


def _fresh(
    name: str, model: PreTrainedModel, loading: Mapping[str, Any], part: Part | None
) -> tuple[str, ...]:
    """Parameters that the checkpoint did not bring, refused where they are not of the head."""
    absent = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    prefix = backbone_prefix(model)
    lost = sorted(
        key for key in absent if key.startswith(prefix) and not key.startswith(f"{prefix}pooler.")
    )
    if lost:
        raise DataError(
            f"model `{name}`: {len(lost)} parameters of the backbone are not in the checkpoint, or "
            f"not in the shape that config.json asks for: {', '.join(lost[:3])}"
            f"{', ...' if lost[3:] else ''}{part.names if part else ''}"
        )
    return tuple(sorted(absent))


def not_loaded(model: PreTrainedModel) -> tuple[str, ...]:
    """Parameters that `from_pretrained` has not found in a checkpoint, as it marks the others.

    None of a model that it has not made.
    """
    found = {n: getattr(p, "_is_hf_initialized", False) for n, p in model.named_parameters()}
    return tuple(name for name, loaded in found.items() if not loaded and any(found.values()))


def backbone_prefix(model: PreTrainedModel) -> str:
    """What the names of pretrained parameters begin with: anything, of a language model."""
    return "" if model.get_output_embeddings() is not None else f"{model.base_model_prefix}."


def fingerprint(model: PreTrainedModel, fresh: tuple[str, ...] = ()) -> str:
    """SHA-256 over names, shapes and bytes of the pretrained weights, as they are kept."""
    digest = hashlib.sha256()
    prefix = backbone_prefix(model)
    bits = {
        f"{name}.{part}": module.get_buffer(part)
        for name, module in quantized(model)
        for part in ("codes", "scales")
    }
    for name, parameter in sorted([*model.named_parameters(), *bits.items()]):
        if name.startswith(prefix) and name not in fresh:
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
