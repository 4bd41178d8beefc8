"""Models that read images or sounds, too: their part for texts is a model of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from autopeft.model.checkpoint import CLASSES, HEADED, Writes

NAMES = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.text_model\.": "model.",
}
"""How checkpoints of a whole model call the weights of its part, and what the part calls them."""


@dataclass(frozen=True)
class Part:
    """The part for texts of a larger model, which is loaded alone.

    Attributes:
        whole: the model type of the larger one.
        kind: its own.
        settings: what its configuration has to be told that the larger one's knows.
    """

    whole: str
    kind: str
    settings: Mapping[str, Any]

    @property
    def note(self) -> str:
        """What the user has to be told."""
        return (
            f"this `{self.whole}` model reads more than texts; its part for texts, a "
            f"`{self.kind}`, is what is searched and exported"
        )

    @property
    def names(self) -> str:
        """Where its weights are looked for, to end a message with."""
        return (
            f"; those of a `{self.kind}` in a `{self.whole}` model are looked for at "
            "model.language_model, language_model and model.text_model"
        )

    def configuration(self, whole: PreTrainedConfig) -> PreTrainedConfig:
        """Its own, out of that of the larger model."""
        config: PreTrainedConfig = whole.text_config
        for name, value in self.settings.items():
            setattr(config, name, value)
        return config


def part_of(config: PreTrainedConfig, n_outputs: int, writes: Writes | None) -> Part | None:
    """The part that is loaded in place of a model; None where the model is loaded itself.

    Args:
        config: of the model.
        n_outputs: outputs of the head; of no meaning if it writes.
        writes: how it is to write; None for a head that reads a row.
    """
    part = getattr(config, "text_config", None)
    if part is None or type(part) not in CLASSES[writes]._model_mapping:  # noqa: SLF001
        return None
    settings: dict[str, Any] = {"tie_word_embeddings": config.tie_word_embeddings}
    if writes in HEADED:
        settings["num_labels"] = n_outputs
    return Part(config.model_type, part.model_type, settings)


def told_beside(n_outputs: int, writes: Writes | None, part: Part | None) -> dict[str, Any]:
    """What the class is told beside the checkpoint, and beside `config` where it loads a part.

    A head for other labels than the checkpoint's is a fresh head.

    Args:
        n_outputs: outputs of the head; of no meaning if the model writes.
        writes: how it writes; None for a head that reads a row.
        part: what is loaded in place of the checkpoint's model.
    """
    told: dict[str, Any] = {} if part is None else {"key_mapping": NAMES}
    if writes not in HEADED:
        return told
    if part is None:  # whose configuration says so itself
        told["num_labels"] = n_outputs
    return told | {"ignore_mismatched_sizes": True}


def forget_names(model: PreTrainedModel) -> None:
    """Let a part not remember what the larger model calls its weights, or it would save them so."""
    conversions = getattr(model, "_weight_conversions", None) or []
    model._weight_conversions = [  # noqa: SLF001
        one for one in conversions if not {*one.source_patterns} <= {*NAMES}
    ]
