"""Backbones in few bits: what the bits stand for, and that trials notice nothing else of it."""

import copy
import json
import sys
from dataclasses import replace

import pytest
import torch
from study_factory import save_checkpoint
from tiny import (
    HOULSBY,
    LORA,
    MAM,
    TASK,
    VECTORS,
    assert_same_training,
    genotype,
    op,
    same_bits,
    state,
    tiny_backbone,
    tiny_model,
    tiny_rows,
    train,
)
from tiny_language import writing_backbone
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

import autopeft
from autopeft.errors import ConfigError, DataError
from autopeft.export.merged import merge
from autopeft.model.backbone import cast, load_backbone
from autopeft.model.experts import experts
from autopeft.model.quantized import check_gradients, dequantize, quantize
from autopeft.model.quantized_linear import BLOCK, QuantizedLinear, quantized
from autopeft.ops.point import Point
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.training.footprint import trial_bytes
from autopeft.training.settings import TrainingSettings

bitsandbytes = pytest.importorskip("bitsandbytes")

SCHEMES = ("nf4", "int8")
DORA = genotype(op(Form.DORA, Tap.ATTN_IN, Tap.Q, 3), op(Form.DORA, Tap.FFN_MID, Tap.FFN_OUT, 2))


def in_few_bits(family, scheme):
    """A tiny backbone whose layers are quantized."""
    model = tiny_model(family)
    quantize(model, scheme, tiny_backbone(family, model=model).fresh)
    return replace(tiny_backbone(family, model=model), scheme=scheme)


@pytest.fixture(scope="module", params=SCHEMES)
def backbone(request):
    """A BERT in each scheme."""
    return in_few_bits("bert", request.param)


def weight_of(d_out, d_in):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(d_out, d_in, generator=generator)


def module_of(scheme, weight=None):
    plain = nn.Linear(24, 16)
    plain.weight.data = weight_of(16, 24) if weight is None else weight
    return QuantizedLinear(plain, scheme)


def test_nf4_is_the_nearest_of_sixteen_numbers_times_the_largest_of_a_block():
    weight = weight_of(16, 24)
    found = module_of("nf4").weight.double().flatten().view(-1, BLOCK)
    blocks = weight.double().flatten().view(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True)
    numbers = bitsandbytes.functional.get_4bit_type("nf4", device="cpu").double()
    nearest = (blocks / largest)[..., None].sub(numbers).abs().argmin(-1)
    torch.testing.assert_close(found, numbers[nearest] * largest, rtol=1e-6, atol=0)


