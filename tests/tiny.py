"""Tiny random models of every family, rows to train them on, and what became of it."""

import functools
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    GlmConfig,
    GlmForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    Phi3Config,
    Phi3ForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from autopeft.model.anatomy import Anatomy
from autopeft.model.backbone import Backbone, cast, fingerprint
from autopeft.space.forms import FORMS, Activation, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.tasks.encode import Encoded, collate
from autopeft.tasks.task import Classification, Regression
from autopeft.training.settings import TrainingSettings
from autopeft.training.train import train_cohort

FAMILIES = ("bert", "roberta", "distilbert", "electra")
"""Encoders with a LayerNorm behind each sublayer, and a head at the first token."""

GATED = {
    "gemma3_text": (Gemma3TextForSequenceClassification, Gemma3TextConfig),
    "llama": (LlamaForSequenceClassification, LlamaConfig),
    "mistral": (MistralForSequenceClassification, MistralConfig),
    "phi3": (Phi3ForSequenceClassification, Phi3Config),
    "qwen2": (Qwen2ForSequenceClassification, Qwen2Config),
    "qwen3": (Qwen3ForSequenceClassification, Qwen3Config),
}
"""LayerNorms before the sublayers, gated FFNs, two queries to a key, a head at the last token."""

DECODERS = GATED | {"gpt2": (GPT2ForSequenceClassification, GPT2Config)}
HALVES = {"glm": (GlmForSequenceClassification, GlmConfig)}
"""Like `GATED`, but one module makes gate and up.

Not in `EVERY`: ModernBERT has such modules, and Llama all the rest.
"""

FUSED = ("gpt2", "modernbert", "phi3")
"""Query, key and value come out of one module; in Phi-3 in parts that are not equal."""

HEADLESS = ("deberta-v2",)
"""Attention that prefixes cannot reach; else like `FAMILIES`."""

CROSSED = ("bart", "t5")
"""Encoder-decoders, with one layer in the encoder and two in the decoder."""

HEADED = (*FAMILIES, "modernbert", *DECODERS, *CROSSED)
PROMPTED = (*FAMILIES, "modernbert", *DECODERS)
"""Where a row can begin with a prompt."""
EVERY = (*HEADED, *HEADLESS)

TWINS = ("roberta", "distilbert", "electra", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3")
"""Built like BERT or Llama: other names and details, the same places for ops."""


def as_params(families, *more, twins=TWINS):
    """Parameters of tests; those of twins are among the slow ones."""
    return [
        pytest.param(name, *more, marks=[pytest.mark.slow] * (name in twins)) for name in families
    ]


MIXED_WINDOWS = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}

N_LAYERS, D_MODEL, D_FFN, N_HEADS, N_POSITIONS, N_WORDS, N_OUTPUTS = 3, 32, 48, 4, 40, 60, 3
D_INNER = 24
"""Of T5's attention."""
FIRST_WORD = 5
"""Smaller token numbers are special in one family or another."""

TASK = Classification(N_OUTPUTS)


def encoder_decoder(family, shared, *, gated):
    """One layer that encodes, the others decode."""
    n_decoding = N_LAYERS - 1
    if family == "bart":
        config = BartConfig(
            d_model=D_MODEL,
            encoder_layers=1,
            decoder_layers=n_decoding,
            encoder_attention_heads=N_HEADS,
            decoder_attention_heads=N_HEADS,
            encoder_ffn_dim=D_FFN,
            decoder_ffn_dim=D_FFN,
            max_position_embeddings=N_POSITIONS,
            decoder_start_token_id=2,
            **shared,
        )
        return BartForSequenceClassification(config)
    config = T5Config(
        d_model=D_MODEL,
        num_layers=1,
        num_decoder_layers=n_decoding,
        num_heads=N_HEADS,
        d_kv=D_INNER // N_HEADS,
        d_ff=D_FFN,
        relative_attention_num_buckets=6,
        relative_attention_max_distance=9,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu" if gated else "relu",
        **shared,
    )
    return T5ForSequenceClassification(config)


