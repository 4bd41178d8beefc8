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
    op,
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
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    MambaConfig,
    MambaModel,
    OPTConfig,
    OPTForSequenceClassification,
    PhiConfig,
    PhiForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.backbone import load_backbone
from autopeft.model.check import check
from autopeft.model.inject import Injection
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


def opt(**more):
    sizes = {"ffn_dim": D_FFN, "word_embed_proj_dim": D_MODEL} | more
    return OPTForSequenceClassification(OPTConfig(**SHARED, **SPECIAL, **sizes))


def phi():
    config = PhiConfig(**SHARED, **SPECIAL, intermediate_size=D_FFN)
    return PhiForSequenceClassification(config)


READABLE = {"opt": opt, "phi": phi}


@pytest.fixture(params=READABLE)
def model(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = READABLE[request.param]().eval().requires_grad_(requires_grad=False)
        for parameter in built.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    return built


def test_what_is_read_trains_in_company_as_alone(model):
    before = state(model)
    backbone = tiny_backbone("unknown", model=model)
    lacking = {Tap.FFN_GATE, Tap.ATTN_NORM, Tap.FFN_NORM}
    assert not lacking & set(backbone.shape.widths)
    company = [LORA, HEAD, MAM, genotype(op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (0, 0, 3)))]
    together = train(backbone, company, epochs=3)
    for trial, one in enumerate(company):
        (alone,) = train(backbone, [one], [trial], epochs=3)
        np.testing.assert_allclose(together[trial].losses, alone.losses, rtol=0, atol=1e-6)
    assert same_bits(state(model), before)


def test_it_is_told_when_a_model_is_loaded(model, tmp_path):
    model.base_model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    backbone = load_backbone(str(tmp_path), 2)
    (note,) = backbone.notes
    assert f"models of type `{model.config.model_type}` are not known; read from" in note
    assert "q self_attn.q_proj, k self_attn.k_proj, v self_attn.v_proj" in note
    assert "up " in note
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


REFUSED = {
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
    norm = model.base_model.get_submodule(
        "decoder.final_layer_norm" if model.config.model_type == "opt" else "final_layernorm"
    )
    norm.register_forward_hook(lambda _, args, out: out * (2 if len(args[0]) > 2 else 1))
    with pytest.raises(DataError, match="ops that do nothing change its outcome by"):
        check(model, ())


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
