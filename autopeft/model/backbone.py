"""Loading a pretrained model with a task head, and knowing exactly what was loaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.space.shape import ModelShape


@dataclass(frozen=True)
class Backbone:
    """A frozen pretrained model with a task head.

    Attributes:
        model: in evaluation mode, so the frozen part has no dropout.
        tokenizer: of the same checkpoint.
        shape: what a search space needs to know of it.
        fresh: names of parameters that were not in the checkpoint.
        name: Hub name or folder.
        revision: commit on the Hub, None for a folder.
        fingerprint: SHA-256 over the pretrained weights.
    """

    model: PreTrainedModel
    tokenizer: Any
    shape: ModelShape
    fresh: tuple[str, ...]
    name: str
    revision: str | None
    fingerprint: str


def load_backbone(name: str, n_outputs: int, device: str = "cpu") -> Backbone:
    """Load a model for classification (or regression with one output) in fp32.

    Args:
        name: a Hub name, with `@revision` if wanted, or a folder.
        n_outputs: outputs of the head.
        device: where the model goes.

    Raises:
        DataError: it cannot be loaded, or its family is not known.
    """
    source, _, revision = name.partition("@") if not Path(name).is_dir() else (name, "", "")
    arguments = {"revision": revision} if revision else {}
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        # torch.manual_seed would change the caller's stream; fresh heads are re-seeded per trial.
        with torch.random.fork_rng(devices=[]):
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                source,
                num_labels=n_outputs,
                output_loading_info=True,
                dtype=torch.float32,
                trust_remote_code=False,
                **arguments,
            )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **arguments)
    except (OSError, ValueError, KeyError, ImportError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"model `{name}` cannot be loaded: {cause}") from error
    fresh = tuple(sorted(loading["missing_keys"]))
    anatomy = Anatomy(model, fresh)
    model.eval().requires_grad_(requires_grad=False).to(device)
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        shape=anatomy.shape(),
        fresh=fresh,
        name=name,
        revision=getattr(model.config, "_commit_hash", None),
        fingerprint=fingerprint(model, fresh),
    )


def fingerprint(model: PreTrainedModel, fresh: tuple[str, ...] = ()) -> str:
    """SHA-256 over names, shapes and bytes of the pretrained weights."""
    digest = hashlib.sha256()
    prefix = f"{model.base_model_prefix}."
    for name, parameter in sorted(model.named_parameters()):
        if name.startswith(prefix) and name not in fresh:
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