def tiny_model(family, *, seed=0, n_outputs=N_OUTPUTS, gated=False):
    """A frozen model with a task head, none of whose parameters is as it would be initialised."""
    shared = {"vocab_size": N_WORDS, "num_labels": n_outputs, "attn_implementation": "eager"}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    encoder = {
        "hidden_size": D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "intermediate_size": D_FFN,
        "max_position_embeddings": N_POSITIONS,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "bert":
            model = BertForSequenceClassification(BertConfig(**encoder, **shared))
        elif family == "roberta":
            model = RobertaForSequenceClassification(RobertaConfig(**encoder, **shared))
        elif family == "electra":
            narrow = {"embedding_size": D_MODEL // 2}
            model = ElectraForSequenceClassification(ElectraConfig(**encoder, **shared, **narrow))
        elif family == "deberta-v2":
            disentangled = {
                "relative_attention": True,
                "position_buckets": 4,
                "pos_att_type": ["p2c", "c2p"],
                "share_att_key": True,
                "norm_rel_ebd": "layer_norm",
                "position_biased_input": False,
            }
            model = DebertaV2ForSequenceClassification(
                DebertaV2Config(**encoder, **shared, **disentangled)
            )
        elif family in CROSSED:
            model = encoder_decoder(family, shared | special, gated=gated)
        elif family == "modernbert":
            more = special | {"classifier_pooling": "mean", "local_attention": 6}
            model = ModernBertForSequenceClassification(
                ModernBertConfig(**encoder, **shared, **more)
            )
        elif family == "gpt2":
            encoder["n_inner"] = encoder.pop("intermediate_size")
            model = GPT2ForSequenceClassification(GPT2Config(**encoder, **shared, **special))
        elif family in DECODERS | HALVES:
            cls, config = (DECODERS | HALVES)[family]
            grouped = {"num_key_value_heads": N_HEADS // 2, "head_dim": D_MODEL // N_HEADS}
            more = {"gemma3_text": MIXED_WINDOWS, "phi3": {"partial_rotary_factor": 0.75}}
            model = cls(config(**encoder, **shared, **special, **grouped, **more.get(family, {})))
        else:
            renamed = {
                "dim": D_MODEL,
                "n_layers": N_LAYERS,
                "n_heads": N_HEADS,
                "hidden_dim": D_FFN,
                "max_position_embeddings": N_POSITIONS,
            }
            model = DistilBertForSequenceClassification(DistilBertConfig(**renamed, **shared))
        for parameter in model.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    return model.eval().requires_grad_(requires_grad=False)


def tiny_backbone(family, *, model=None, fresh_pooler=False):
    """A backbone whose head was not in the checkpoint, and whose tokenizer only pads."""
    model = tiny_model(family) if model is None else model
    base, pooler = f"{model.base_model_prefix}.", f"{model.base_model_prefix}.pooler."
    fresh = tuple(
        name
        for name in sorted(name for name, _ in model.named_parameters())
        if not name.startswith(base) or (fresh_pooler and name.startswith(pooler))
    )
    return Backbone(
        model=model,
        tokenizer=SimpleNamespace(pad_token_id=model.config.pad_token_id),
        shape=Anatomy(model, fresh).shape(),
        fresh=fresh,
        name=f"tiny {family}",
        revision=None,
        fingerprint=fingerprint(model, fresh),
    )


@functools.cache
def tiny_rows(n_rows=24, *, seed=0, dtype=torch.int64):
    """Rows of 3 to 12 tokens; the second one decides the label, so it can be learned."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, size):
        return torch.randint(low, high, (size,), generator=generator).tolist()

    ids = [draw(FIRST_WORD, N_WORDS, length) for length in draw(3, 13, n_rows)]
    return Encoded(ids, None, torch.tensor([row[1] % N_OUTPUTS for row in ids], dtype=dtype), 0.0)


def tiny_batch(model, n_rows=5, *, seed=0):
    """A padded batch as a model takes it, with an attention mask."""
    batch = collate(tiny_rows(n_rows, seed=seed), range(n_rows), model.config.pad_token_id).inputs
    if model.config.is_encoder_decoder:
        # Their heads look for the end of a sentence.
        last = batch["attention_mask"].sum(1) - 1
        batch["input_ids"][torch.arange(n_rows), last] = model.config.eos_token_id
        start = torch.full((n_rows, 1), model.config.decoder_start_token_id)
        batch["decoder_input_ids"] = torch.cat([start, batch["input_ids"][:, :-1]], 1)
    return batch


def op(form, read, write, size=1, **more):
    """An op with one size in every layer, or a tuple of sizes."""
    sizes = size if isinstance(size, tuple) else (size,) * N_LAYERS
    defaults = {"activation": Activation.RELU} if FORMS[form].activated else {}
    return Op(form, read, write, sizes, **(defaults | more))


def genotype(*ops, learning_rate=1e-2, weight_decay=0.01):
    """A genotype with a learning rate that moves a tiny model."""
    return Genotype(N_LAYERS, ops, learning_rate, weight_decay)


def same(form, tap, size=1, **more):
    """An op that reads where it writes."""
    return op(form, tap, tap, size, **more)


def lora(tap, size, **more):
    """A low-rank op on the weight whose output is the tap."""
    return op(Form.LOWRANK, LINEAR_INPUT[tap], tap, size, **more)


LORA = genotype(
    lora(Tap.Q, (1, 2, 3)),
    lora(Tap.V, (8, 0, 20), scale=2.0),
    lora(Tap.ATTN_OUT, 3, scale="learned"),
    lora(Tap.FFN_UP, (0, 2, 17)),
    learning_rate=2e-2,
)
MAM = genotype(
    same(Form.PREFIX, Tap.HEAD, (5, 0, 9)),
    op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 17, scale=4.0),
    learning_rate=5e-3,
)
HOULSBY = genotype(
    same(Form.BOTTLENECK, Tap.ATTN_OUT, (7, 1, 2)),
    same(Form.BOTTLENECK, Tap.FFN_OUT, 2, scale="learned"),
    lora(Tap.V, (0, 2, 3)),
    weight_decay=0.1,
)
VECTORS = genotype(
    *(same(Form.BIAS, tap) for tap in (Tap.Q, Tap.V, Tap.FFN_UP, Tap.FFN_NORM)),
    *(same(Form.SCALE, tap) for tap in (Tap.K, Tap.V, Tap.FFN_MID)),
    learning_rate=3e-2,
)
HEAD = genotype()
PFEIFFER = genotype(
    op(Form.BOTTLENECK, Tap.FFN_NORM, Tap.FFN_OUT, (0, 3, 5), activation=Activation.GELU)
)


def train(
    backbone,
    genotypes,
    seeds=None,
    *,
    n_rows=15,
    task=TASK,
    until=None,
    paused=(),
    cache=None,
    trial_bytes=None,
    rest_bytes=None,
    **settings,
):
    """Train a cohort on tiny rows, three steps unless `epochs` says more, or to a rung.

    Shapes are not checked meanwhile, which would take as long again; other tests of every op do.
    """
    dtype = torch.float32 if isinstance(task, Regression) else torch.int64
    settings = TrainingSettings(**({"epochs": 1, "batch_size": 5, "warmup": 0.1} | settings))
    jaxtyping.config.update("jaxtyping_disable", value=True)
    try:
        trained, _ = train_cohort(
            cast(backbone, settings.precision),
            genotypes,
            range(len(genotypes)) if seeds is None else seeds,
            task=task,
            settings=settings,
            train=tiny_rows(n_rows, dtype=dtype),
            validation=tiny_rows(22, seed=1, dtype=dtype),
            order_seed=0,
            until=until,
            paused=paused,
            cache=cache,
            trial_bytes=trial_bytes,
            rest_bytes=rest_bytes,
        )
    finally:
        jaxtyping.config.update("jaxtyping_disable", value=False)
    return trained


def state(model):
    """A copy of a model's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def numbers(tensors):
    """Parameters in tensors by name; integers are none."""
    return sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())


def op_params(trained):
    """Parameters of the ops, counted in what was trained."""
    return numbers(trained.tensors) - trained.head_params


def same_bits(one, other):
    """Whether two dictionaries of tensors are equal to the last bit, NaN included."""
    return one.keys() == other.keys() and all(_bits(one[key], other[key]) for key in one)


def _bits(one, other):
    return one.shape == other.shape and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )


def assert_same_training(one, other):
    """Losses, final tensors and predictions of a trial are the same to the last bit."""
    np.testing.assert_array_equal(one.losses, other.losses)
    assert same_bits(one.tensors, other.tensors)
    np.testing.assert_array_equal(one.predictions, other.predictions)
