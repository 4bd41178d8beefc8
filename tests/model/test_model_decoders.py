"""Decoders: norms before the sublayers, a gated FFN, grouped queries, a head at the last token."""

import numpy as np
import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from tiny import (
    DECODERS,
    HALVES,
    HEAD,
    N_HEADS,
    N_LAYERS,
    PFEIFFER,
    TASK,
    as_params,
    assert_same_training,
    genotype,
    lora,
    op,
    same,
    same_bits,
    state,
    tiny_backbone,
    tiny_batch,
    tiny_model,
    tiny_rows,
    train,
)
from transformers import (
    Gemma3ForCausalLM,
    GlmForCausalLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MistralForCausalLM,
    Phi3ForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

import autopeft
from autopeft.errors import ConfigError, DataError
from autopeft.model.inject import Injection
from autopeft.ops.base import Member
from autopeft.ops.multihead import MultiHead
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.training.cohort import Cohort
from autopeft.training.frozen import FrozenCache
from autopeft.training.settings import TrainingSettings

LORA = genotype(
    lora(Tap.FFN_UP, (3, 0, 9)),
    lora(Tap.K, (0, 2, 2)),
    lora(Tap.FFN_OUT, (4, 4, 0), scale=2.0),
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
    op(Form.BOTTLENECK, Tap.ATTN_IN, Tap.ATTN_OUT, (0, 2, 3)),
)
VECTORS = genotype(
    *(same(Form.BIAS, tap) for tap in (Tap.ATTN_IN, Tap.V, Tap.FFN_UP, Tap.BLOCK_OUT)),
    *(same(Form.SCALE, tap) for tap in (Tap.K, Tap.FFN_IN, Tap.FFN_MID)),
    learning_rate=3e-2,
)
HEADS = genotype(op(Form.MULTIHEAD, Tap.Q, Tap.HEAD, (5, 0, 9)), same(Form.PREFIX, Tap.HEAD, 3))
TOP = genotype(lora(Tap.V, (0, 0, 3)), learning_rate=2e-2)
GATE = genotype(lora(Tap.FFN_GATE, (3, 0, 9)), same(Form.BIAS, Tap.FFN_GATE))
COMPANY = (LORA, MAM, HOULSBY, VECTORS)
LANGUAGE_MODELS = {
    "gemma3_text": Gemma3ForCausalLM,
    "glm": GlmForCausalLM,
    "gpt2": GPT2LMHeadModel,
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "phi3": Phi3ForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
}


LIKE_LLAMA = ("mistral", "qwen2", "qwen3", *HALVES)
FAMILIES = as_params((*DECODERS, *HALVES), twins=LIKE_LLAMA)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=["modernbert", *FAMILIES])
def backbone(request):
    return tiny_backbone(request.param)


def test_what_reads_through_a_norm_behind_a_sublayer_is_refused(family):
    with pytest.raises(ConfigError, match="the model has no tap ffn_norm; it has: embed, attn_in"):
        Injection(tiny_model(family), [PFEIFFER], [0], "eager")


