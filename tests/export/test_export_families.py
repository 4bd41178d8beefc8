"""Every target, for a model of every family: what was written loads and computes the same.

The ops are those that the target holds in this family, as many kinds as there are. What it cannot
hold is refused by name, with the targets that can.
"""

import functools
import json
import re
import runpy

import pytest
import torch
from model.test_model_kin import APART
from tiny import HALVES, N_LAYERS, TWINS, op
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from winners import make_winner

from autopeft.errors import ConfigError
from autopeft.export import reload
from autopeft.export.proof import TOLERANCE, compare, question_of
from autopeft.export.refusal import HOLDS, refuse
from autopeft.export.run import TARGETS
from autopeft.space.forms import Activation, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.genotype_file import load_genotype
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.study.spec import load_study_spec

# peft asks a model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
FAMILIES = ("bert", "roberta", "gpt2", "llama", "t5", "bart")

WITH_HEADS = ("qwen3_5_text", "qwen3_next")
"""Of the hybrids, those that classify."""
PARTS = ("gemma3", "mistral3")
"""Of models that read images, too."""
FURTHER = ("smollm3", "glm4", "phi3", "mixtral", "qwen2_moe", *HALVES, *APART, *WITH_HEADS, *PARTS)
LIKE_OTHERS = {*TWINS, *FURTHER} - {"phi3", "mpnet", "mixtral", "qwen3_5_text", "gemma3"}

LORA = [(Form.LOWRANK, LINEAR_INPUT[tap], tap) for tap in (Tap.Q, Tap.V, Tap.FFN_OUT, Tap.FFN_GATE)]
CROSS = [
    (Form.LOWRANK, LINEAR_INPUT[tap], tap)
    for tap in (Tap.CROSS_Q, Tap.CROSS_K, Tap.CROSS_V, Tap.CROSS_OUT)
]
SCALES = [(Form.SCALE, tap, tap) for tap in (Tap.K, Tap.V, Tap.FFN_MID, Tap.CROSS_K)]
PREFIXES = [(Form.PREFIX, tap, tap) for tap in (Tap.HEAD, Tap.CROSS_HEAD)]
BIASES = [(Form.BIAS, tap, tap) for tap in (Tap.Q, Tap.FFN_UP, Tap.CROSS_V)]
NORMS = [(Form.SCALE, tap, tap) for tap in (Tap.ATTN_NORM, Tap.CROSS_NORM, Tap.FFN_NORM)]
ADAPTERS = [
    (Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT),
    (Form.BOTTLENECK, Tap.CROSS_OUT, Tap.CROSS_OUT),
]
KRONECKERS = [
    (Form.KRONECKER, Tap.PRE_O, Tap.ATTN_OUT),
    (Form.KRONECKER, Tap.FFN_IN, Tap.FFN_UP),
    (Form.KRONECKER, Tap.CROSS_PRE_O, Tap.CROSS_OUT),
]
OTHERS = [
    (Form.DORA, Tap.FFN_MID, Tap.FFN_OUT),
    KRONECKERS[0],
    (Form.VERA, Tap.ATTN_IN, Tap.K),
    (Form.MULTIHEAD, Tap.CROSS_Q, Tap.CROSS_HEAD),
]
WANTED = {
    "native": [*LORA, *CROSS, *SCALES, *PREFIXES, *BIASES, *NORMS, *ADAPTERS, *OTHERS],
    "peft": [*LORA, *CROSS, *BIASES, *NORMS, OTHERS[2]],
    "peft ia3": [*SCALES, *NORMS],
    "peft dora": [OTHERS[0], *LORA[:2], *CROSS],
    "peft lokr": [*KRONECKERS, *NORMS],
    "merged": [*LORA, *CROSS, *SCALES, *BIASES, *NORMS, *ADAPTERS, *OTHERS],
    "adapters": [PREFIXES[0], ADAPTERS[0]],
    "yaml": [*LORA, *CROSS, *PREFIXES, *ADAPTERS],
}
"""By target, what it may hold; a family without biases or norms behind sublayers lacks some."""
REFUSED = {
    "peft": [*PREFIXES, *ADAPTERS, OTHERS[3]],
    "merged": [*PREFIXES, OTHERS[3], (Form.BOTTLENECK, Tap.FFN_OUT, Tap.FFN_OUT)],
    "adapters": [*CROSS, *SCALES, *BIASES, *OTHERS, PREFIXES[1]],
}


