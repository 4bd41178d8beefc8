"""What a search space needs to know of a model: its depth, the width at each tap, its size."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from autopeft.space.taps import Tap


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a backbone that decide what fits into it.

    Attributes:
        n_layers: transformer layers.
        widths: hidden width at each tap the model has; a missing tap is one the model lacks.
            The width of `head` is that of the keys, `n_kv_heads * d_head`.
        backbone_params: parameters of the pretrained model without its task head.
    """

    n_layers: int
    widths: Mapping[Tap, int]
    backbone_params: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", MappingProxyType(dict(self.widths)))


def encoder_shape(n_layers: int, d_model: int, d_ff: int, backbone_params: int) -> ModelShape:
    """The shape of an encoder with one width everywhere but inside its ungated FFN."""
    widths = dict.fromkeys(Tap, d_model) | {Tap.FFN_UP: d_ff, Tap.FFN_MID: d_ff}
    del widths[Tap.FFN_GATE]
    return ModelShape(n_layers, widths, backbone_params)


BERT_BASE = encoder_shape(12, 768, 3072, 109_482_240)
"""BERT-base, uncased: what is counted on where no model is given."""
