"""The table of model families. A new family is a row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Pool = Literal["first", "last", "mean", "eos"]
"""The tokens that a task head reads; `eos` is the last end of a sentence, or the last token."""


@dataclass(frozen=True)
class Layers:
    """Module names in the layers of a model, relative to a layer where not said otherwise.

    A projection that is one of several equal parts of a module's output is written with its place,
    `attn.c_attn 0/3`.

    Attributes:
        at: the list of layers, relative to the base model.
        attention: the module that is handed to the attention function.
        q: query projection; likewise k, v; o: output projection.
        up: first FFN projection.
        down: last FFN projection.
        attn_norm: LayerNorm after attention and its residual; None where norms come first.
        ffn_norm: LayerNorm after the FFN and its residual; likewise.
        gate: gate projection of a gated FFN, the one that is activated.
        attn_input: the module whose output q, k and v read, if that is not simply the input of
            `attention`.
        ffn_input: the module whose output the FFN reads, if that is not simply the input of `up`;
            a gated FFN needs it or `ffn`, since `gate` reads the same and comes first.
        ffn: the module whose input a gated FFN reads, if no module's output is named.
        cross_attention: of a decoder, the module for attention to the encoder; its projections are
            `cross_q`, `cross_k`, `cross_v` and `cross_o`.
        cross_norm: LayerNorm after it and its residual; None where norms come first.
    """

    at: str
    attention: str
    q: str
    k: str
    v: str
    o: str
    up: str
    down: str
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
        positions: the position embeddings, likewise; None if no table limits the length of a row.
        projection: what takes embeddings to the width of the layers, if a model has it; likewise.
        first_token: the task head reads the first token and no other one, and norms come last, so
            that behind the last attention nothing else has to be computed.
        pool: the tokens that the task head reads; `config.classifier_pooling` can say otherwise.
        head: the modules of the task head in the order of computation, relative to the model, if
            its own forward pass does not look for those tokens in as many rows as trials have.
        heads: attention is called by name through transformers' registry, so that prefixes can act.
        prompts: the base model takes embeddings for tokens, so that a row can begin with others.
        disentangled: query and key projections also project positions, as in DeBERTa.
        without: a module that some models of the family have, relative to the base model, and that
            makes them unfit.
        activation: what the configuration calls the activation of the FFN.
        ffn_width: what it calls the width of the FFN, by all names that it has.
    """

    layers: Layers
    embeddings: str
    decoder: Layers | None = None
    positions: str | None = None
    projection: str | None = None
    first_token: bool = False
    pool: Pool = "first"
    head: tuple[str, ...] = ()
    heads: bool = True
    prompts: bool = False
    disentangled: bool = False
    without: str | None = None
    activation: str = "hidden_act"
    ffn_width: tuple[str, ...] = ("intermediate_size",)


_BERT = Family(
    embeddings="embeddings",
    positions="embeddings.position_embeddings",
    first_token=True,
    prompts=True,
    layers=Layers(
        at="encoder.layer",
        attention="attention.self",
        q="attention.self.query",
        k="attention.self.key",
        v="attention.self.value",
        o="attention.output.dense",
        up="intermediate.dense",
        down="output.dense",
        attn_norm="attention.output.LayerNorm",
        ffn_norm="output.LayerNorm",
    ),
)

_DEBERTA = Family(
    embeddings="embeddings",
    first_token=True,
    heads=False,
    disentangled=True,
    without="encoder.conv",
    layers=replace(
        _BERT.layers,
        q="attention.self.query_proj",
        k="attention.self.key_proj",
        v="attention.self.value_proj",
    ),
)

_DISTILBERT = Family(
    embeddings="embeddings",
    positions="embeddings.position_embeddings",
    first_token=True,
    activation="activation",
    ffn_width=("hidden_dim",),
    prompts=True,
    layers=Layers(
        at="transformer.layer",
        attention="attention",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        o="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        attn_norm="sa_layer_norm",
        ffn_norm="output_layer_norm",
    ),
)

_MODERNBERT = Family(
    embeddings="embeddings",
    head=("head", "classifier"),
    prompts=True,
    layers=Layers(
        at="layers",
        attention="attn",
        q="attn.Wqkv 0/3",
        k="attn.Wqkv 1/3",
        v="attn.Wqkv 2/3",
        o="attn.Wo",
        gate="mlp.Wi 0/2",
        up="mlp.Wi 1/2",
        down="mlp.Wo",
    ),
)

_GPT2 = Family(
    embeddings="wte",
    positions="wpe",
    pool="last",
    head=("score",),
    activation="activation_function",
    ffn_width=("n_inner",),
    prompts=True,
    layers=Layers(
        at="h",
        attention="attn",
        q="attn.c_attn 0/3",
        k="attn.c_attn 1/3",
        v="attn.c_attn 2/3",
        o="attn.c_proj",
        up="mlp.c_fc",
        down="mlp.c_proj",
    ),
)

