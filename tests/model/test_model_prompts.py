"""Prompts: the longer rows are those of live `peft`, and the heads read the text's own tokens."""

import pytest
import torch
from peft import PromptEncoderConfig, PromptTuningConfig, get_peft_model
from test_model_decoders import excited, language_model
from tiny import (
    DECODERS,
    N_HEADS,
    N_LAYERS,
    N_POSITIONS,
    PROMPTED,
    TASK,
    as_params,
    genotype,
    lora,
    same,
    same_bits,
    state,
    tiny_backbone,
    tiny_batch,
    tiny_model,
    tiny_rows,
    train,
)

from autopeft.errors import ConfigError, DataError
from autopeft.model.inject import Injection
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.training.cohort import Cohort
from autopeft.training.frozen import FrozenCache
from autopeft.training.settings import TrainingSettings

# peft asks a model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LENGTH = 5
PROMPT = same(Form.PROMPT, Tap.EMBED, (LENGTH, 0, 0))
PROMPT_MLP = same(Form.PROMPT_MLP, Tap.EMBED, (LENGTH, 0, 0))
PATH = "layers.0.{}.embed.embed.{}"


@pytest.fixture(params=as_params(PROMPTED))
def family(request):
    return request.param


def randomised(tensors):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.normal_(0.0, 0.3, generator=generator)
    return tensors


def theirs_of(family, tensors):
    """Live peft around the base model, with the same prompt or encoder."""
    base = tiny_model(family).base_model
    width = base.get_input_embeddings().weight.shape[1]
    common = {
        "task_type": "FEATURE_EXTRACTION",
        "num_virtual_tokens": LENGTH,
        "token_dim": width,
        "num_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
    }
    if (flat := PATH.format("prompt", "prompt")) in tensors:
        theirs = get_peft_model(base, PromptTuningConfig(**common))
        theirs.prompt_encoder["default"].embedding.weight.data.copy_(tensors[flat])
        return theirs.eval()
    theirs = get_peft_model(base, PromptEncoderConfig(**common, encoder_hidden_size=width))
    encoder = theirs.prompt_encoder["default"]
    own = {name: tensors[PATH.format("prompt_mlp", name)] for name in ("embedding", *LINEARS)}
    encoder.embedding.weight.data.copy_(own["embedding"])
    for name, place in LINEARS.items():
        encoder.mlp_head[place].weight.data.copy_(own[name])
        bias = tensors[PATH.format("prompt_mlp", name.replace("linear", "bias"))]
        encoder.mlp_head[place].bias.data.copy_(bias[0])
    return theirs.eval()


LINEARS = {"linear1": 0, "linear2": 2, "linear3": 4}


@pytest.mark.parametrize("op", [PROMPT, PROMPT_MLP], ids=["prompt", "p-tuning"])
@torch.no_grad()
def test_every_token_of_a_text_is_as_in_peft(family, op):
    model = tiny_model(family)
    batch = tiny_batch(model)
    plain = model.base_model(**batch).last_hidden_state
    tensors = randomised(Injection(model, [genotype(op)], [0], "eager").tensors(0))
    found = model.base_model(**batch).last_hidden_state
    expected = theirs_of(family, tensors)(**batch).last_hidden_state[:, LENGTH:]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)
    assert (found - plain)[real].abs().max() > 1e-2


@pytest.mark.parametrize("more", [(), (lora(Tap.Q, 2), lora(Tap.FFN_OUT, (0, 2, 3)))])
@torch.no_grad()
def test_the_head_reads_the_token_that_it_reads_without_a_prompt(family, more):
    """In a cohort, which may cut the last layer to one token; padded, alone, and from outside."""
    backbone, rows = tiny_backbone(family), tiny_rows(5)
    with Cohort(backbone, [genotype(PROMPT, *more)], [0], TASK, TrainingSettings()) as cohort:
        tensors = randomised(cohort.injection.tensors(0))
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
        together = cohort.logits(rows, range(5))[0]
        for row in range(5):
            alone = cohort.logits(rows, [row])[0, 0]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)
        head = {name: tensor.clone() for name, tensor in cohort.head.tensors(0).items()}
    model = backbone.model
    injection = Injection(model, [genotype(PROMPT, *more)], [0], "eager")
    injection.load(0, kept)
    model.load_state_dict(head, strict=False)
    logits = model(**tiny_batch(model)).logits
    torch.testing.assert_close(logits, together, rtol=0, atol=1e-5)


