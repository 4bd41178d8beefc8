"""Models that no row of the table describes: read, checked and told, or refused with a reason."""

import numpy as np
import pytest
import torch
from test_model_backbone import save_tokenizer
from tiny import (
    D_FFN,
    D_MODEL,
    HEAD,
    LORA,
    MAM,
    N_HEADS,
    N_LAYERS,
    N_OUTPUTS,
    N_POSITIONS,
    N_WORDS,
    genotype,
    lora,
    op,
    same,
    same_bits,
    state,
    tiny_backbone,
    tiny_batch,
    tiny_model,
    train,
)
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    CanineConfig,
    CanineModel,
    EuroBertConfig,
    EuroBertForSequenceClassification,
    FuyuConfig,
    FuyuForCausalLM,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    HeliumConfig,
    HeliumForSequenceClassification,
    HunYuanMoEV1Config,
    HunYuanMoEV1ForSequenceClassification,
    LEDConfig,
    LEDModel,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LukeConfig,
    LukeForSequenceClassification,
    MambaConfig,
    MambaModel,
    OPTConfig,
    OPTForSequenceClassification,
    PerceiverConfig,
    PerceiverForSequenceClassification,
    PhiConfig,
    PhiForSequenceClassification,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.backbone import load_backbone
from autopeft.model.check import check
from autopeft.model.inject import Injection
from autopeft.model.kernels import KERNELS
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

