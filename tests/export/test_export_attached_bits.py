"""What was attached to a model that bitsandbytes keeps in nf4 is saved, other bits are refused."""

import pytest
import torch
from tiny import genotype, lora, op, same, tiny_batch, tiny_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
)
from winners import save_family

import autopeft
from autopeft.errors import ConfigError, DataError
from autopeft.export.native import read_description
from autopeft.model.quantized import check_bits
from autopeft.model.quantized_linear import QuantizedLinear
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

bitsandbytes = pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")

AUTO = AutoModelForSequenceClassification
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
IN_FULL = ["bert.pooler.dense", "classifier", "score", "classification_head", "lm_head"]
OPS = (lora(Tap.Q, (2, 0, 3), scale=2.0), op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 3))
INSIDE = same(Form.PREFIX, Tap.HEAD, 3)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("bits")


@pytest.fixture(scope="module")
def checkpoint(home):
    def of(family):
        return home / family if (home / family).exists() else save_family(home / family, family)

    return of


def in_few_bits(folder, auto=AUTO, *, skip=IN_FULL, **how):
    told = BitsAndBytesConfig(**(how or NF4), llm_int8_skip_modules=skip)
    model = auto.from_pretrained(folder, quantization_config=told)
    for module in model.modules():
        # Its kernel for some CPUs computes in bf16, and refuses matrices as small as these.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


@torch.no_grad()
def trained(model):
    ops = autopeft.attach(model, genotype(*OPS, INSIDE), seed=3)
    generator = torch.Generator().manual_seed(0)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        rows = parameter if parameter.dim() < 3 else parameter[:, :1]  # no padding
        rows.add_(0.2 * torch.randn(rows.shape, generator=generator))
    return ops


@pytest.mark.parametrize(
    ("family", "auto"), [("bert", AUTO), ("llama", AUTO), ("t5", AUTO), ("gpt2", None)]
)
def test_a_model_in_nf4_is_loaded_again_as_it_was(checkpoint, tmp_path, family, auto):
    model = in_few_bits(checkpoint(family), auto or AutoModelForCausalLM)
    trained(model).save(tmp_path)
    assert read_description(tmp_path)[0].scheme == "nf4"
    again, _ = autopeft.load(tmp_path)
    batch = tiny_batch(model)
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        torch.testing.assert_close(again(**batch).logits, expected, rtol=1e-4, atol=1e-4)
        full = (auto or AutoModelForCausalLM).from_pretrained(checkpoint(family))
        trained(full)
        assert (full.eval()(**batch).logits - expected).abs().max() > 1e-2, "bits count"


REFUSED = {
    "two rounds": ({**NF4, "bnb_4bit_use_double_quant": True}, IN_FULL, "without double quantiz"),
    "other numbers": ({"load_in_4bit": True}, IN_FULL, r'allowed: Bits.*bnb_4bit_quant_type="nf4"'),
    "eight bits": ({"load_in_8bit": True}, IN_FULL, "in a way that `autopeft.load` cannot make"),
    "more matrices": (
        NF4,
        ["classifier"],
        r"few bits, bert.pooler.dense among .*_modules=\['bert.pooler.dense', 'classifier'\]$",
    ),
    "fewer matrices": (NF4, [*IN_FULL, "query"], r"layer.0.attention.self.query, .* among them"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_bits_are_refused(checkpoint, tmp_path, what):
    how, skip, told = REFUSED[what]
    ops = trained(in_few_bits(checkpoint("bert"), skip=skip, **how))
    with pytest.raises(ConfigError, match=told):
        ops.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bits_of_another_checkpoint_are_refused(checkpoint, tmp_path):
    ops = trained(in_few_bits(checkpoint("bert")))
    other = tiny_model("bert")
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight[:8] *= -1
    save_family(tmp_path / "other", "bert")
    other.base_model.save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match=r"`bert.encoder.layer.1.output.dense` is not what .* nf4"):
        ops.save(tmp_path / "out", backbone=tmp_path / "other")


def test_bits_that_a_pass_on_a_cpu_has_rounded_are_refused():
    """As CPUs with AVX512-BF16 do it; on others none does."""
    plain = torch.nn.Linear(128, 64)
    layer = bitsandbytes.nn.Linear4bit(128, 64, compress_statistics=False, quant_type="nf4")
    layer.load_state_dict(plain.state_dict())
    model, ours = torch.nn.Sequential(layer.to("cpu").eval()), torch.nn.Sequential(plain)
    ours[0] = QuantizedLinear(plain, "nf4")
    check_bits(model, ours)
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(DataError, match="pass on the CPU has rounded the scales of `0` to bf16"):
        check_bits(model, ours)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_in_few_bits_is_refused_before_anything_is_changed(checkpoint, tmp_path, family):
    """Of RoBERTa's, which is a fresh one, transformers has left the bits to be made."""
    AUTO.from_pretrained(checkpoint(family)).save_pretrained(tmp_path)
    model = in_few_bits({"bert": tmp_path}.get(family, checkpoint(family)), skip=["bert.pooler"])
    with pytest.raises(DataError, match=r"`classifier[.a-z]*` of the task head is kept in few bit"):
        autopeft.attach(model, genotype(*OPS), seed=0)
    assert not [name for name, _ in model.named_modules() if "autopeft" in name]
