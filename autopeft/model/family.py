"""What a model family is: the names of its modules, and how its models compute."""

from dataclasses import dataclass
from typing import Literal

Pool = Literal["first", "last", "mean", "late", "eos"]
"""The tokens that a task head reads; `eos` is the last end of a sentence, or the last token."""


@dataclass(frozen=True)
class Layers:
    """Module names in the layers of a model, relative to a layer where not said otherwise.

    A projection that is one of several parts of a module's output is written with its place,
    `attn.c_attn 0/3`. Parts are equal, but a query among them is as wide as what `o` reads.

    Attributes:
        at: the list of layers, relative to the base model.
        attention: the module that is handed to the attention function, or what there is instead.
        q: query projection; likewise k, v; None where there is something instead of attention.
        o: output projection.
        up: first FFN projection; None where the FFN is known as a whole, a mixture of experts.
        down: last FFN projection; likewise.
        attn_norm: LayerNorm after attention and its residual; None where norms come first.
        ffn_norm: LayerNorm after the FFN and its residual; likewise.
        gate: gate projection of a gated FFN, the one that is activated.
        attn_input: the module whose output q, k and v read, if that is not simply the input of
            `attention`.
        ffn_input: the module whose output the FFN reads, if that is not simply the input of `up`;
            a gated FFN needs it or `ffn`, since `gate` reads the same and comes first.
        ffn: the FFN as a whole, whose input it reads if no module's output is named, and whose
            output is what it puts out if there is no `down`.
        cross_attention: of a decoder, the module for attention to the encoder; its projections are
            `cross_q`, `cross_k`, `cross_v` and `cross_o`.
        cross_norm: LayerNorm after it and its residual; None where norms come first.
    """

    at: str
    attention: str
    q: str | None
    k: str | None
    v: str | None
    o: str
    up: str | None = None
    down: str | None = None
    attn_norm: str | None = None
    ffn_norm: str | None = None
    gate: str | None = None
    attn_input: str | None = None
    ffn_input: str | None = None
    ffn: str | None = None
    cross_attention: str | None = None
    cross_q: str | None = None
    cross_k: str | None = None
    cross_v: str | None = None
    cross_o: str | None = None
    cross_norm: str | None = None


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        layers: the names in its layers.
        embeddings: what makes the first layer's input out of tokens, relative to the base model.
        decoder: of an encoder-decoder, the names in the layers that come after `layers`. Its trials
            have rows of their own from the first layer on.
        mixers: of a hybrid, the names in those of its layers that have no `layers.attention` but
            linear attention, a convolution or a state space.
        positions: the position embeddings, likewise; None if no table limits the length of a row.
        projection: what takes embeddings to the width of the layers, if a model has it; likewise.
        first_token: the task head reads the first token and no other one, and norms come last, so
            that behind the last attention nothing else has to be computed.
        pool: the tokens that the task head reads; `config.classifier_pooling` can say otherwise.
        head: the modules of the task head in the order of computation, relative to the model, if
            its own forward pass does not look for those tokens in as many rows as trials have.
        heads: attention is called by name through transformers' registry, so that prefixes can act.
        apart: trials have rows of their own from the first layer on, as those of encoder-decoders,
            since masks, or what is added to the scores of attention, are of as many rows.
        prompts: the base model takes embeddings for tokens, so that a row can begin with others.
        disentangled: query and key projections also project positions, as in DeBERTa.
        without: a module that some models of the family have, relative to the base model, and that
            makes them unfit; and where it is and why, for people.
        activation: what the configuration calls the activation of the FFN.
        ffn_width: what it calls the width of the FFN, by all names that it has.
    """

    layers: Layers
    embeddings: str
    decoder: Layers | None = None
    mixers: Layers | None = None
    positions: str | None = None
    projection: str | None = None
    first_token: bool = False
    pool: Pool = "first"
    head: tuple[str, ...] = ()
    heads: bool = True
    apart: bool = False
    prompts: bool = False
    disentangled: bool = False
    without: tuple[str, str] | None = None
    activation: str = "hidden_act"
    ffn_width: tuple[str, ...] = ("intermediate_size",)
