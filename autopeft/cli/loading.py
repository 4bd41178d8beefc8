"""`autopeft load`: an exported adapter, checked, and what it says of some texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopeft.export.adapter import Description
from autopeft.export.native import load, read_description
from autopeft.ops.base import Stack
from autopeft.space.words import FROZEN, HEAD, describe
from autopeft.tasks.encode import IGNORED, collate
from autopeft.tasks.language import Language
from autopeft.tasks.splits import Split
from autopeft.tasks.tokens import TokenClassification
from autopeft.training.writing import written

UNREAD = "?"
"""The tag of a word that no token begins in, or that is cut off."""
UNLABELLED = "no label"
HALF = 0.5
"""Share above which a label is there."""


def load_and_tell(folder: Path, backbone: str | None, texts: Sequence[str]) -> dict[str, Any]:
    """Load an adapter and let it predict.

    Args:
        folder: of a native export.
        backbone: to take the pretrained weights from, if not from where the adapter says.
        texts: to predict; a pair has a tab between its two.

    Raises:
        DataError: the folder is not an export, or the backbone is another one.
    """
    description, _ = read_description(folder)
    model, tokenizer = load(folder, backbone=backbone)
    tell = _TELL.get(description.outputs.kind, _predicted)
    stacks = (module for module in model.modules() if isinstance(module, Stack))
    own = (tensor for stack in stacks for _, tensor in stack.tensors(0))  # without the padding
    return {
        "folder": str(folder),
        "backbone": description.backbone,
        "revision": description.revision,
        "summary": describe(description.genotype, FROZEN if description.outputs.writes else HEAD),
        "parameters": sum(tensor.numel() for tensor in own if tensor.is_floating_point()),
        "outputs": ", ".join(description.outputs.labels) or description.outputs.kind,
        "writes": description.outputs.loaded_as is not None,
        "genotype": description.genotype.to_dict(),
        "texts": tell(model, tokenizer, description, texts) if texts else [],
    }


def _predicted(
    model: Any, tokenizer: Any, description: Description, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """The likeliest class of each text, or its number."""
    outputs, said = description.outputs, []
    for text in texts:
        logits = _read(model, tokenizer, description, text)
        if outputs.labels:
            share, label = logits.softmax(-1).max(-1)
            says, value = f"{outputs.labels[int(label)]} ({float(share):.3f})", float(share)
        else:
            value = float(logits[0]) * outputs.std + outputs.mean
            says = f"{value:.4g}"
        said.append({"text": text, "says": says, "value": value})
    return said


def _labelled(
    model: Any, tokenizer: Any, description: Description, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """The labels that each text has, and how likely it has each one."""
    said = []
    for text in texts:
        shares = _read(model, tokenizer, description, text).sigmoid().tolist()
        values = dict(zip(description.outputs.labels, shares, strict=True))
        there = [f"{name} ({share:.3f})" for name, share in values.items() if share > HALF]
        said.append({"text": text, "says": ", ".join(there) or UNLABELLED, "values": values})
    return said


@torch.no_grad()
def _read(model: Any, tokenizer: Any, description: Description, text: str) -> Tensor:
    """The outputs for a text, or the two of a pair, in fp32."""
    cut = {"truncation": True, "max_length": description.max_length}
    batch = tokenizer(*text.split("\t", 1), return_tensors="pt", **cut)
    logits: Tensor = model(**batch).logits[0].float()
    return logits


def _tagged(
    model: Any, tokenizer: Any, description: Description, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """The likeliest tag of each word; words are what spaces part."""
    labels = description.outputs.labels
    words = tuple(tuple(text.split()) for text in texts)
    asked = Split("asked", words, tuple((0,) * len(row) for row in words))
    task = TokenClassification(labels, "accuracy")
    rows = task.encode(asked, tokenizer, description.max_length)
    batch = collate(rows, range(len(texts)), tokenizer.pad_token_id or 0)
    if batch.places is None:
        raise TypeError("these rows have no words")
    with torch.no_grad():
        logits = model(**batch.inputs).logits.flatten(0, 1)[batch.places.states]
    (found,) = rows.by_row(logits.argmax(-1).numpy()[None], range(len(texts)))
    tags = [[labels[tag] if tag != IGNORED else UNREAD for tag in row] for row in found]
    return [
        {"text": text, "says": " ".join(map("/".join, zip(words[row], tags[row], strict=True)))}
        for row, text in enumerate(texts)
    ]


def _written(
    model: Any, tokenizer: Any, description: Description, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """What is written for each text, or to a message of it."""
    outputs = description.outputs
    if outputs.writes is None or outputs.generation is None:
        raise TypeError("the answers of this adapter are no texts")
    task = Language(outputs.writes, "likelihood", outputs.generation, chat=outputs.chat)
    read = [
        (json.dumps([{"role": "user", "content": text}]),)
        if outputs.chat
        else tuple(text.split("\t", 1))
        for text in texts
    ]
    asked = Split("asked", tuple(read), tuple(texts))
    rows = task.encode(asked, tokenizer, description.max_length)
    (answers,) = written(
        model,
        tokenizer,
        rows,
        range(len(texts)),
        n_trials=1,
        generation=outputs.generation,
        cached=not description.genotype.needs_whole_rows,
    )
    return [{"text": t, "says": a} for t, a in zip(texts, answers, strict=True)]


_TELL = {
    "multi_label_classification": _labelled,
    "token_classification": _tagged,
    "seq2seq": _written,
    "causal": _written,
}
