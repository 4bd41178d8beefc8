"""Encoder-decoders: two kinds of layers in one numbering, attention to the encoder, the eos."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from tiny import (
    CROSSED,
    D_FFN,
    D_INNER,
    D_MODEL,
    HEAD,
    LORA,
    MAM,
    N_LAYERS,
    N_OUTPUTS,
    TASK,
    assert_same_training,
    genotype,
    lora,
    numbers,
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
from transformers import BartForConditionalGeneration, T5ForConditionalGeneration

import autopeft
from autopeft.errors import ConfigError
from autopeft.export.merged import merge
from autopeft.model.anatomy import Anatomy
from autopeft.model.head import head_modules
from autopeft.model.inject import Injection
from autopeft.space.forms import Activation, Form
from autopeft.space.taps import CROSS, LINEAR_INPUT, Tap
from autopeft.training.cohort import Cohort
from autopeft.training.frozen import FrozenCache
from autopeft.training.settings import TrainingSettings

EOS = 2
WEIGHTS = (Tap.CROSS_Q, Tap.CROSS_K, Tap.CROSS_V, Tap.CROSS_OUT)
CROSS_LORA = genotype(
    *(lora(tap, (0, size, 9), scale=2.0) for size, tap in enumerate(WEIGHTS)),
    lora(Tap.K, (2, 0, 3)),
)
PREFIXES = genotype(
    same(Form.PREFIX, Tap.HEAD, (5, 0, 9)),
    same(Form.PREFIX, Tap.CROSS_HEAD, (0, 12, 3)),
    op(Form.MULTIHEAD, Tap.CROSS_Q, Tap.CROSS_HEAD, (0, 4, 4)),
)
ADAPTERS = genotype(
    op(Form.BOTTLENECK, Tap.CROSS_IN, Tap.CROSS_OUT, (0, 3, 9)),
    op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (4, 0, 2), scale=4.0),
)
VECTORS = genotype(
    *(same(Form.SCALE, tap, (0, 1, 1)) for tap in (Tap.CROSS_K, Tap.CROSS_PRE_O)),
    *(same(Form.BIAS, tap, (0, 1, 1)) for tap in (Tap.CROSS_V, Tap.CROSS_OUT)),
)
COMPANY = (CROSS_LORA, HEAD, PREFIXES, ADAPTERS, VECTORS, LORA)


@pytest.fixture(params=CROSSED)
def family(request):
    return request.param


@pytest.fixture
def backbone(family):
    return tiny_backbone(family)


def with_ends(rows):
    """The rows, each with an end of its sentence."""
    return dataclasses.replace(rows, input_ids=[[*row, EOS] for row in rows.input_ids])


@torch.no_grad()
def hidden(model, batch):
    return model.base_model(**batch).last_hidden_state


def excited(model, *genotypes):
    """Ops whose parameters are all random."""
    injection = Injection(model, genotypes, range(len(genotypes)), "eager")
    with torch.no_grad():
        for trial in range(len(genotypes)):
            generator = torch.Generator().manual_seed(trial)
            for tensor in injection.tensors(trial).values():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return injection


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_together_is_alone_to_the_bit(backbone, precision):
    together = train(backbone, COMPANY, n_rows=25, epochs=2, precision=precision)
    for trial, one in enumerate(COMPANY):
        (alone,) = train(backbone, [one], [trial], n_rows=25, epochs=2, precision=precision)
        assert_same_training(alone, together[trial])
        assert one is HEAD or len(set(alone.losses)) == len(alone.losses)


def test_company_that_changes_the_input_of_a_sublayer_changes_no_more_than_rounding(backbone):
    """Behind BART's LayerNorms that input is the residual too: its gradient has another order."""
    writer = genotype(same(Form.BIAS, Tap.CROSS_IN, (0, 1, 1)), learning_rate=3e-2)
    together = train(backbone, [ADAPTERS, writer], n_rows=25, epochs=10)
    (alone,) = train(backbone, [ADAPTERS], n_rows=25, epochs=10)
    assert len(alone.losses) == 50
    np.testing.assert_allclose(together[0].losses, alone.losses, rtol=0, atol=1e-6)


def test_a_diverged_trial_changes_no_bit_of_the_others(backbone):
    together = train(backbone, [CROSS_LORA, genotype(*PREFIXES.ops, learning_rate=1e30), PREFIXES])
    assert [trial.finite for trial in together] == [True, False, True]
    for trial, one in ((0, CROSS_LORA), (2, PREFIXES)):
        (alone,) = train(backbone, [one], [trial])
        assert_same_training(alone, together[trial])


