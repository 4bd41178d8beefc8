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