def test_int8_is_off_by_half_a_step_and_the_rounding_to_fp16():
    weight = weight_of(16, 24)
    step = weight.double().abs().amax(1, keepdim=True) / 127
    off = (module_of("int8").weight.double() - weight.double()).abs()
    assert bool((off <= 0.57 * step).all())
    assert off.max() > 0.4 * step.min()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_products_and_gradients_are_those_of_the_numbers(scheme):
    module = module_of(scheme)
    module.bias.requires_grad_(requires_grad=True)
    x = weight_of(30, 24).view(2, 15, 24).requires_grad_()
    bias = module.bias.detach().clone().requires_grad_()
    out, wanted = module(x), linear(x, module.weight, bias)
    assert torch.equal(out, wanted)
    g = torch.randn_like(out)
    found = torch.autograd.grad((out * g).sum(), (x, module.bias))
    torch.testing.assert_close(found, torch.autograd.grad((wanted * g).sum(), (x, bias)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_cast_reaches_all_but_the_bits(scheme):
    module = module_of(scheme)
    half = module_of(scheme).to(torch.bfloat16)
    assert torch.equal(half.codes, module.codes)
    assert torch.equal(half.scales, module.scales)
    assert half.weight.dtype is half.bias.dtype is torch.bfloat16
    assert torch.equal(half.weight, module.weight.bfloat16())
    assert half(torch.ones(2, 24, dtype=torch.bfloat16)).dtype is torch.bfloat16


def test_the_matrices_of_layers_are_quantized_and_nothing_else(backbone):
    found = [name for name, _ in quantized(backbone.model)]
    assert len(found) == 6 * backbone.shape.n_layers
    assert all(name.startswith("bert.encoder.layer.") for name in found)


def test_experts_are_kept_as_they_are_which_is_told():
    model = writing_backbone("mixtral").model
    before = [weights.clone() for weights in experts(model)]
    packed = copy.deepcopy(model)
    note = quantize(packed, "nf4")
    assert all(map(torch.equal, before, experts(packed)))
    n_bytes = sum(weights.nbytes for weights in before)
    assert note.endswith(f"; those of experts are not, {n_bytes / 2**20:,.1f} MiB in fp32")
    assert "experts" not in quantize(copy.deepcopy(tiny_model("llama")), "nf4")


def test_the_shape_is_that_of_the_plain_model(backbone):
    assert backbone.shape == tiny_backbone("bert").shape


def test_the_fingerprint_is_another_one_in_each_scheme(backbone):
    others = {
        tiny_backbone("bert").fingerprint,
        *(in_few_bits("bert", s).fingerprint for s in SCHEMES),
    }
    assert len(others) == 3
    assert backbone.fingerprint in others


COMPANY = [LORA, MAM, HOULSBY, VECTORS, DORA]


def alone_and_together(backbone, company, **how):
    before = state(backbone.model)
    together = train(backbone, company, **how)
    for trial, one in enumerate(company):
        (alone,) = train(backbone, [one], [trial], **how)
        assert_same_training(alone, together[trial])
    assert same_bits(state(backbone.model), before)
    return together


def test_i1_and_i6_hold_in_few_bits(backbone):
    for trained in alone_and_together(backbone, COMPANY):
        assert len({*trained.losses}) == len(trained.losses)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "family", ["gpt2", "llama", "t5", "modernbert", "deberta-v2", "bart", "phi3"]
)
def test_i1_and_i6_hold_in_few_bits_in_every_kind_of_model(family, scheme):
    company = [LORA, DORA] if family == "deberta-v2" else [LORA, MAM, DORA]
    alone_and_together(in_few_bits(family, scheme), company)


def test_i1_holds_in_few_bits_and_bf16(backbone):
    half = cast(backbone, "bf16")
    together = train(half, [LORA, MAM], precision="bf16")
    (alone,) = train(half, [MAM], [1], precision="bf16")
    assert_same_training(alone, together[1])


def test_training_is_that_of_the_numbers(backbone):
    plain = in_few_bits("bert", backbone.scheme)
    dequantize(plain.model)
    assert not list(quantized(plain.model))
    for one, other in zip(train(backbone, COMPANY), train(plain, COMPANY), strict=True):
        torch.testing.assert_close(one.losses, other.losses, rtol=1e-6, atol=1e-6)


def test_a_step_keeps_no_numbers(backbone):
    """A weight that autograd kept would be as large as the plain one."""
    how = {"task": TASK, "settings": TrainingSettings(epochs=1, batch_size=4), "rows": tiny_rows()}
    matrices = sum(m.in_features * m.out_features for _, m in quantized(backbone.model))
    plain = trial_bytes(tiny_backbone("bert"), [LORA], **how)
    assert trial_bytes(backbone, [LORA], **how) - plain < 4 * matrices / 3


def test_what_merges_is_the_numbers_and_the_ops(backbone):
    tensors = train(backbone, [LORA])[0].tensors
    ops = {name: t for name, t in tensors.items() if name.startswith("layers.")}
    plain = merge(backbone.model, LORA, 0, ops)
    assert not list(quantized(plain))
    assert len(list(quantized(backbone.model))) == 6 * backbone.shape.n_layers


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_module_that_keeps_its_weights_the_other_way_round_comes_back(scheme):
    turned = Conv1D(16, 24)
    turned.weight.data = weight_of(16, 24).T.contiguous()
    packed = QuantizedLinear(turned, scheme)
    assert torch.equal(packed.weight, module_of(scheme).weight)
    back = packed.plain()
    assert isinstance(back, Conv1D)
    x = weight_of(5, 24)
    torch.testing.assert_close(back(x), packed(x))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A BERT without a head, and a tokenizer."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_a_model_is_loaded_in_few_bits(checkpoint):
    found = load_backbone(str(checkpoint), 2, scheme="nf4")
    plain = load_backbone(str(checkpoint), 2)
    assert found.shape == plain.shape
    assert found.fingerprint != plain.fingerprint
    assert found.scheme == "nf4"
    assert found.notes[-1].startswith("the weight matrices of the layers are kept in nf4: ")
    assert isinstance(found.model.classifier, nn.Linear)
    assert not isinstance(found.model.classifier, QuantizedLinear)


def test_a_model_that_passes_no_gradient_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(QuantizedLinear, "forward", lambda self, x: linear(x, self.weight).detach())
    wanted = r"`bert\.encoder.*query`, a QuantizedLinear of Tensor, passes no gradient"
    with pytest.raises(DataError, match=wanted):
        load_backbone(str(checkpoint), 2, scheme="int8")
    with pytest.raises(DataError, match=wanted):
        autopeft.attach(in_few_bits("bert", "nf4").model, LORA, seed=0)


def test_what_does_not_work_on_its_device_is_refused(monkeypatch):
    def fail(*_):
        raise NotImplementedError("no kernel\nof this kind")

    module = module_of("nf4")
    monkeypatch.setattr(QuantizedLinear, "forward", fail)
    with pytest.raises(DataError, match=r"`` cannot be computed on cpu: no kernel$"):
        check_gradients(module)


def test_a_checkpoint_that_is_quantized_already_is_refused(checkpoint, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "torchao"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(DataError, match=r"is quantized already; give the one that it was made of"):
        load_backbone(str(tmp_path), 2)


def test_without_the_library_the_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(DataError, match=r"nf4 needs bitsandbytes: pip install 'autopeft\[quant"):
        load_backbone(str(checkpoint), 2, scheme="nf4")


def test_ops_do_not_read_weights_that_somebody_else_has_packed():
    packed = bitsandbytes.nn.Linear4bit(24, 16, quant_type="nf4").to("cpu")
    with pytest.raises(ConfigError, match=r"a Linear4bit whose weights are packed cannot be read"):
        _ = Point(packed, "out").weight