def test_a_trial_alone_has_the_logits_of_the_model_itself(backbone):
    rows = tiny_rows(5)
    settings = TrainingSettings(epochs=1)
    with Cohort(backbone, [HEAD], [0], TASK, settings) as cohort, torch.no_grad():
        found = cohort.logits(rows, range(5))[0]
        # transformers adds the head up in another order.
        expected = backbone.model(**tiny_batch(backbone.model)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_last_token_is_the_last_real_one(backbone):
    rows, settings = tiny_rows(5), TrainingSettings(epochs=1)
    with Cohort(backbone, COMPANY, range(4), TASK, settings) as cohort, torch.no_grad():
        padded = cohort.logits(rows, range(5))
        for row in range(5):
            alone = cohort.logits(rows, [row])
            torch.testing.assert_close(padded[:, row], alone[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_i1_i2_together_is_alone(backbone, precision):
    """To the bit in bf16; in fp32 SiLU has other bits in the last elements of a tensor."""
    lost = genotype(*MAM.ops, learning_rate=1e30)

    def run(company, seeds):
        return train(backbone, company, seeds, n_rows=25, epochs=10, precision=precision)

    together = run([*COMPANY, lost], range(5))
    assert not together[-1].finite
    for i, one in enumerate(COMPANY):
        (alone,) = run([one], [i])
        assert len(alone.losses) == 50
        assert np.mean(alone.losses[-5:]) < np.mean(alone.losses[:5])
        if precision == "bf16":
            assert_same_training(alone, together[i])
        np.testing.assert_allclose(together[i].losses, alone.losses, rtol=0, atol=1e-6)


@pytest.mark.parametrize("company", [[TOP], [HEAD, HEAD], [TOP, HEAD, LORA]])
def test_kept_states_change_nothing(backbone, company):
    plain = train(backbone, company, epochs=4)
    cached = train(backbone, company, epochs=4, cache=FrozenCache(backbone, "eager", 7))
    for one, other in zip(plain, cached, strict=True):
        np.testing.assert_allclose(other.losses, one.losses, rtol=0, atol=1e-5)
        assert np.std(one.losses) > 1e-3, "it learns"


def language_model(family):
    torch.manual_seed(0)
    config = tiny_model(family).config
    config.use_cache = True
    model = LANGUAGE_MODELS[family](config).eval()
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    return model


def excited(model, genotype):
    """The model with ops whose parameters are all random."""
    injection = autopeft.attach(model, genotype, seed=0)
    with torch.no_grad():
        for tensor in injection.tensors(0).values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    return injection


@pytest.mark.parametrize(
    "one", [*COMPANY, HEADS], ids=["lora", "mam", "houlsby", "vectors", "heads"]
)
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_generation_with_a_cache_is_generation_without(family, one, beams, side):
    model = language_model(family)
    plain = state(model)
    injection = excited(model, one)
    batch = tiny_batch(model, 3)
    if side == "left":
        batch = {name: tensor.flip(1) for name, tensor in batch.items()}

    def generate(*, cached):
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        return model.generate(
            **batch, num_beams=beams, use_cache=cached, eos_token_id=None, **settings
        )

    assert torch.equal(generate(cached=True), generate(cached=False))
    injection.remove()
    assert same_bits(state(model), plain)


# A sliding window, as Gemma3's, slides past what is in the cache; ours always sees its prefix.
@pytest.mark.parametrize("family", [name for name in DECODERS if name != "gemma3_text"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
# What peft itself hands over, by the name that all of transformers 5 understand.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@torch.no_grad()
def test_a_prefix_is_that_of_peft_with_positions_from_zero(family):
    """Its wrapper counts the prefix as positions, so its keys and values are used as a cache."""
    length, batch = 4, tiny_batch(tiny_model(family))
    model = language_model(family)
    own = excited(model, genotype(same(Form.PREFIX, Tap.HEAD, length))).tensors(0)
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    theirs = get_peft_model(language_model(family), config).eval()
    by_layer = [
        own[f"layers.{layer}.prefix.head.head.{part}"]
        for layer in range(N_LAYERS)
        for part in ("keys", "values")
    ]
    theirs.prompt_encoder["default"].embedding.weight.copy_(torch.cat(by_layer, 1))
    n_rows, n_tokens = batch["input_ids"].shape
    expected = theirs.base_model(
        input_ids=batch["input_ids"],
        attention_mask=torch.cat([torch.ones(n_rows, length), batch["attention_mask"]], 1),
        position_ids=torch.arange(n_tokens).expand(n_rows, -1),
        past_key_values=theirs.get_prompt(n_rows),
    ).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(model(**batch).logits[real], expected[real], rtol=0, atol=1e-5)
    plain = language_model(family)(**batch).logits
    assert (plain[real] - expected[real]).abs().max() > 1e-2


def test_a_gate_needs_whole_rows(family):
    """Behind a cache it would see the newest token alone."""
    model = language_model(family)
    excited(model, genotype(lora(Tap.V, 3, scale="gated")))
    batch = tiny_batch(model, 3)
    more = {"max_new_tokens": 3, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
    written = model.generate(**batch, **more, use_cache=False)
    assert written.shape[1] == batch["input_ids"].shape[1] + 3
    with pytest.raises(DataError, match="generate with use_cache=False"):
        model.generate(**batch, **more, use_cache=True)
    ids = torch.tensor([[9, 8, 7]])  # without padding `generate` passes no mask
    with pytest.raises(DataError, match="generate with use_cache=False"):
        model.generate(ids, attention_mask=torch.ones_like(ids), **more, use_cache=True)


def test_query_heads_that_share_keys_share_a_multihead_adapter():
    """Two query heads to each of three heads of keys, four wide."""
    (shared, heads, width, size) = (2, 3, 4, 5)
    member = Member(0, 0, "x", size)
    adapter = MultiHead([member], layout=[0], d_read=shared * heads * width, d_write=heads * width)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(7, shared * heads, width, generator=generator)
    keys, values = (adapter.own(name, 0).view(size, heads, width) for name in ("keys", "values"))
    with torch.no_grad():
        for tensor in (keys, values):
            tensor.normal_(generator=generator)
        found = adapter(torch.zeros(1, 42, width), queries.view(1, 42, width)).view_as(queries)
        for i in range(shared * heads):
            hidden = torch.relu(queries[:, i] @ keys[:, i // shared].T)
            torch.testing.assert_close(found[:, i], hidden @ values[:, i // shared])


def test_what_words_come_out_of_stays_frozen(family):
    model = language_model(family)
    autopeft.attach(model, LORA, seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("autopeft_ops.") for name in trained)


def test_heads_are_grouped():
    model = tiny_model("llama")
    assert model.config.num_key_value_heads == N_HEADS // 2