@torch.no_grad()
def test_first_and_last_token_are_those_of_the_text():
    for family, read in {"bert": LENGTH, "llama": -1, "gpt2": -1}.items():
        model = tiny_model(family)
        batch = tiny_batch(model, 1)
        tensors = randomised(Injection(model, [genotype(PROMPT)], [0], "eager").tensors(0))
        states = theirs_of(family, tensors)(**batch).last_hidden_state[:, read]
        if family == "bert":
            expected = model.classifier(model.bert.pooler(states[:, None]))
        else:
            expected = model.score(states)
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=1e-5)


def test_a_gate_counts_the_prompt_as_tokens_that_it_sees():
    gated = lora(Tap.FFN_OUT, 3, scale="gated")
    (trained,) = train(tiny_backbone("bert"), [genotype(PROMPT, gated)])
    assert trained.finite
    assert all(tensor.any() for name, tensor in trained.tensors.items() if ".gate." in name)


def test_kept_states_change_nothing_since_a_prompt_is_below_them():
    backbone = tiny_backbone("bert")
    cache = FrozenCache(backbone, "eager", 7)
    (kept,) = train(backbone, [genotype(PROMPT)], cache=cache)
    (plain,) = train(backbone, [genotype(PROMPT)])
    assert kept.losses == plain.losses
    assert same_bits(kept.tensors, plain.tensors)


def test_a_row_that_leaves_no_room_is_refused():
    model = tiny_model("bert")
    length = N_POSITIONS - 3
    Injection(model, [genotype(same(Form.PROMPT, Tap.EMBED, (length, 0, 0)))], [0], "eager")
    model(torch.full((1, 3), 7))
    with pytest.raises(
        DataError, match="37 before a row of 4 tokens is more than the 40 positions"
    ):
        model(torch.full((1, 4), 7))


def test_a_prompt_stands_below_the_lowest_layer_alone():
    misplaced = genotype(same(Form.PROMPT, Tap.EMBED, (1, 2, 0)))
    with pytest.raises(
        ConfigError, match="is in layer 1, where there is no tap embed; layer 0 can have it"
    ):
        Injection(tiny_model("bert"), [misplaced], [0], "eager")
    with pytest.raises(ConfigError, match="a prompt stands at `embed`, and nothing else does"):
        same(Form.BIAS, Tap.EMBED, (1, 0, 0))
    with pytest.raises(ConfigError, match="the model has no tap embed"):
        Injection(tiny_model("t5"), [genotype(PROMPT)], [0], "eager")


# Where windows slide, padding between prompt and text pushes the prompt out of sight.
@pytest.mark.parametrize("family", [name for name in DECODERS if name != "gemma3_text"])
@torch.no_grad()
def test_generation_goes_on_behind_prompt_and_text(family):
    """Padded on the left or not; behind a cache the prompt could not be told from the text."""
    model = language_model(family)
    plain = state(model)
    injection = excited(model, genotype(PROMPT))
    more = {"max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
    ids = torch.tensor([[9, 8, 7, 6]])
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), **more, use_cache=False)
    padded = torch.cat([torch.zeros_like(ids[:, :2]), ids], 1)
    mask = padded.ne(0).long()
    written = model.generate(padded, attention_mask=mask, **more, use_cache=False)
    assert torch.equal(written[:, 2:], alone)
    with pytest.raises(DataError, match="generate with use_cache=False"):
        model.generate(ids, attention_mask=torch.ones_like(ids), **more, use_cache=True)
    injection.remove()
    assert same_bits(state(model), plain)