NO_LOKR = ("peft lokr", "gpt2")
"""Its weight matrices are no Linears."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def plain(home):
    """Of each family a winner without ops, made once."""
    return functools.cache(functools.partial(make_winner, home))


def ops_in(shape, wanted):
    """Ops at those of the wanted taps that a model has, of another size in each layer."""
    for form, read, write in wanted:
        if {read, write} <= set(shape.widths):
            there = shape.layers_with([read, write])
            sizes = tuple(_size(form, i) if i in there else 0 for i in range(shape.n_layers))
            own = shape.ffn_activation or Activation.RELU
            yield Op(form, read, write, sizes, own if form is Form.BOTTLENECK else None)


def _size(form, layer):
    if form in (Form.SCALE, Form.BIAS):
        return 1
    return 4 if form in (Form.KRONECKER, Form.PREFIX) else 2 + layer


CASES = [
    *((kind, family) for kind in WANTED if kind.split()[0] in TOLERANCE for family in FAMILIES),
    *(("native", family) for family in ("distilbert", "modernbert", "deberta-v2")),
    *((kind, family) for kind in ("native", "peft", "merged") for family in FURTHER),
    *((kind, "phi3") for kind in ("peft ia3", "peft dora")),
]
MARKED = [
    pytest.param(kind, family, marks=[pytest.mark.slow] * (family in LIKE_OTHERS))
    for kind, family in CASES
    if (kind, family) != NO_LOKR
]


@pytest.mark.parametrize(("kind", "family"), MARKED)
def test_what_is_loaded_is_what_was_trained(home, plain, tmp_path, kind, family):
    target = kind.split()[0]
    shape = plain(family).backbone.shape
    ops = [one for one in ops_in(shape, WANTED[kind]) if HOLDS[target](one, shape) is None]
    assert len(ops) > 1
    if kind in ("native", "peft", "merged"):  # wherever it stands
        assert {*ops_in(shape, [*LORA, *CROSS])} <= {*ops}
    winner = make_winner(home, family, *ops)
    refuse(target, winner.genotype, shape)
    TARGETS[target](winner, tmp_path)
    found, _ = reload.answer(question_of(target, tmp_path, winner))
    # As `autopeft export` proves it: an output near zero is no more exact than the largest one.
    assert compare(found, winner.logits, winner.outputs, TOLERANCE[target]).changed == 0
    assert (found - found[0]).abs().max() > 1e-2, "the rows differ"
    assert (found - plain(family).logits).abs().max() > 1e-2, "the ops do something"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", REFUSED)
def test_what_a_target_cannot_hold_is_refused_by_name(plain, family, target):
    shape = plain(family).backbone.shape
    for one in ops_in(shape, REFUSED[target]):
        with pytest.raises(ConfigError) as refusal:
            refuse(target, Genotype(shape.n_layers, (one,), 1e-3), shape)
        said = rf"--to {target} cannot hold this: {one.form} {one.read}->{one.write}: .* \((.*) can"
        able = re.search(said, str(refusal.value))[1].split(", ")
        assert able == [name for name in HOLDS if HOLDS[name](one, shape) is None]
        assert {"native", "yaml"} <= set(able)
        assert target not in able


def put_under(head, body):
    """Let a language model compute with the body of another one."""
    if head.base_model is head:  # as T5's, which has encoder and decoder as its own
        for name in ("shared", "encoder", "decoder"):
            setattr(head, name, getattr(body, name))
    else:
        setattr(head, head.base_model_prefix, body)
    return head


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_what_is_loaded_generates_under_the_head_of_a_language_model(home, plain, tmp_path, family):
    """An export is a classifier, which generates nothing; its body does, with and without cache."""
    shape = plain(family).backbone.shape
    ops = [one for one in ops_in(shape, WANTED["merged"]) if HOLDS["merged"](one, shape) is None]
    generators = AutoModelForSeq2SeqLM if shape.n_encoder_layers else AutoModelForCausalLM
    ids = torch.randint(5, 19, (3, 6), generator=torch.Generator().manual_seed(0))

    def written(body, **how):
        torch.manual_seed(0)  # Llama's head is not in the checkpoint
        model = put_under(generators.from_pretrained(home / family), body).eval()
        if family == "t5":
            # transformers counts the layers of T5's encoder when it makes a cache for its decoder.
            model.config.num_layers = model.config.num_decoder_layers
        settings = {"min_new_tokens": 6, "max_new_tokens": 6, "suppress_tokens": [0]}
        more = {"return_dict_in_generate": True, "output_logits": True, **how}
        mask = torch.ones_like(ids)
        out = model.generate(input_ids=ids, attention_mask=mask, **settings, **more)
        return torch.stack(out.logits)

    def loaded(target, *ops):
        out = tmp_path / f"{target}{len(ops)}"
        out.mkdir()
        winner = make_winner(home, family, *ops)
        TARGETS[target](winner, out)
        return reload.load(question_of(target, out, winner))[0].base_model

    exact = written(loaded("native", *ops))
    torch.testing.assert_close(written(loaded("merged", *ops)), exact, rtol=1e-4, atol=1e-4)
    assert (written(plain(family).backbone.model.base_model) - exact).abs().max() > 1e-2
    body = loaded("native", *ops, *ops_in(shape, PREFIXES))
    cached, again = (written(body, num_beams=2, use_cache=cache) for cache in (True, False))
    torch.testing.assert_close(cached, again, rtol=1e-4, atol=1e-4)
    assert not hasattr(make_winner(home, family).backbone.model, "generate")


def test_lokr_at_a_conv1d_is_refused(home, tmp_path):
    winner = make_winner(home, "gpt2", op(*KRONECKERS[0], 4))
    with pytest.raises(ConfigError, match=r"h\.0\.attn\.c_proj is none; merged can hold it"):
        TARGETS["peft"](winner, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_of_adapters_has_the_sizes(home, plain, tmp_path, family):
    shape = plain(family).backbone.shape
    ops = tuple(ops_in(shape, WANTED["adapters"]))
    winner = make_winner(home, family, *ops)
    refuse("adapters", winner.genotype, shape)
    TARGETS["adapters"](winner, tmp_path)
    config = json.loads((tmp_path / "adapters_config.json").read_text(encoding="utf-8"))
    adapter, prefix = config["configs"]
    assert (prefix["prefix_length"], prefix["cross_prefix"], prefix["leave_out"]) == (4, False, [])
    factors = {int(i): factor for i, factor in adapter["reduction_factor"].items()}
    assert tuple(int(32 // factors[i]) for i in range(N_LAYERS)) == (2, 3, 4)
    assert adapter["non_linearity"] == (shape.ffn_activation or "relu")


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_adapters_puts_lora_of_a_decoder_into_attention_to_the_encoder_too(plain, family):
    shape = plain(family).backbone.shape
    for sizes, said in (((2, 2, 2), "attention to the encoder"), ((2, 0, 0), None)):
        reason = HOLDS["adapters"](Op(*LORA[0], sizes), shape)
        assert said in reason if said else reason is None


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_what_is_trained_again_has_the_same_ops(home, plain, tmp_path, family):
    shape = plain(family).backbone.shape
    winner = make_winner(home, family, *ops_in(shape, WANTED["yaml"]))
    TARGETS["yaml"](winner, tmp_path)
    assert load_genotype(tmp_path / "genotype.yaml") == winner.genotype
    assert load_study_spec(tmp_path / "study.yaml") == load_study_spec(winner.study.spec_file)
    found = runpy.run_path(str(tmp_path / "finetune.py"))
    batch = found["tokenizer"](["a great film"], return_tensors="pt")
    logits = found["model"](**batch).logits
    logits.sum().backward()
    trained = [p for p in found["model"].parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    head = sum(tensor.numel() for tensor in winner.head.values())
    assert sum(p.numel() for p in trained) >= winner.genotype.count_params(shape) + head
