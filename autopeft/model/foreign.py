"""Checkpoints that bring code of their own, or another model: neither is loaded, but told."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import find_adapter_config_file

from autopeft.errors import DataError

_LONGEST = 80


def own_config(
    name: str, source: str, arguments: Mapping[str, Any], **values: Any
) -> PreTrainedConfig:
    """The configuration of a checkpoint that is a model, and that nothing else is loaded for.

    Args:
        name: of the model, as the user gave it.
        source: Hub name or folder.
        arguments: the revision, if one was asked for.
        values: in the place of those of the checkpoint.

    Raises:
        DataError: it has an adapter of peft beside it, whose file names the model that transformers
            would load, or wants attention to be computed by code of the Hub.
    """
    if find_adapter_config_file(source, **arguments) is not None:
        raise DataError(
            f"model `{name}` holds an adapter of peft (adapter_config.json), which may be of "
            "another model; give the model that it was trained on, or a folder of both merged "
            "(`merge_and_unload` of peft) without that file"
        )
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **values, **arguments)
    for part in (config, *(getattr(config, key, None) for key in config.sub_configs)):
        attention = getattr(part, "_attn_implementation", None)
        if attention is not None and not (isinstance(attention, str) and "/" not in attention):
            raise DataError(
                f"model `{name}` has attn_implementation {str(attention)[:_LONGEST]!r} in its "
                "config.json, and autopeft never runs code of the Hub; take it out of the file"
            )
    return config


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