_LLAMA = Family(
    embeddings="embed_tokens",
    pool="last",
    head=("score",),
    prompts=True,
    layers=Layers(
        at="layers",
        attention="self_attn",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        o="self_attn.o_proj",
        up="mlp.up_proj",
        down="mlp.down_proj",
        gate="mlp.gate_proj",
        attn_input="input_layernorm",
        ffn_input="post_attention_layernorm",
    ),
)

_GEMMA3 = replace(_LLAMA, layers=replace(_LLAMA.layers, ffn_input="pre_feedforward_layernorm"))

_GLM = replace(
    _LLAMA,
    layers=replace(_LLAMA.layers, gate="mlp.gate_up_proj 0/2", up="mlp.gate_up_proj 1/2"),
)

_PHI3 = replace(
    _GLM,
    layers=replace(
        _GLM.layers,
        q="self_attn.qkv_proj 0/3",
        k="self_attn.qkv_proj 1/3",
        v="self_attn.qkv_proj 2/3",
    ),
)

_BART_ENCODER = Layers(
    at="encoder.layers",
    attention="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.out_proj",
    up="fc1",
    down="fc2",
    attn_norm="self_attn_layer_norm",
    ffn_norm="final_layer_norm",
)

_BART = Family(
    embeddings="shared",
    pool="eos",
    head=("classification_head",),
    activation="activation_function",
    ffn_width=("encoder_ffn_dim", "decoder_ffn_dim"),
    layers=_BART_ENCODER,
    decoder=replace(
        _BART_ENCODER,
        at="decoder.layers",
        cross_attention="encoder_attn",
        cross_q="encoder_attn.q_proj",
        cross_k="encoder_attn.k_proj",
        cross_v="encoder_attn.v_proj",
        cross_o="encoder_attn.out_proj",
        cross_norm="encoder_attn_layer_norm",
    ),
)


def _norms_first(layers: Layers) -> Layers:
    """The same where no LayerNorm is behind a sublayer and its residual."""
    return replace(layers, attn_norm=None, ffn_norm=None, cross_norm=None)


_MBART = replace(
    _BART, layers=_norms_first(_BART_ENCODER), decoder=_norms_first(_BART.decoder or _BART_ENCODER)
)

_T5_ENCODER = Layers(
    at="encoder.block",
    attention="layer.0.SelfAttention",
    q="layer.0.SelfAttention.q",
    k="layer.0.SelfAttention.k",
    v="layer.0.SelfAttention.v",
    o="layer.0.SelfAttention.o",
    up="layer.1.DenseReluDense.wi",
    down="layer.1.DenseReluDense.wo",
)

_T5_DECODER = replace(
    _T5_ENCODER,
    at="decoder.block",
    up="layer.2.DenseReluDense.wi",
    down="layer.2.DenseReluDense.wo",
    cross_attention="layer.1.EncDecAttention",
    cross_q="layer.1.EncDecAttention.q",
    cross_k="layer.1.EncDecAttention.k",
    cross_v="layer.1.EncDecAttention.v",
    cross_o="layer.1.EncDecAttention.o",
)


def _gated(layers: Layers) -> Layers:
    """T5 v1.1."""
    norm = layers.up.replace("DenseReluDense.wi", "layer_norm")
    return replace(layers, gate=f"{layers.up}_0", up=f"{layers.up}_1", ffn_input=norm)


_T5 = Family(
    embeddings="shared",
    pool="eos",
    head=("classification_head",),
    activation="dense_act_fn",
    ffn_width=("d_ff",),
    layers=_T5_ENCODER,
    decoder=_T5_DECODER,
)

_T5S = (_T5, replace(_T5, layers=_gated(_T5_ENCODER), decoder=_gated(_T5_DECODER)))

FAMILIES: Mapping[str, Family | tuple[Family, ...]] = {
    "bart": _BART,
    "bert": _BERT,
    "blenderbot": _MBART,
    "blenderbot-small": _BART,
    "camembert": _BERT,
    "data2vec-text": _BERT,
    "deberta-v2": _DEBERTA,
    "distilbert": _DISTILBERT,
    "electra": replace(_BERT, projection="embeddings_project"),
    "ernie": _BERT,
    "gemma": _LLAMA,
    "gemma3_text": _GEMMA3,
    "glm": _GLM,
    "glm4": _GLM,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "m2m_100": _MBART,
    "marian": _BART,
    "mbart": _MBART,
    "mistral": _LLAMA,
    "modernbert": _MODERNBERT,
    "mt5": _T5S,
    "mvp": replace(_BART, heads=False),
    "pegasus": _MBART,
    "phi3": _PHI3,
    "plbart": _BART,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _BERT,
    "smollm3": _LLAMA,
    "xlm-roberta": _BERT,
    "t5": _T5S,
    "umt5": _T5S,
}
"""By `config.model_type`; where a configuration decides on the modules, all rows that there are."""


def has_decoder(kind: str) -> bool:
    """Whether models of a known type are encoder-decoders."""
    rows = FAMILIES.get(kind, ())
    return any(row.decoder for row in (rows if isinstance(rows, tuple) else (rows,)))
