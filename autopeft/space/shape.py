"""What a search space needs to know of a model: its depth, the width at each tap, its size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from autopeft.space.forms import FORMS, PROMPTS, Activation, Form
from autopeft.space.taps import CROSS, LINEAR_INPUT, Tap

NO_GATES = "gated ops are not for models with an encoder and a decoder"
ANSWERED = "a gate is a mean over whole rows, which hold the answers here"
OF_POSITIONS = "what projects `q` and `k` also projects positions, which no gate belongs to"


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a backbone that decide what fits into it.

    Attributes:
        n_layers: transformer layers.
        widths: hidden width at each tap the model has; a missing tap is one the model lacks.
            The width of `head` is that of the keys, `n_kv_heads * d_head`.
        backbone_params: parameters of the pretrained model without its task head.
        ffn_activation: of an FFN with biases and without a gate, if a bottleneck can have it too.
        biased: taps that are the output of a module with a bias.
        n_encoder_layers: of an encoder-decoder, whose layers come first; 0 for other models.
        shared_inputs: taps whose weight matrices read something else, too.
        masks_count_rows: attention adds masks that have a row for each row of the batch.
        room: tokens that a study's longest row leaves of the positions; None if they are endless,
            or if nobody knows.
        answered: rows of the study hold the answers that are learnt, as a decoder's do.
        only_in: of a hybrid, for taps that not every layer has, the layers that have them.
    """

    n_layers: int
    widths: Mapping[Tap, int]
    backbone_params: int
    ffn_activation: Activation | None = None
    biased: frozenset[Tap] = frozenset()
    n_encoder_layers: int = 0
    shared_inputs: frozenset[Tap] = frozenset()
    masks_count_rows: bool = False
    room: int | None = None
    answered: bool = False
    only_in: Mapping[Tap, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", MappingProxyType(dict(self.widths)))
        object.__setattr__(self, "only_in", MappingProxyType(dict(self.only_in)))

    @property
    def apart(self) -> bool:
        """Whether trials have rows of their own from the first layer on."""
        return self.masks_count_rows or self.n_encoder_layers > 0

    @property
    def matrices(self) -> Mapping[Tap, Tap]:
        """For the output of each weight matrix of a layer, the tap that is its input."""
        return {
            out: read
            for out, read in LINEAR_INPUT.items()
            if out in self.widths and read in self.widths
        }

    def layers_with(self, taps: Iterable[Tap]) -> Sequence[int]:
        """The layers that have all of these taps, of those that the model has."""
        wanted = set(taps)
        first = self.n_encoder_layers if CROSS & wanted else 0
        layers = range(first, 1 if Tap.EMBED in wanted else self.n_layers)
        some = [self.only_in[tap] for tap in wanted if tap in self.only_in]
        return [i for i in layers if all(i in own for own in some)] if some else layers

    def ungated(self, writes: Iterable[Tap]) -> str | None:
        """Why ops that write at these taps can have no gate; None if they can."""
        if self.n_encoder_layers:
            return NO_GATES
        if self.answered:
            return ANSWERED
        if {Tap.Q, Tap.K} & set(writes) and Tap.ATTN_IN in self.shared_inputs:
            return OF_POSITIONS
        return None

    def misfit(self, form: Form, size: int, read: Tap, write: Tap) -> str | None:
        """Why an op cannot be of a size between two taps of the model; None if it can."""
        rule = FORMS[form].fits
        if not rule.test(size, self.widths[read], self.widths[write]):
            return rule.words
        if form in PROMPTS and self.room is not None and size > self.room:
            return (
                f"the longest rows leave {self.room} of the model's positions; "
                "a lower max_length leaves more"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "n_layers": self.n_layers,
            "widths": {str(tap): width for tap, width in self.widths.items()},
            "backbone_params": self.backbone_params,
            "ffn_activation": None if self.ffn_activation is None else str(self.ffn_activation),
            "biased": [str(tap) for tap in Tap if tap in self.biased],
            "shared_inputs": [str(tap) for tap in Tap if tap in self.shared_inputs],
            "n_encoder_layers": self.n_encoder_layers,
            **({"masks_count_rows": True} if self.masks_count_rows else {}),
            **({} if self.room is None else {"room": self.room}),
            **({"answered": True} if self.answered else {}),
            **({"only_in": self._only_in()} if self.only_in else {}),
        }

    def _only_in(self) -> dict[str, list[int]]:
        return {str(tap): list(self.only_in[tap]) for tap in Tap if tap in self.only_in}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, of a mapping that may have more keys.

        Raises:
            KeyError, TypeError, ValueError: a key is missing or has another kind of value.
        """
        activation, room = data["ffn_activation"], data.get("room")
        return cls(
            n_layers=int(data["n_layers"]),
            widths={Tap(tap): int(width) for tap, width in data["widths"].items()},
            backbone_params=int(data["backbone_params"]),
            ffn_activation=None if activation is None else Activation(activation),
            biased=frozenset(Tap(tap) for tap in data["biased"]),
            shared_inputs=frozenset(Tap(tap) for tap in data.get("shared_inputs", ())),
            n_encoder_layers=int(data.get("n_encoder_layers", 0)),
            masks_count_rows=bool(data.get("masks_count_rows")),
            room=None if room is None else int(room),
            answered=bool(data.get("answered")),
            only_in={
                Tap(tap): tuple(map(int, layers)) for tap, layers in data.get("only_in", {}).items()
            },
        )


def spans(layers: Iterable[int]) -> str:
    """`layers 0-2,5`, of layers in ascending order, counted from 0 at the bottom."""
    runs: list[list[int]] = []
    for i in layers:
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    one = len(runs) == len(runs[-1]) == 1
    told = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"layer{'' if one else 's'} {told}"


def encoder_shape(n_layers: int, d_model: int, d_ff: int, backbone_params: int) -> ModelShape:
    """The shape of an encoder with one width everywhere but inside its ungated FFN."""
    taps = set(Tap) - CROSS - {Tap.FFN_GATE}
    widths = {tap: d_model for tap in Tap if tap in taps} | {Tap.FFN_UP: d_ff, Tap.FFN_MID: d_ff}
    biased = frozenset({*LINEAR_INPUT, Tap.ATTN_NORM, Tap.FFN_NORM} & taps)
    return ModelShape(n_layers, widths, backbone_params, Activation.GELU, biased)


BERT_BASE = encoder_shape(12, 768, 3072, 109_482_240)
"""BERT-base, uncased: what is counted on where no model is given."""
