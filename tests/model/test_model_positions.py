"""A plain pass of rows that are padded on the left computes what it computes of each row alone."""

import inspect

import pytest
import torch
from test_model_decoders import excited, language_model
from test_model_kin import APART, BERT, tiny
from tiny import (
    FIRST_WORD,
    N_WORDS,
    genotype,
    lora,
    op,
    same,
    same_bits,
    state,
    tiny_batch,
    tiny_model,
)
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomModel,
    DynamicCache,
    RobertaConfig,
    RobertaModel,
    StaticCache,
)

from autopeft.model.attention import kernel_for
from autopeft.model.inject import Injection
from autopeft.model.positions import begin_at_zero
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

LORA = genotype(lora(Tap.Q, 2), op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 3))
PREFIX = genotype(same(Form.PREFIX, Tap.HEAD, (3, 0, 2)))
PROMPT = genotype(same(Form.PROMPT, Tap.EMBED, (4, 0, 0)))
GATED = genotype(lora(Tap.V, 3, scale="gated"), same(Form.PREFIX, Tap.HEAD, 2))
LENGTHS = (3, 12, 7)

CASES = [
    *((family, one) for family in ("gpt2", "llama") for one in (LORA, PREFIX, PROMPT, GATED)),
    *(("gemma3_text", one) for one in (LORA, PREFIX)),  # windows count padding before a prompt
    *(("glm", one) for one in (PREFIX, PROMPT)),
    *((family, LORA) for family in ("gpt_neo", "gptj")),
]


def writer(family):
    return tiny(family, AutoModelForCausalLM) if family in APART else language_model(family)


def some_rows(side):
    generator = torch.Generator().manual_seed(0)
    words = [torch.randint(FIRST_WORD, N_WORDS, (n,), generator=generator) for n in LENGTHS]
    ids = torch.nn.utils.rnn.pad_sequence(words, batch_first=True, padding_side=side)
    return words, {"input_ids": ids, "attention_mask": (ids > 0).long()}


def alone(model, words):
    return [
        model(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).logits[0]
        for row in words
    ]


def assert_as_alone(found, expected, mask):
    for row, own, real in zip(found, expected, mask.bool(), strict=True):
        torch.testing.assert_close(row[real], own, rtol=0, atol=1e-5)


def unaware(model, one):
    """The ops that `excited` puts in, and nothing that gives positions."""
    injection = Injection(model, [one], [0], kernel_for(one))
    generator = torch.Generator()
    with torch.no_grad():
        for tensor in injection.tensors(0).values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator.manual_seed(1)))
    return injection


@pytest.mark.parametrize(("family", "one"), CASES)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_row_is_as_it_is_alone_whichever_side_is_padded(family, one, side):
    model = writer(family)
    words, batch = some_rows(side)
    plain, before = state(model), model(**batch).logits
    ops = excited(model, one)
    expected = alone(model, words)
    assert_as_alone(model(**batch).logits, expected, batch["attention_mask"])
    embedded = {
        "inputs_embeds": model.get_input_embeddings()(batch["input_ids"]),
        "attention_mask": batch["attention_mask"].bool(),
    }
    if family != "gemma3_text":  # which scales embeddings of tokens
        assert_as_alone(model(**embedded).logits, expected, batch["attention_mask"])
    ops.remove()
    assert torch.equal(model(**batch).logits, before)
    assert same_bits(state(model), plain)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_what_comes_behind_a_cache_goes_on_where_that_ends(family, static):
    model = writer(family)
    words, batch = some_rows("left")
    excited(model, PREFIX)
    ids, mask = batch.values()
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    cache = StaticCache(config=model.config, max_cache_len=20) if static else DynamicCache()
    parts = [(ids[:, :9], mask[:, :9]), (ids[:, 9:], mask)]
    found = torch.cat(
        [model(input_ids=i, attention_mask=m, **{name: cache}).logits for i, m in parts], 1
    )
    assert_as_alone(found, alone(model, words), mask)


@pytest.mark.parametrize(("family", "one"), CASES)
@torch.no_grad()
def test_generation_gives_its_own_positions_to_the_bit(family, one):
    _, batch = some_rows("left")

    def generate(put):
        model = writer(family)
        put(model, one)
        more = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        cached = one not in (PROMPT, GATED)
        more |= {"use_cache": cached, "return_dict_in_generate": True, "output_logits": True}
        return torch.stack(model.generate(**batch, **more).logits)

    assert torch.equal(generate(excited), generate(unaware))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_positions_that_are_given_are_taken(family):
    _, batch = some_rows("left")
    given = batch | {"position_ids": torch.arange(12)[None] * 2}
    found, expected = writer(family), writer(family)
    excited(found, PREFIX)
    unaware(expected, PREFIX)
    assert torch.equal(found(**given).logits, expected(**given).logits)


@pytest.mark.parametrize("masked", ["right", "not", "by a square"])
@torch.no_grad()
def test_where_nothing_pads_on_the_left_bits_stay(masked):
    _, batch = some_rows("right")
    if masked != "right":
        del batch["attention_mask"]
    if masked == "by a square":
        batch["attention_mask"] = torch.zeros(3, 1, 12, 12).masked_fill(
            torch.ones(12, 12).triu(1).bool(), torch.finfo(torch.float32).min
        )
    for family in ("gpt2", "llama"):
        found, expected = writer(family), writer(family)
        excited(found, LORA)
        unaware(expected, LORA)
        assert torch.equal(found(**batch).logits, expected(**batch).logits)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "t5", "bart"])
@torch.no_grad()
def test_other_models_are_as_they_were(family):
    found, expected = tiny_model(family), tiny_model(family)
    batch = tiny_batch(found)
    for name in ("input_ids", "attention_mask"):
        batch[name] = batch[name].flip(1)
    excited(found, LORA)
    unaware(expected, LORA)
    assert torch.equal(found(**batch).logits, expected(**batch).logits)


def test_a_model_without_positions_is_left_alone():
    """BLOOM's attention is biased by distances that it reads from the mask."""
    model = BloomModel(BloomConfig(hidden_size=8, n_layer=1, n_head=2, vocab_size=N_WORDS))
    assert not begin_at_zero(model)


def test_a_pass_of_nothing_is_refused_by_the_model_itself():
    model = writer("llama")
    excited(model, LORA)
    with pytest.raises(ValueError, match="input_ids"):
        model(attention_mask=torch.ones(1, 3))


def test_an_encoder_that_was_made_a_decoder_counts_as_it_does():
    """RoBERTa's positions begin behind the number of the token that pads."""
    config = RobertaConfig(**BERT, is_decoder=True, pad_token_id=1)
    assert not begin_at_zero(RobertaModel(config))