@pytest.mark.parametrize("gated", [False, True])
def test_the_logits_are_those_of_the_model_itself(family, gated):
    model = tiny_model(family, gated=gated)
    backbone, rows = tiny_backbone(family, model=model), with_ends(tiny_rows(5))
    with Cohort(backbone, [HEAD], [0], TASK, TrainingSettings()) as cohort, torch.no_grad():
        found = cohort.logits(rows, range(5))[0]
        batch = {"input_ids": torch.zeros(5, max(rows.lengths), dtype=torch.int64)}
        for i, row in enumerate(rows.input_ids):
            batch["input_ids"][i, : len(row)] = torch.tensor(row)
        batch["attention_mask"] = batch["input_ids"].ne(0).long()
        expected = model(**batch).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found.shape == (5, N_OUTPUTS)


def test_the_head_reads_the_last_end_of_a_sentence_and_else_the_last_token(backbone):
    plain = tiny_rows(5)
    rows = dataclasses.replace(
        plain, input_ids=[[7, EOS, 9, EOS, 8], [7, EOS, 9, EOS], [7, 9, 8], [7, 9], [5, EOS]]
    )
    with Cohort(backbone, COMPANY, range(6), TASK, TrainingSettings()) as cohort, torch.no_grad():
        together = cohort.logits(rows, range(5))
        for row in range(5):
            alone = cohort.logits(rows, [row])
            torch.testing.assert_close(together[:, row], alone[:, 0], rtol=0, atol=1e-5)
        # A decoder's state does not depend on what comes after, the encoder's does.
        assert not torch.allclose(together[0, 0], together[0, 1], atol=1e-4)
        assert not torch.allclose(together[0, 2], together[0, 3], atol=1e-4)


def test_low_rank_ops_at_the_weights_of_cross_attention_are_part_of_them(backbone):
    model, batch = backbone.model, tiny_batch(backbone.model)
    plain = hidden(model, batch)
    injection = excited(model, CROSS_LORA, HEAD)
    found = hidden(model, batch).chunk(2)
    tensors = {name: tensor.clone() for name, tensor in injection.tensors(0).items()}
    injection.remove()
    assert torch.equal(found[1], plain)
    merged = copy.deepcopy(model)
    for one in CROSS_LORA.ops:
        for layer in (i for i, size in enumerate(one.sizes) if size):
            words = f"layers.{layer}.lowrank.{LINEAR_INPUT[one.write]}.{one.write}"
            words += ".x2" if one.scale == 2 else ""
            weight = Anatomy(merged).point(layer, one.write).weight
            weight += one.scale * tensors[f"{words}.b"].T @ tensors[f"{words}.a"]
    torch.testing.assert_close(found[0], hidden(merged, batch), rtol=0, atol=1e-4)
    assert (found[0] - plain).abs().max() > 1e-2


def test_a_parallel_adapter_with_barts_activation_is_a_wider_ffn_in_encoder_and_decoder():
    model = tiny_model("bart")
    batch, gelu = tiny_batch(model), Activation.GELU
    one = genotype(
        op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (5, 0, 9), scale=4.0, activation=gelu),
        same(Form.BIAS, Tap.CROSS_V, (0, 1, 1)),
    )
    injection = excited(model, one)
    found = hidden(model, batch)
    tensors = {name: tensor.clone() for name, tensor in injection.tensors(0).items()}
    injection.remove()
    plain = merge(model, one, 0, tensors)
    assert Anatomy(plain).shape().widths[Tap.FFN_MID] == D_FFN + 9
    torch.testing.assert_close(hidden(plain, batch), found, rtol=0, atol=1e-4)
    assert (found - hidden(model, batch)).abs().max() > 1e-2


