"""A checkpoint: where its files are, what reads them, and which ones are refused."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from autopeft.errors import DataError
from autopeft.model.families import has_decoder

Writes = Literal["seq2seq", "causal", "tags"]
"""How a model writes: an answer to what it reads, what comes next, or a tag for every word."""

CLASSES = {
    None: AutoModelForSequenceClassification,
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
    "tags": AutoModelForTokenClassification,
}
"""What loads a model, by how it writes."""

HEADED: tuple[Writes | None, ...] = (None, "tags")
"""What a head of its own is for."""

UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError),
    *(SafetensorError, StrictDataclassError, UnpicklingError),
)
"""What transformers and what is below it raise for files that are missing or damaged."""

_LOADING = threading.RLock()


def source_of(name: str) -> tuple[str, dict[str, str]]:
    """What transformers loads from, and what it is told beside: a revision, if the name has one."""
    if Path(name).is_dir():
        return name, {}
    source, _, revision = name.partition("@")
    return source, {"revision": revision} if revision else {}


def commit_of(name: str) -> str | None:
    """The commit on the Hub of what has just been loaded, None for a folder.

    Transformers keeps none in a configuration any more, but its files are where that names one.
    """
    source, arguments = source_of(name)
    if Path(source).is_dir():
        return None
    file = try_to_load_from_cache(source, "config.json", **arguments)
    return Path(file).parent.name if isinstance(file, str) else None


def check_full(name: str, config: PretrainedConfig) -> None:
    """Refuse a checkpoint that is in few bits itself, in a way that may let no gradient pass.

    Raises:
        DataError: it is.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise DataError(
            f"the checkpoint of model `{name}` is quantized already; give the one that it was made "
            "of, and `quantize: nf4` or `quantize: int8` where its weights are to be in few bits"
        )


def check_tags(name: str, model: PreTrainedModel) -> None:
    """Refuse an encoder-decoder, of which transformers would take the encoder alone.

    Raises:
        DataError: it is one.
    """
    if has_decoder(model.config.model_type):
        raise DataError(f"model `{name}` is an encoder-decoder, which has no tags for words")


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers say nothing and show no bars for a while, one thread after the other.

    While it loads, transformers has changed the process: `PreTrainedModel.tie_weights` does
    nothing, and torch's default dtype is another one. Two threads that load at once could leave it
    so, and every encoder-decoder that is loaded later with an untied, random table of words.
    """
    with _LOADING:
        verbosity = transformers_logging.get_verbosity()
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            if shown:
                transformers_logging.enable_progress_bar()


def load_tokenizer(source: str | Path, writes: Writes | None, **arguments: Any) -> Any:
    """A tokenizer that pads as its model has to be given rows.

    Answers of a decoder go on with what was read, so nothing may stand behind that. All else is
    read as it was trained on, from the first place on.

    Args:
        source: where it is.
        writes: how the model does.
        arguments: what transformers is told beside.
    """
    side = "left" if writes == "causal" else "right"
    tokenizer = AutoTokenizer.from_pretrained(
        source, padding_side=side, trust_remote_code=False, **arguments
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def cause(error: Exception) -> str:
    """Why a model cannot be read, in a line."""
    if isinstance(error.__cause__, HFValidationError):
        return "there is no such folder, and no model on the Hub can have this name"
    if isinstance(error, UnpicklingError):  # torch tells how to run what is in it
        return "its weights are a pickle that is damaged, or of more than tensors"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
