"""Checkpoints that bring code of their own: it never runs, and what would have to is told."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config

_LONGEST = 80


def needs_code(error: Exception) -> bool:
    """Whether transformers stopped since it is not to run the code of a checkpoint."""
    return "trust_remote_code" in str(error)


def refusal(name: str, source: str, arguments: Mapping[str, Any]) -> str:
    """What a checkpoint wants to run, that it is not run, and what there is instead.

    Args:
        name: of the model, as the user gave it.
        source: Hub name or folder.
        arguments: the revision, if one was asked for.
    """
    config, _ = PreTrainedConfig.get_config_dict(source, **arguments)
    wanted = [*asked(config, "config.json")]
    wanted += asked(get_tokenizer_config(source, **arguments), "tokenizer_config.json")
    told = "; ".join(wanted) or "its files do not say which"
    return (
        f"model `{name}` needs code of its own: {told}. autopeft never runs code of a checkpoint "
        "(trust_remote_code is off and cannot be switched on); use a checkpoint of an architecture "
        "that transformers has itself: with a model_type that it knows, and without auto_map"
    )


def asked(config: Mapping[str, Any], file: str) -> Iterator[str]:
    """What the `auto_map` of a file wants to be run, in words.

    Args:
        config: content of the file; from a stranger, so of any shape.
        file: its name.
    """
    auto_map = config.get("auto_map")
    for key, value in sorted(auto_map.items()) if isinstance(auto_map, dict) else ():
        for reference in value if isinstance(value, list) else [value]:
            if not isinstance(reference, str):
                continue
            elsewhere, _, path = reference[:_LONGEST].rpartition("--")
            module, _, kind = path.rpartition(".")
            place = f" of {elsewhere}" if elsewhere else ""
            yield f"{file} has {key!s:.{_LONGEST}} in auto_map: {kind} in {module}.py{place}"