@torch.no_grad()
def test_a_prefix_of_cross_attention_is_more_that_the_encoder_has_put_out(family):
    """With keys and values that are projections of states, as if those were further tokens."""
    model = tiny_model(family)
    batch, length = tiny_batch(model), 3
    memory = model.base_model.get_encoder()(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    more = torch.randn(length, D_MODEL, generator=torch.Generator().manual_seed(0))
    longer = torch.cat([more.expand(len(memory), -1, -1), memory], 1)
    mask = torch.cat([torch.ones(len(memory), length), batch["attention_mask"]], 1)
    decoder = model.base_model.get_decoder()
    expected = decoder(
        input_ids=batch["decoder_input_ids"],
        encoder_hidden_states=longer,
        encoder_attention_mask=mask.long(),
    ).last_hidden_state
    plain = hidden(model, batch)
    one = genotype(same(Form.PREFIX, Tap.CROSS_HEAD, (0, length, length)))
    injection = Injection(model, [HEAD, one], [0, 1], "eager")
    anatomy = Anatomy(model)
    for layer in range(1, N_LAYERS):
        for name, tap in (("keys", Tap.CROSS_K), ("values", Tap.CROSS_V)):
            own = injection.tensors(1)[f"layers.{layer}.prefix.cross_head.cross_head.{name}"]
            own.copy_(anatomy.point(layer, tap).module(more))
    found = hidden(model, batch).chunk(2)
    assert torch.equal(found[0], plain)
    torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-2


@pytest.mark.parametrize("one", [g for g in COMPANY if g not in (HEAD, PREFIXES)])
def test_fresh_ops_are_no_ops_and_are_counted(backbone, one):
    model, batch = backbone.model, tiny_batch(backbone.model)
    plain = hidden(model, batch)
    injection = Injection(model, [one], [0], "eager")
    assert torch.equal(hidden(model, batch), plain)
    assert numbers(injection.tensors(0)) == one.count_params(backbone.shape)
    assert all(p.requires_grad for p in injection.ops.parameters())
    hidden_state = model.base_model(**batch).last_hidden_state
    hidden_state.pow(2).sum().backward()
    assert all(p.grad is not None for p in injection.ops.parameters())
    injection.remove()


def test_the_widths_of_t5_are_those_of_its_attention():
    shape = Anatomy(tiny_model("t5")).shape()
    counted = {tap: genotype(lora(tap, (0, 1, 0))).count_params(shape) for tap in WEIGHTS}
    assert set(counted.values()) == {D_MODEL + D_INNER}


def test_an_op_of_cross_attention_in_the_encoder_is_refused(family):
    one = genotype(lora(Tap.CROSS_Q, (2, 0, 1)))
    with pytest.raises(
        ConfigError,
        match=r"cross_in->cross_q is in layer 0, where there is no tap cross_in, cross_q; "
        "layers 1-2 can have it",
    ):
        Injection(tiny_model(family), [one], [0], "eager")


def test_a_model_without_an_encoder_has_no_cross_attention():
    one = genotype(lora(Tap.CROSS_Q, (0, 0, 1)))
    with pytest.raises(ConfigError, match="the model has no tap cross_in, cross_q; it has"):
        Injection(tiny_model("gpt2"), [one], [0], "eager")


def test_gated_ops_are_refused(family):
    one = genotype(op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 2, scale="gated"))
    with pytest.raises(ConfigError, match="gated ops are not for models with an encoder and a dec"):
        Injection(tiny_model(family), [one], [0], "eager")


def test_a_gated_t5_has_a_gate():
    model = tiny_model("t5", gated=True)
    shape = Anatomy(model).shape()
    assert Tap.FFN_GATE in shape.widths
    injection = excited(model, genotype(lora(Tap.FFN_GATE, 2)), HEAD)
    batch = tiny_batch(model)
    with_op, without = hidden(model, batch).chunk(2)
    injection.remove()
    assert torch.equal(without, hidden(model, batch))
    assert not torch.equal(with_op, without)


def test_states_are_not_kept(backbone):
    with pytest.raises(ValueError, match="rows of their own from the start"):
        FrozenCache(backbone, "eager", 7)


def test_the_modules_of_the_head(backbone):
    found = [name for name, _ in head_modules(backbone.model, backbone.fresh)]
    assert found == ["classification_head.dense", "classification_head.out_proj"]


def test_removal_leaves_nothing_behind(backbone):
    model, batch = backbone.model, tiny_batch(backbone.model)
    before, plain = state(model), hidden(model, batch)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    injection = excited(model, *COMPANY)
    twin = copy.deepcopy(model)
    states = hidden(model, batch)
    assert torch.equal(hidden(twin, batch), states)
    injection.remove()
    assert same_bits(state(model), before)
    assert torch.equal(hidden(model, batch), plain)
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def language_model(family):
    torch.manual_seed(0)
    classes = {"bart": BartForConditionalGeneration, "t5": T5ForConditionalGeneration}
    config = tiny_model(family).config
    config.use_cache = True
    if family == "t5":
        # transformers counts the layers of T5's encoder when it makes a cache for its decoder.
        config.num_layers, config.num_decoder_layers = 2, 1
    model = classes[family](config).eval()
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("one", [CROSS_LORA, PREFIXES, ADAPTERS, VECTORS, MAM])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_generation_with_a_cache_is_generation_without(family, one, beams, side):
    model = language_model(family)
    batch = {name: t for name, t in tiny_batch(model, 3).items() if name != "decoder_input_ids"}
    if side == "left":
        batch = {name: tensor.flip(1) for name, tensor in batch.items()}

    def generate(*, cached):
        settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
        return model.generate(**batch, use_cache=cached, eos_token_id=None, **settings)

    plain = generate(cached=True)
    first = Anatomy(model).n_encoder_layers
    ops = [
        dataclasses.replace(o, sizes=(*[0] * first, *o.sizes[first:])) if o.write in CROSS else o
        for o in one.ops
    ]
    injection = autopeft.attach(model, genotype(*ops), seed=0)
    with torch.no_grad():
        for tensor in injection.tensors(0).values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(generate(cached=True), generate(cached=False))
    injection.remove()
    assert torch.equal(generate(cached=True), plain)


def test_what_words_come_out_of_stays_frozen(family):
    model = language_model(family)
    autopeft.attach(model, LORA, seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("autopeft_ops.") for name in trained)


def test_every_tap_of_cross_attention_is_there():
    assert set(Anatomy(tiny_model("bart")).shape().widths) >= CROSS
    losses = train(tiny_backbone("bart"), [CROSS_LORA], n_rows=24, epochs=8)[0].losses
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
