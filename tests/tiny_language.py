"""Tiny random models that write, and rows whose answer is the text once more, or backwards."""

import functools

import torch
from tiny import D_FFN, D_INNER, D_MODEL, N_HEADS, N_LAYERS, N_POSITIONS, N_WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MBartConfig,
    MixtralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)

from autopeft.model.anatomy import Anatomy
from autopeft.model.backbone import Backbone, fingerprint
from autopeft.tasks.language import Language
from autopeft.tasks.spec import GenerationSpec
from autopeft.tasks.splits import Split
from autopeft.tasks.task import encode_for

PAD, BOS, EOS = 0, 1, 2
SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "vocab_size": N_WORDS}
_DECODER = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": D_FFN,
    "max_position_embeddings": N_POSITIONS,
}
_GROUPED = {"num_key_value_heads": N_HEADS // 2}

_BART = {
    "d_model": D_MODEL,
    "encoder_layers": 1,
    "decoder_layers": N_LAYERS - 1,
    "encoder_attention_heads": N_HEADS,
    "decoder_attention_heads": N_HEADS,
    "encoder_ffn_dim": D_FFN,
    "decoder_ffn_dim": D_FFN,
    "max_position_embeddings": N_POSITIONS,
    "decoder_start_token_id": EOS,
    "forced_eos_token_id": EOS,
    "tie_word_embeddings": False,  # or it writes what it has read last
}

CONFIGS = {
    "bart": lambda: BartConfig(**_BART, **SPECIAL),
    "mbart": lambda: MBartConfig(**_BART, **SPECIAL),
    "t5": lambda: T5Config(
        d_model=D_MODEL,
        num_layers=1,
        num_decoder_layers=N_LAYERS - 1,
        num_heads=N_HEADS,
        d_kv=D_INNER // N_HEADS,
        d_ff=D_FFN,
        relative_attention_num_buckets=6,
        relative_attention_max_distance=9,
        decoder_start_token_id=PAD,
        **SPECIAL,
    ),
    "gpt2": lambda: GPT2Config(n_inner=D_FFN, **_without("intermediate_size"), **SPECIAL),
    "llama": lambda: LlamaConfig(**_DECODER, **_GROUPED, **SPECIAL),
    "qwen2": lambda: Qwen2Config(**_DECODER, **_GROUPED, **SPECIAL),
}
"""By family; the first three read and then write, the others go on with what they read."""

MIXTURES = {
    "mixtral": lambda: MixtralConfig(
        **_DECODER, **_GROUPED, **SPECIAL, num_local_experts=4, num_experts_per_tok=2
    ),
}
"""Whose trials are equal to rounding in any company, and no closer."""

_CONVOLVED = {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": D_FFN}
HYBRIDS = {
    "lfm2": lambda: Lfm2Config(**_DECODER, **_GROUPED, **_CONVOLVED, **SPECIAL),
}
"""With attention in the second layer alone."""

SEQ2SEQ = ("bart", "mbart", "t5")


def _without(name):
    return {key: value for key, value in _DECODER.items() if key != name}


def tokenizer():
    """Words w3, w4, ... of one token each; `</s>` at the end of every text."""
    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS} | {f"w{i}": i for i in range(3, N_WORDS)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<pad>",
        model_max_length=N_POSITIONS,
    )


def kind_of(family):
    """The task that a family is for."""
    return "seq2seq" if family in SEQ2SEQ else "causal"


@functools.cache
def writing_backbone(family, seed=0):
    """A frozen model that writes, none of whose parameters is as it would be initialised."""
    auto = AutoModelForSeq2SeqLM if family in SEQ2SEQ else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = (CONFIGS | MIXTURES | HYBRIDS)[family]()
        model = auto.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        # Or no state could make a word likely.
        words = model.get_output_embeddings().weight
        words.data += 0.4 * torch.randn_like(words)
    model.eval().requires_grad_(requires_grad=False)
    model.config.use_cache = False
    return Backbone(
        model=model,
        tokenizer=tokenizer(),
        shape=Anatomy(model).shape(),
        fresh=(),
        name=f"tiny {family}",
        revision=None,
        fingerprint=fingerprint(model),
    )


def language(family, metric="exact_match", **generation):
    """The task of a family."""
    return Language(
        kind_of(family), metric, GenerationSpec(max_target_length=12, separator=" ", **generation)
    )


def texts(n_rows, *, seed=0, backwards=False, n_words=N_WORDS):
    """Rows of two to six words, whose answer is the same words."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n_rows):
        n = int(torch.randint(2, 7, (1,), generator=generator))
        rows.append(torch.randint(3, n_words, (n,), generator=generator).tolist())
    read = tuple((" ".join(f"w{i}" for i in row),) for row in rows)
    turned = [row[::-1] if backwards else row for row in rows]
    return Split("train", read, tuple(" ".join(f"w{i}" for i in row) for row in turned))


def encoded(family, n_rows=20, **more):
    """Rows as a family reads them."""
    task = language(family)
    return encode_for(task, texts(n_rows, **more), writing_backbone(family).tokenizer, 16)
