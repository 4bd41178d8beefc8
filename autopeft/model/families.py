"""The table of model families. A new family is a row."""

from collections.abc import Mapping
from dataclasses import replace

from autopeft.model.family import Family, Layers

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

_ROFORMER = replace(_BERT, positions=None, prompts=False, heads=False, apart=True)

_MEGATRON = replace(
    _ROFORMER,
    positions="embeddings.position_embeddings",
    first_token=False,
    layers=replace(_BERT.layers, attn_norm=None, ffn_norm=None),
)

_MPNET = replace(
    _ROFORMER,
    positions="embeddings.position_embeddings",
    layers=replace(
        _BERT.layers,
        attention="attention.attn",
        q="attention.attn.q",
        k="attention.attn.k",
        v="attention.attn.v",
        o="attention.attn.o",
        attn_norm="attention.LayerNorm",
    ),
)

_DEBERTA = Family(
    embeddings="embeddings",
    first_token=True,
    heads=False,
    disentangled=True,
    without=("encoder.conv", "between its layers, which rows of several trials do not pass"),
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

_GPT_NEO = replace(
    _GPT2,
    prompts=False,
    heads=False,
    apart=True,
    ffn_width=("intermediate_size",),
    layers=replace(
        _GPT2.layers,
        attention="attn.attention",
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        o="attn.attention.out_proj",
    ),
)

_GPTJ = replace(
    _GPT_NEO,
    positions=None,
    ffn_width=("n_inner",),
    layers=Layers(
        at="h",
        attention="attn",
        q="attn.q_proj",
        k="attn.k_proj",
        v="attn.v_proj",
        o="attn.out_proj",
        up="mlp.fc_in",
        down="mlp.fc_out",
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

_MIXTURE = replace(_LLAMA, layers=replace(_LLAMA.layers, up=None, down=None, gate=None, ffn="mlp"))
"""A mixture of experts, whose FFN is known as a whole."""


def _hybrid(layers: Layers, instead: str, **others: str) -> Family:
    """Of these layers, and of others that have a module instead of attention."""
    there = {"attention": instead, "o": f"{instead}.out_proj"} | others
    mixers = replace(layers, q=None, k=None, v=None, **there)
    # A prompt would be followed by padding, which what is there instead of attention counts.
    return replace(_LLAMA, prompts=False, apart=True, layers=layers, mixers=mixers)


_LFM2 = _hybrid(
    replace(
        _LLAMA.layers,
        o="self_attn.out_proj",
        gate="feed_forward.w1",
        up="feed_forward.w3",
        down="feed_forward.w2",
        attn_input="operator_norm",
        ffn_input="ffn_norm",
    ),
    "conv",
)

_GRANITE_HYBRID = replace(
    _hybrid(
        replace(
            _LLAMA.layers,
            gate="shared_mlp.input_linear 0/2",
            up="shared_mlp.input_linear 1/2",
            down="shared_mlp.output_linear",
        ),
        "mamba",
    ),
    without=("layers.0.block_sparse_moe", "beside its FFN, so that no module is all of the FFN"),
)

_OLMO_HYBRID = _hybrid(
    replace(_LLAMA.layers, attn_input=None, ffn_input=None, ffn="mlp"),
    "linear_attn",
    o="linear_attn.o_proj",
    attn_input="input_layernorm",
)

_EUROBERT = replace(_LLAMA, pool="late", head=("dense", "activation", "classifier"))

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
    up = str(layers.up)
    norm = up.replace("DenseReluDense.wi", "layer_norm")
    return replace(layers, gate=f"{up}_0", up=f"{up}_1", ffn_input=norm)


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
    "eurobert": _EUROBERT,
    "gemma": _LLAMA,
    "gemma3_text": _GEMMA3,
    "glm": _GLM,
    "glm4": _GLM,
    "gpt2": _GPT2,
    "gpt_neo": _GPT_NEO,
    "gpt_oss": replace(_MIXTURE, heads=False, apart=True),
    "gptj": _GPTJ,
    "granitemoe": replace(_MIXTURE, layers=replace(_MIXTURE.layers, ffn="block_sparse_moe")),
    "granitemoehybrid": _GRANITE_HYBRID,
    "lfm2": _LFM2,
    "llama": _LLAMA,
    "m2m_100": _MBART,
    "marian": _BART,
    "mbart": _MBART,
    "megatron-bert": _MEGATRON,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _MIXTURE,
    "modernbert": _MODERNBERT,
    "mpnet": _MPNET,
    "mt5": _T5S,
    "mvp": replace(_BART, heads=False),
    "olmoe": _MIXTURE,
    "olmo_hybrid": _OLMO_HYBRID,
    "pegasus": _MBART,
    "phi3": _PHI3,
    "phimoe": _MIXTURE,
    "plbart": _BART,
    "qwen2": _LLAMA,
    "qwen2_moe": _MIXTURE,
    "qwen3": _LLAMA,
    "qwen3_5_moe_text": _hybrid(_MIXTURE.layers, "linear_attn"),
    "qwen3_5_text": _hybrid(_LLAMA.layers, "linear_attn"),
    "qwen3_next": _hybrid(_MIXTURE.layers, "linear_attn"),
    "qwen3_moe": _MIXTURE,
    "roberta": _BERT,
    "roformer": replace(_ROFORMER, projection="embeddings_project"),
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
