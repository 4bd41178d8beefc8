"""A model of which only the configuration is there: its shape, and what a step would keep."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import PreTrainedModel

from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.answers import check_start
from autopeft.model.backbone import backbone_prefix
from autopeft.model.checkpoint import (
    CLASSES,
    HEADED,
    UNREADABLE,
    Writes,
    cause,
    check_tags,
    quiet,
    source_of,
)
from autopeft.model.experts import has_experts
from autopeft.model.foreign import own_config
from autopeft.model.part import part_of
from autopeft.space.shape import ModelShape


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights.

    Attributes:
        model: on meta tensors, in fp32.
        shape: what a search space needs to know of it.
        kind: its family.
        longest_row: tokens that it reads.
        n_positions: tokens that it has embeddings of positions for; None if no table limits them.
        notes: what the user has to be told.
    """

    model: PreTrainedModel
    shape: ModelShape
    kind: str
    longest_row: int
    n_positions: int | None
    notes: tuple[str, ...]

    @property
    def n_words(self) -> int:
        """Of the vocabulary."""
        return int(self.model.get_input_embeddings().weight.shape[0])


def outline(name: str, n_outputs: int, writes: Writes | None = None) -> Outline:
    """Build a model from its configuration, without memory for its weights.

    Args:
        name: a Hub name, with `@revision` if wanted, or a folder with `config.json`.
        n_outputs: outputs of the head; of no meaning if it writes.
        writes: how it writes; None for a model whose head reads a row.

    Raises:
        DataError: there is no configuration, its family is not known, or it does not say how an
            answer begins.
    """
    source, arguments = source_of(name)
    try:
        own = {"num_labels": n_outputs} if writes in HEADED else {}
        with quiet(), torch.device("meta"):
            config = own_config(name, source, arguments, **own)
            part = part_of(config, n_outputs, writes)
            if part is not None:
                config = part.configuration(config)
            model: PreTrainedModel = CLASSES[writes].from_config(
                config, dtype=torch.float32, trust_remote_code=False, attn_implementation="eager"
            )
    except UNREADABLE as error:
        raise DataError(f"model `{name}` cannot be outlined: {cause(error)}") from error
    if writes == "tags":
        check_tags(name, model)
    if writes not in HEADED:
        check_start(name, model)
    prefix = backbone_prefix(model)
    head = tuple(key for key, _ in model.named_parameters() if not key.startswith(prefix))
    anatomy = Anatomy(model, head)
    notes = (*((part.note,) if part else ()), *anatomy.notes)
    model.eval().requires_grad_(requires_grad=False)
    return Outline(
        model,
        anatomy.shape(),
        model.config.model_type,
        anatomy.longest_row(),
        anatomy.n_positions,
        notes,
    )


def kept_bytes(model: PreTrainedModel, n_rows: int, n_read: int, n_written: int) -> int:
    """What the backbone keeps for a backward pass through all of its layers, in fp32.

    The forward pass is run on meta tensors, so it is that of the model and takes no time.

    Args:
        model: on meta tensors.
        n_rows: of the batch.
        n_read: tokens of each row.
        n_written: tokens that a decoder beside an encoder reads.
    """
    width = model.get_input_embeddings().weight.shape[1]
    if has_experts(model):  # on meta tensors their products are known in bf16 alone
        model = copy.deepcopy(model).to(torch.bfloat16)

    def embedded(n_tokens: int) -> Tensor:
        size = (n_rows, n_tokens, width)
        return torch.empty(size, dtype=model.dtype, device="meta", requires_grad=True)

    # A mask of four dimensions is taken as it is; another one would be looked at.
    mask = torch.zeros(n_rows, 1, 1, n_read, device="meta")
    inputs = {"inputs_embeds": embedded(n_read), "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_inputs_embeds"] = embedded(n_written)
    weights = {_place(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        if (place := _place(tensor)) not in weights:
            halved = tensor.dtype == torch.bfloat16
            kept[place] = tensor.untyped_storage().nbytes() * (1 + halved)
            alive.append(tensor)  # or its place could be taken by another tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        model.base_model(**inputs, use_cache=False)
    return sum(kept.values())


def _place(tensor: Tensor) -> int:
    place: int = StorageWeakRef(tensor.untyped_storage()).cdata  # type: ignore[no-untyped-call]
    return place
