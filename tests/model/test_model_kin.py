"""Families whose layers have the names of another one: the row does for them, too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    D_FFN,
    D_INNER,
    D_MODEL,
    HEAD,
    HOULSBY,
    LORA,
    N_HEADS,
    N_LAYERS,
    N_OUTPUTS,
    N_POSITIONS,
    N_WORDS,
    TASK,
    genotype,
    lora,
    same,
    tiny_backbone,
    tiny_batch,
    tiny_rows,
    train,
)
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from transformers.activations import ACT2FN

from autopeft.model.anatomy import Anatomy
from autopeft.model.answers import decoder_inputs
from autopeft.model.check import check
from autopeft.model.families import FAMILIES
from autopeft.model.head import pooled_logits
from autopeft.model.inject import Injection
from autopeft.space.forms import Form, misplaced
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.training.cohort import Cohort
from autopeft.training.frozen import FrozenCache
from autopeft.training.settings import TrainingSettings

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": N_WORDS}
BERT = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": D_FFN,
    "max_position_embeddings": N_POSITIONS,
}
BART = {
    "d_model": D_MODEL,
    "encoder_layers": 1,
    "decoder_layers": N_LAYERS - 1,
    "encoder_attention_heads": N_HEADS,
    "decoder_attention_heads": N_HEADS,
    "encoder_ffn_dim": D_FFN,
    "decoder_ffn_dim": D_FFN,
    "max_position_embeddings": N_POSITIONS,
    "decoder_start_token_id": 2,
}
T5 = {
    "d_model": D_MODEL,
    "num_layers": 1,
    "num_decoder_layers": N_LAYERS - 1,
    "num_heads": N_HEADS,
    "d_kv": D_INNER // N_HEADS,
    "d_ff": D_FFN,
    "decoder_start_token_id": 0,
}
LLAMA = {**BERT, "num_key_value_heads": N_HEADS // 2, "head_dim": D_MODEL // N_HEADS}
WIDE = 12
"""A head of a query that is not as wide as the layers."""
EXPERTS = LLAMA | {
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    "num_experts_per_tok": 2,
    "moe_intermediate_size": D_FFN,
    "shared_expert_intermediate_size": D_FFN,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0}
YARN |= {"original_max_position_embeddings": 4, "llama_4_scaling_beta": 0.5}
"""The query of every fourth position weighs more."""
MIXTURES = {
    **dict.fromkeys(("granitemoe", "mixtral", "olmoe", "phimoe", "qwen2_moe"), EXPERTS),
    "gpt_oss": EXPERTS | {"layer_types": SLIDING, "sliding_window": 3},
    "qwen3_moe": EXPERTS | {"mlp_only_layers": [1]},
}
"""Of experts, in some layers or in all."""
LINEAR = ["linear_attention", "full_attention", "linear_attention"]
HYBRID = LLAMA | {
    "layer_types": LINEAR,
    "linear_num_key_heads": N_HEADS,
    "linear_num_value_heads": D_MODEL,
    "linear_key_head_dim": D_MODEL // N_HEADS,
    "linear_value_head_dim": 1,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 1, 0],
    },
}
MAMBA = {
    "layer_types": LINEAR,
    "mamba_n_heads": D_MODEL,
    "mamba_d_head": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "num_local_experts": 0,
    "shared_intermediate_size": D_FFN,
}
HYBRIDS = {
    "granitemoehybrid": LLAMA | MAMBA,
    "lfm2": LLAMA | {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": D_FFN},
    "olmo_hybrid": HYBRID,
    "qwen3_5_text": HYBRID,
    **dict.fromkeys(("qwen3_5_moe_text", "qwen3_next"), EXPERTS | HYBRID),
}
"""Something else instead of attention in some layers; numbers of heads are those of real ones."""
APART = {
    **dict.fromkeys(("megatron-bert", "mpnet", "roformer"), BERT),
    "gpt_neo": BERT | {"attention_types": [[["global", "local"], 1], [["global"], 1]]},
    "gptj": BERT | {"rotary_dim": 4, "n_inner": D_FFN},
    "gpt_oss": MIXTURES["gpt_oss"],
}
"""Their attention adds a mask to scores of as many rows."""
KIN = {
    **APART,
    **HYBRIDS,
    **dict.fromkeys(("eurobert", "gemma"), LLAMA),
    **dict.fromkeys(("glm", "glm4"), LLAMA),
    "phi3": LLAMA | {"partial_rotary_factor": 0.75},
    "ministral": LLAMA | {"layer_types": SLIDING, "sliding_window": 3},
    "ministral3": LLAMA | {"rope_parameters": YARN},
    "smollm3": LLAMA | {"no_rope_layer_interval": 2},
    **MIXTURES,
    **dict.fromkeys(("ernie", "data2vec-text"), BERT),
    **dict.fromkeys(("blenderbot", "blenderbot-small", "m2m_100", "marian", "mvp"), BART),
    **dict.fromkeys(("pegasus", "plbart"), BART),
    **dict.fromkeys(("mt5", "umt5"), T5),
}


def standing(one, shape):
    """A genotype without ops in layers of a hybrid that lack their taps."""
    places = {op.kind: shape.layers_with((op.read, op.write)) for op in one.ops}
    sizes = {
        op.kind: tuple(size if i in places[op.kind] else 0 for i, size in enumerate(op.sizes))
        for op in one.ops
    }
    return replace(one, ops=tuple(replace(op, sizes=sizes[op.kind]) for op in one.ops))


def tiny(family, auto=AutoModel, **more):
    """A frozen model none of whose parameters is as it would be initialised."""
    config = AutoConfig.for_model(family, **(KIN[family] | SPECIAL | more))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    return model.eval().requires_grad_(requires_grad=False)


def test_they_are_in_the_table():
    """Or they would be read from names, without their LayerNorms."""
    assert {*KIN} <= {*FAMILIES}


@pytest.mark.parametrize("family", KIN)
@torch.no_grad()
def test_ops_are_where_their_taps_are(family):
    """Nothing changes nothing; low-rank ops are another weight; prefixes are called."""
    model = tiny(family)
    batch = tiny_batch(model)
    shape = Anatomy(model).shape()
    every = genotype(
        *(
            lora(tap, tuple(int(i in shape.layers_with(at)) for i in range(N_LAYERS)), scale=2.0)
            for tap, *at in ((tap, tap, read) for tap, read in shape.matrices.items())
        )
    )
    prefix = HEAD
    if Tap.HEAD in shape.widths:
        prefix = standing(genotype(same(Form.PREFIX, Tap.HEAD, 2)), shape)
    plain = model(**batch).last_hidden_state
    injection = Injection(model, [HEAD, every, prefix], [0, 1, 2], "eager")
    factors = {name: t.normal_(std=0.3).clone() for name, t in injection.tensors(1).items()}
    nothing, changed, lengthened = model(**batch).last_hidden_state.chunk(3)
    injection.remove()
    torch.testing.assert_close(nothing, plain, rtol=0, atol=1e-5)
    assert torch.allclose(lengthened, plain, atol=1e-3) is (prefix is HEAD)
    anatomy = Anatomy(model)
    for name, factor in factors.items():
        if name.endswith(".a"):
            _, layer, _, _, tap, *_ = name.split(".")
            weight = anatomy.point(int(layer), Tap(tap)).weight
            weight += 2.0 * factors[f"{name[:-1]}b"].T @ factor
    torch.testing.assert_close(changed, model(**batch).last_hidden_state, rtol=1e-4, atol=1e-4)


DECODERS = ("gemma", "glm", "glm4", "ministral3", "phi3", "smollm3")


HEADLESS = {"granitemoe", "olmoe", *HYBRIDS} - {"qwen3_5_text", "qwen3_next"}
"""No head for rows."""
READ = {"ernie", "data2vec-text", "eurobert", *DECODERS, *APART, *HYBRIDS, *MIXTURES}


@pytest.mark.parametrize("family", sorted(READ))
def test_the_row_holds_what_is_asked_of_one_that_is_read_from_names(family):
    if family not in HEADLESS:
        check(tiny(family, AutoModelForSequenceClassification), ())
    if family not in {"mpnet", "eurobert"}:  # which write nothing
        check(tiny(family, AutoModelForCausalLM), (), pools=False)


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_what_is_activated_is_the_gate(family):
    model, seen = tiny(family), {}
    for tap in (Tap.FFN_GATE, Tap.FFN_UP, Tap.FFN_OUT):
        module, _, part = Anatomy(model).point(1, tap)

        def look(_, args, out, tap=tap, part=part):
            seen[tap] = args[0], part.of(out, -1) if part else out

        module.register_forward_hook(look)
    model(**tiny_batch(model))
    made = ACT2FN[model.config.hidden_act](seen[Tap.FFN_GATE][1]) * seen[Tap.FFN_UP][1]
    torch.testing.assert_close(made, seen[Tap.FFN_OUT][0])


@pytest.mark.parametrize("n_keys", [1, N_HEADS // 2, N_HEADS])
@torch.no_grad()
def test_parts_of_phi3_are_those_of_llama(n_keys):
    """Which computes the same, with the same ops, of modules of their own."""
    heads = {"num_key_value_heads": n_keys, "head_dim": WIDE}
    fused = tiny("phi3", partial_rotary_factor=1.0, **heads)
    config = AutoConfig.for_model(
        "llama", **BERT, **SPECIAL, **heads, rms_norm_eps=fused.norm.variance_epsilon
    )
    wide, narrow = N_HEADS * WIDE, n_keys * WIDE
    apart = {
        "qkv_proj": {"q_proj": wide, "k_proj": narrow, "v_proj": narrow},
        "gate_up_proj": {"gate_proj": D_FFN, "up_proj": D_FFN},
    }
    weights = {}
    for name, weight in fused.state_dict().items():
        whole = next((one for one in apart if one in name), "")
        parts = apart.get(whole, {"": len(weight)})
        pieces = zip(parts, weight.split([*parts.values()]), strict=True)
        weights |= {name.replace(whole, part): piece for part, piece in pieces}
    llama = AutoModel.from_config(config, attn_implementation="eager").eval()
    llama.load_state_dict(weights)
    taps = Anatomy(llama).shape().widths
    assert Anatomy(fused).shape().widths == taps
    every = [lora(tap, 2) for tap in LINEAR_INPUT if tap in taps]
    every += [same(Form.BIAS, tap) for tap in taps if misplaced(Form.BIAS, tap, tap) is None]
    one, outcomes = genotype(*every, same(Form.PREFIX, Tap.HEAD, 2)), []
    for model in (fused, llama):
        injection = Injection(model, [one], [0], "eager")
        generator = torch.Generator().manual_seed(0)
        for _, tensor in sorted(injection.tensors(0).items()):
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        outcomes.append(model(**tiny_batch(model)).last_hidden_state)
        injection.remove()
    torch.testing.assert_close(*outcomes)
    assert (outcomes[0] - fused(**tiny_batch(fused)).last_hidden_state).abs().max() > 1e-2


@pytest.mark.parametrize(
    "family",
    [*APART, "eurobert", "mixtral", "qwen2_moe", "qwen3_moe", "qwen3_5_text"],
)
def test_trials_train_as_each_alone(family):
    """Where rows are apart from the first layer on, where the head reads every token, and where
    experts get the tokens of all trials.
    """
    model = tiny(family, AutoModelForSequenceClassification, num_labels=N_OUTPUTS)
    backbone = tiny_backbone(family, model=model)
    assert backbone.shape.apart == (family in {*APART, *HYBRIDS})
    settings = TrainingSettings(epochs=1)
    with Cohort(backbone, [HEAD], [0], TASK, settings) as cohort, torch.no_grad():
        found = cohort.logits(tiny_rows(5), range(5))[0]
        torch.testing.assert_close(found, model(**tiny_batch(model)).logits, rtol=0, atol=1e-5)
    on_attention = genotype(lora(Tap.Q, 2), lora(Tap.ATTN_OUT, 4))
    company = [
        on_attention if family in MIXTURES else LORA,
        HEAD,
        HOULSBY,
        genotype(lora(Tap.V, 3, scale="gated")),
        genotype(lora(Tap.ATTN_OUT if family in HYBRIDS else Tap.Q, (0, 0, 3))),
        genotype(*on_attention.ops, learning_rate=1e30),
    ]
    company = [standing(one, backbone.shape) for one in company]
    together = train(backbone, company, epochs=3)
    assert not together[-1].finite
    for trial, one in enumerate(company[:-1]):
        (alone,) = train(backbone, [one], [trial], epochs=3)
        np.testing.assert_allclose(together[trial].losses, alone.losses, rtol=0, atol=1e-6)
        assert np.std(alone.losses) > 1e-3, "it learns"


def test_rows_apart_leave_no_states_to_keep():
    model = tiny("mpnet", AutoModelForSequenceClassification, num_labels=N_OUTPUTS)
    with pytest.raises(ValueError, match="have rows of their own from the start"):
        FrozenCache(tiny_backbone("mpnet", model=model), "eager", 4)


def test_roberta_and_its_kin_begin_their_positions_behind_padding():
    assert Anatomy(tiny("data2vec-text")).longest_row() == N_POSITIONS - 1
    assert Anatomy(tiny("ernie")).longest_row() == N_POSITIONS


@pytest.mark.parametrize(
    ("family", "more"),
    [
        *((family, {}) for family in ("mt5", "umt5", "plbart", "glm", "glm4", "phi3", "smollm3")),
        *(("eurobert", {"classifier_pooling": pool}) for pool in ("bos", "mean", "late")),
    ],
)
@torch.no_grad()
def test_heads_read_what_the_model_gives_them(family, more):
    model = tiny(family, AutoModelForSequenceClassification, **more)
    ids = torch.tensor([[5, 6, 2, 9], [7, 2, 8, 0]])
    batch = {"input_ids": ids, "attention_mask": ids.ne(0).long()}
    anatomy = Anatomy(model)
    found = pooled_logits(model, anatomy.family.head, anatomy.pool, batch)
    torch.testing.assert_close(found, model(**batch).logits)


@pytest.mark.parametrize("family", [family for family in KIN if KIN[family] in (BART, T5)])
@torch.no_grad()
def test_a_decoder_reads_of_answers_what_its_model_makes_of_labels(family):
    model = tiny(family, AutoModelForSeq2SeqLM)
    asked = {"input_ids": torch.tensor([[5, 6, 2, 9], [7, 2, 8, 2]])}
    labels = torch.tensor([[4, 9, 2, -100], [6, 8, 7, 2]])
    read = decoder_inputs(model, labels)
    assert read[0, 0] == model.config.decoder_start_token_id
    expected = model(**asked, labels=labels).logits
    torch.testing.assert_close(model(**asked, decoder_input_ids=read).logits, expected)


def test_marian_may_have_words_of_its_own_for_each_side():
    apart = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": N_WORDS + 1}
    model = tiny("marian", AutoModelForSeq2SeqLM, tie_word_embeddings=False, **apart)
    assert Anatomy(model).words is model.model.encoder.embed_tokens
