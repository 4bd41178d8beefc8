"""The attention function: its kernels, its mask, and what it does for prefixes."""

import copy

import pytest
import torch
from tiny import (
    FIRST_WORD,
    HEADED,
    N_WORDS,
    as_params,
    genotype,
    op,
    tiny_batch,
    tiny_model,
    tiny_rows,
)
from transformers import AttentionInterface, AttentionMaskInterface

from autopeft.errors import DataError
from autopeft.model import kernels
from autopeft.model.inject import Injection
from autopeft.model.kernels import KERNELS, attend
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

PREFIX = op(Form.PREFIX, Tap.HEAD, Tap.HEAD, (5, 0, 9))
LONGER = op(Form.PREFIX, Tap.HEAD, Tap.HEAD, 12)
BIAS = op(Form.BIAS, Tap.V, Tap.V)


@pytest.fixture(params=as_params(HEADED))
def family(request):
    return request.param


def injected(family, kernel="eager"):
    """A model with trials that have prefixes of their own lengths, and one that has none."""
    model = tiny_model(family)
    genotypes = [genotype(one) for one in (PREFIX, BIAS, LONGER)]
    Injection(model, genotypes, range(3), kernel)
    return model


@torch.no_grad()
def hidden(model, batch):
    return model.base_model(**batch).last_hidden_state


def real(states, batch):
    """The states of real tokens, for every trial."""
    mask = batch["attention_mask"].bool()
    return states.view(-1, *mask.shape, states.shape[-1])[:, mask]


def test_without_ops_it_is_the_models_own_attention_bit_for_bit(family):
    model = tiny_model(family)
    batch = tiny_batch(model)
    plain = hidden(model, batch)
    Injection(model, [genotype()], [0], "eager")
    assert model.config._attn_implementation == "autopeft_eager"
    assert torch.equal(hidden(model, batch), plain)


def test_kernels_agree(family):
    batch = tiny_batch(tiny_model(family))
    eager, sdpa = (real(hidden(injected(family, kernel), batch), batch) for kernel in KERNELS)
    assert not torch.equal(eager, sdpa)
    torch.testing.assert_close(eager, sdpa, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_scores_are_held_to_a_range_where_a_model_does(kernel):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 5, 8, generator=generator) for _ in range(3))
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, ..., 4] = -torch.inf
    scores = 0.7 * torch.tanh(2 * q @ k.transpose(2, 3) / 0.7) + mask
    found = attend(kernel, q, k, v, mask, 2.0, 0.0, softcap=0.7)
    torch.testing.assert_close(found, (scores.softmax(-1) @ v).transpose(1, 2))


def test_sinks_of_attention_are_refused():
    states = torch.zeros(1, 1, 2, 4)
    attend_by_name = AttentionInterface()["autopeft_eager"]
    with pytest.raises(DataError, match="of Identity is given s_aux, which"):
        attend_by_name(torch.nn.Identity(), states, states, states, None, s_aux=torch.zeros(1))


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_stands_in_the_padding_changes_no_bit(family, kernel):
    model = injected(family, kernel)
    batch = tiny_batch(model)
    padding = batch["attention_mask"] == 0
    noise = torch.randint(FIRST_WORD, N_WORDS, padding.shape)
    other = batch | {"input_ids": torch.where(padding, noise, batch["input_ids"])}
    assert padding.any()
    assert torch.equal(real(hidden(model, batch), batch), real(hidden(model, other), batch))


@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_might_as_well_not_be_there(family, kernel):
    model = injected(family, kernel)
    batch = tiny_batch(model)
    padded = hidden(model, batch).unflatten(0, (3, -1))
    for row, length in enumerate(tiny_rows(5).lengths):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in batch.items()}
        expected = hidden(model, alone)
        torch.testing.assert_close(padded[:, row, :length], expected, rtol=0, atol=1e-5)


def test_a_prefix_works_where_no_mask_is_given(family):
    model = injected(family)
    batch = tiny_batch(model, 1)
    without = {name: tensor for name, tensor in batch.items() if name != "attention_mask"}
    torch.testing.assert_close(hidden(model, without), hidden(model, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_registered_with_a_mask(kernel):
    # transformers gives no mask at all to a function that has no mask builder.
    assert f"autopeft_{kernel}" in AttentionInterface()
    assert f"autopeft_{kernel}" in AttentionMaskInterface()


@pytest.mark.parametrize("n_tokens", [3, 15, 16, 21])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_eager_attention_is_softmax_attention_in_parts_of_any_size(
    monkeypatch, n_tokens, dtype, near
):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(6, 2, n_tokens, 4, generator=generator).to(dtype) for _ in range(4)]
    mask = torch.zeros(3, 1, n_tokens, n_tokens, dtype=dtype)
    mask[1, ..., -1] = torch.finfo(dtype).min

    def attended():
        query, key, value = (one.clone().requires_grad_() for one in inputs[:3])
        out = attend("eager", query, key, value, mask, 0.5, 0.0).transpose(1, 2)
        return [out, *torch.autograd.grad(out, [query, key, value], inputs[3])]

    query, key, value, grad = (one.double().requires_grad_() for one in inputs)
    weights = (query @ key.mT * 0.5 + mask.repeat(2, 1, 1, 1).double()).softmax(-1)
    expected = [weights @ value]
    expected += torch.autograd.grad(expected[0], [query, key, value], grad)
    whole = attended()
    for one, other in zip(whole, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=near, atol=near)
    monkeypatch.setattr(kernels, "_CACHED", 1)
    assert all(map(torch.equal, attended(), whole))


def test_a_model_that_ignores_the_registry_is_refused(family):
    model = tiny_model(family)
    Injection(model, [genotype(PREFIX)], [0], "eager")
    batch = tiny_batch(model)
    model(**batch)
    # As a model does that accepts any name and computes attention on its own.
    for module in model.base_model.modules():
        if module is not model.base_model and hasattr(module, "config"):
            module.config = copy.deepcopy(module.config)
            module.config._attn_implementation = "eager"
    with pytest.raises(DataError, match=f"`{family}` do not call the registered attention"):
        model(**batch)


@pytest.mark.parametrize("runs_before", [False, True])
@torch.no_grad()
def test_another_attention_is_refused_in_every_pass_until_ours_is_back(family, runs_before):
    model = tiny_model(family)
    Injection(model, [genotype(PREFIX)], [0], "sdpa")
    batch = tiny_batch(model)
    expected = model(**batch).logits if runs_before else None
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        for part in (model, model.base_model):
            with pytest.raises(DataError) as refusal:
                part(**batch)
            assert f"by `set_attn_implementation` it is `{name}` now" in str(refusal.value)
    model.set_attn_implementation("autopeft_sdpa")
    assert expected is None or torch.equal(model(**batch).logits, expected)