SHARED = {
    "vocab_size": N_WORDS,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": N_POSITIONS,
    "num_labels": N_OUTPUTS,
    "attn_implementation": "eager",
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {"intermediate_size": D_FFN, "num_key_value_heads": N_HEADS // 2}


def opt(**more):
    sizes = {"ffn_dim": D_FFN, "word_embed_proj_dim": D_MODEL} | more
    return OPTForSequenceClassification(OPTConfig(**SHARED, **SPECIAL, **sizes))


def phi():
    config = PhiConfig(**SHARED, **SPECIAL, intermediate_size=D_FFN)
    return PhiForSequenceClassification(config)


def helium():
    sizes = GROUPED | {"head_dim": D_MODEL // N_HEADS}
    return HeliumForSequenceClassification(HeliumConfig(**SHARED, **SPECIAL, **sizes))


def gemma2():
    """Scores of its attention are held to a range."""
    capped = {"attn_logit_softcapping": 1.0, "head_dim": D_MODEL // N_HEADS, "sliding_window": 4}
    config = Gemma2Config(**SHARED, **SPECIAL, **GROUPED, **capped)
    return Gemma2ForSequenceClassification(config)


def mixture():
    sizes = GROUPED | {"head_dim": D_MODEL // N_HEADS, "num_experts": 4, "moe_topk": [2] * N_LAYERS}
    config = HunYuanMoEV1Config(**SHARED, **SPECIAL, **sizes)
    return HunYuanMoEV1ForSequenceClassification(config)


GATED = {"helium": helium, "gemma2": gemma2}
READABLE = {"opt": opt, "phi": phi, "hunyuan_v1_moe": mixture} | GATED


def moved(build):
    """A frozen model none of whose parameters is as it would be initialised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build().eval().requires_grad_(requires_grad=False)
        for parameter in built.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    return built


@pytest.fixture(params=READABLE)
def model(request):
    return moved(READABLE[request.param])


def test_what_is_read_trains_in_company_as_alone(model):
    before = state(model)
    backbone = tiny_backbone("unknown", model=model)
    gated = model.config.model_type in GATED
    assert not {Tap.ATTN_NORM, Tap.FFN_NORM} & set(backbone.shape.widths)
    assert (Tap.FFN_GATE in backbone.shape.widths) is gated
    dense = genotype(lora(Tap.FFN_GATE, 2)) if gated else LORA
    company = [
        dense if Tap.FFN_UP in backbone.shape.widths else genotype(lora(Tap.ATTN_OUT, 2)),
        HEAD,
        MAM,
        genotype(op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (0, 0, 3))),
    ]
    together = train(backbone, company, epochs=3)
    for trial, one in enumerate(company):
        (alone,) = train(backbone, [one], [trial], epochs=3)
        np.testing.assert_allclose(together[trial].losses, alone.losses, rtol=0, atol=1e-6)
    assert same_bits(state(model), before)


@pytest.mark.parametrize("family", GATED)
@torch.no_grad()
def test_what_is_written_to_the_input_of_a_gated_ffn_reaches_gate_and_up(family):
    model = moved(GATED[family])
    batch = tiny_batch(model)
    injection = Injection(model, [genotype(same(Form.BIAS, Tap.FFN_IN))], [0], "eager")
    biases = [tensor.normal_().clone() for tensor in injection.tensors(0).values()]
    found = model.base_model(**batch).last_hidden_state
    injection.remove()
    for layer, bias in zip(model.model.layers, biases, strict=True):
        layer.mlp.register_forward_pre_hook(lambda _, args, bias=bias: args[0] + bias.flatten())
    torch.testing.assert_close(found, model.base_model(**batch).last_hidden_state)


@torch.no_grad()
def test_a_model_that_has_no_fast_attention_keeps_its_own_range_of_scores():
    model = moved(gemma2)
    batch = tiny_batch(model)
    states = []
    for kernel in KERNELS:
        injection = Injection(model, [MAM], [0], kernel)
        states.append(model.base_model(**batch).last_hidden_state)
        injection.remove()
    assert torch.equal(*states)


def test_a_whole_name_is_surer_than_an_end_and_positions_begin_behind_padding():
    config = RobertaPreLayerNormConfig(**SHARED, intermediate_size=D_FFN, pad_token_id=1)
    model = moved(lambda: RobertaPreLayerNormForSequenceClassification(config))
    anatomy = Anatomy(model)
    layers = anatomy.family.layers
    assert (layers.o, layers.down) == ("attention.output.dense", "output.dense")
    assert anatomy.longest_row() == N_POSITIONS - 2
    check(model, ())


def test_it_is_told_when_a_model_is_loaded(model, tmp_path):
    model.base_model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    if model.config.model_type == "gemma2" and type(model)._supports_sdpa:
        # Transformers of before computes it by SDPA, which drops its cap.
        with pytest.raises(DataError, match="ops that do nothing change its outcome"):
            load_backbone(str(tmp_path), 2)
        return
    backbone = load_backbone(str(tmp_path), 2)
    (note,) = backbone.notes
    assert f"models of type `{model.config.model_type}` are not known; read from" in note
    assert "q self_attn.q_proj, k self_attn.k_proj, v self_attn.v_proj" in note
    assert (", up " in note) is not (", ffn mlp;" in note)
    assert "LayerNorms were not looked for" in note


def test_known_models_have_no_note(tmp_path):
    tiny_model("bert").base_model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert load_backbone(str(tmp_path), 2).notes == ()


def fused():
    return GPTNeoXForSequenceClassification(GPTNeoXConfig(**SHARED, intermediate_size=D_FFN))


def shared():
    more = {"embedding_size": 8, "intermediate_size": D_FFN}
    return AlbertForSequenceClassification(AlbertConfig(**SHARED, **more))


def recurrent():
    sizes = {"vocab_size": N_WORDS, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS}
    return MambaModel(MambaConfig(**sizes))


def narrow():
    return opt(word_embed_proj_dim=8)


def misfitting():
    model = opt()
    for layer in model.model.decoder.layers:
        layer.fc2 = nn.Linear(D_FFN + 1, D_MODEL)
    return model


def unlike(dense=(0,)):
    """No FFN in some layers."""
    model = helium()
    for i, layer in enumerate(model.model.layers):
        if i not in dense:
            layer.mlp = nn.Identity()
    return model


def unlike_within():
    return unlike((0, 2))


def loose():
    model = helium()
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer, name, getattr(layer.mlp, name))
        del layer.mlp
    return model


def crossed():
    sizes = {"encoder_layers": 1, "decoder_layers": N_LAYERS, "d_model": D_MODEL}
    heads = {"encoder_attention_heads": N_HEADS, "decoder_attention_heads": N_HEADS}
    return LEDModel(LEDConfig(vocab_size=N_WORDS, **sizes, **heads))


def whole():
    more = {"intermediate_size_mlp": D_FFN, "num_local_experts": 2, "moe_layers": []}
    return Llama4ForCausalLM(Llama4TextConfig(**SHARED, **SPECIAL, **GROUPED, **more))


def without_words():
    return CanineModel(CanineConfig(**SHARED, intermediate_size=D_FFN, num_hash_buckets=16))


def seeing():
    """As Gemma 3 is from 4 billion parameters on."""
    text = SHARED | SPECIAL | GROUPED | {"head_dim": D_MODEL // N_HEADS}
    image = {"hidden_size": 16, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    image |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(text_config=text, vision_config=image, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


def seeing_unknown():
    text = {"model_type": "persimmon", "intermediate_size": D_FFN, **SHARED}
    return FuyuForCausalLM(FuyuConfig(text_config=text, image_size=16, patch_size=8))


def without_depth():
    sizes = {"num_blocks": 1, "num_latents": 4, "d_latents": D_MODEL, "d_model": D_MODEL}
    return PerceiverForSequenceClassification(PerceiverConfig(**sizes))


REFUSED = {
    unlike: r"`layers` of this one are not alike: layer 0 has up mlp.up_proj \(32, 48\), .*, and "
    r"layer 1 nothing like it; only models whose layers are alike",
    unlike_within: r"are not alike: layer 0 has up .*, and layer 1 nothing like it",
    loose: "their gate_proj and up_proj are in no module of their own",
    crossed: "encoder-decoders of type `led` are not known, and .* is not read .*; known are bart, "
    ".*, t5, umt5$",
    seeing: r"`gemma3` read more than texts, .* their part for texts is a `gemma3_text`, which is "
    "known: load it alone",
    seeing_unknown: "`fuyu` read more than texts, .* a `persimmon`, which may be read from its mod",
    without_depth: "`perceiver` are not known, and their configuration has no `num_hidden_layers`",
    whole: "`llama4_text` .* has no part without its head",
    without_words: "`canine` .* embeddings are not as wide",
    fused: r"`gpt_neox` .* in the 3 layers `layers` there is .*, but nothing like q, k, v, .* among"
    r" attention.query_key_value",
    shared: r"`albert` .* not one list of the 3 layers .* lists: encoder.albert_layer_groups \(1\)",
    recurrent: r"`mamba` .* there is o mixer.out_proj, but nothing like q, k, v, up, down among",
    narrow: "`opt` .* embeddings are not as wide as its layers, 32",
    misfitting: r"`opt` .* does not fit together: .*fc2 \(49, 32\)",
}


@pytest.mark.parametrize("build", REFUSED)
def test_what_cannot_be_read_is_refused_with_what_was_found(build):
    with pytest.raises(DataError, match=REFUSED[build]):
        Anatomy(build())


def test_a_model_that_looks_at_how_many_rows_there_are_is_refused(model):
    norms = {"opt": "decoder.final_layer_norm", "phi": "final_layernorm"}
    norm = model.base_model.get_submodule(norms.get(model.config.model_type, "norm"))
    norm.register_forward_hook(lambda _, args, out: out * (2 if len(args[0]) > 2 else 1))
    with pytest.raises(DataError, match="ops that do nothing change its outcome by"):
        check(model, ())


def test_a_head_that_needs_as_many_rows_as_the_mask_is_refused():
    config = EuroBertConfig(**SHARED, **GROUPED, pad_token_id=0)
    model = moved(lambda: EuroBertForSequenceClassification(config))
    check(model, ())
    model.config.model_type = "as if it had no row"
    with pytest.raises(DataError, match="does not run with several trials: The size of tensor"):
        check(model, ())


def test_a_projection_that_reads_something_else_than_its_tap_is_refused():
    model = moved(phi)
    query = model.model.layers[1].self_attn.q_proj
    query.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    with pytest.raises(DataError, match="of this one q are not made of what was taken for"):
        check(model, ())


def test_a_model_that_makes_its_query_last_is_refused():
    config = LukeConfig(**SHARED, intermediate_size=D_FFN, entity_vocab_size=4)
    with pytest.raises(DataError, match=r"does not run with several trials: .*attn_in"):
        check(moved(lambda: LukeForSequenceClassification(config)), ())


TWINS = {
    "camembert": (CamembertForSequenceClassification, CamembertConfig),
    "xlm-roberta": (XLMRobertaForSequenceClassification, XLMRobertaConfig),
}


@pytest.mark.parametrize("twin", TWINS)
@torch.no_grad()
def test_what_is_built_as_roberta_is_computes_as_roberta_does(twin):
    cls, config = TWINS[twin]
    original = tiny_model("roberta")
    plain = original.config.to_dict()
    same = {k: v for k, v in plain.items() if k not in ("model_type", "architectures")}
    model = cls(config(**same)).eval()
    model.set_attn_implementation("eager")
    model.load_state_dict(original.state_dict())
    outcomes = []
    for one in (original, model):
        injection = Injection(one, [LORA, MAM], [0, 1], "eager")
        for trial in (0, 1):
            generator = torch.Generator().manual_seed(trial)
            for tensor in injection.tensors(trial).values():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        outcomes.append(one(**tiny_batch(one)).logits)
    assert Anatomy(model).shape() == Anatomy(original).shape()
    assert torch.equal(*outcomes)
