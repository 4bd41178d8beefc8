"""DeBERTa: its projections of positions are those of each trial."""

import copy

import pytest
import torch
from tiny import (
    HEAD,
    HEADLESS,
    HOULSBY,
    MAM,
    N_LAYERS,
    PFEIFFER,
    VECTORS,
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
    train,
)

from autopeft.errors import ConfigError
from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.training.frozen import FrozenCache

LORA = genotype(lora(Tap.Q, (1, 2, 3)), lora(Tap.K, (8, 0, 9), scale=2.0), lora(Tap.V, 3))
TOP = genotype(lora(Tap.K, (0, 0, 4)), same(Form.BIAS, Tap.Q, (0, 0, 1)))
COMPANY = [LORA, HEAD, VECTORS, HOULSBY, TOP, PFEIFFER]


@pytest.fixture(params=HEADLESS)
def backbone(request):
    return tiny_backbone(request.param)


def test_together_is_alone_to_the_bit(backbone):
    together = train(backbone, COMPANY, n_rows=25, epochs=2)
    for trial, one in enumerate(COMPANY):
        (alone,) = train(backbone, [one], [trial], n_rows=25, epochs=2)
        assert_same_training(alone, together[trial])


@pytest.mark.parametrize("company", [[TOP], [HEAD, HEAD], [TOP, HEAD, PFEIFFER]])
def test_kept_states_change_nothing(backbone, company):
    plain = train(backbone, company, epochs=2)
    cached = train(backbone, company, epochs=2, cache=FrozenCache(backbone, "eager", 7))
    for one, other in zip(plain, cached, strict=True):
        torch.testing.assert_close(other.losses, one.losses, rtol=0, atol=1e-5)


@torch.no_grad()
def hidden(model, batch):
    return model.base_model(**batch).last_hidden_state


def excited(model, *genotypes):
    injection = Injection(model, genotypes, range(len(genotypes)), "eager")
    with torch.no_grad():
        for trial in range(len(genotypes)):
            generator = torch.Generator().manual_seed(trial)
            for tensor in injection.tensors(trial).values():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return injection


def test_positions_are_projected_with_the_ops_of_their_trial(backbone):
    """The weights with all ops in them, for one trial after the other."""
    model, batch = backbone.model, tiny_batch(backbone.model)
    trials = [genotype(lora(Tap.Q, 2), lora(Tap.K, 3)), HEAD, genotype(lora(Tap.K, 5))]
    injection = excited(model, *trials)
    found = hidden(model, batch).chunk(3)
    tensors = [
        {name: t.clone() for name, t in injection.tensors(trial).items()} for trial in range(3)
    ]
    injection.remove()
    for trial, own in enumerate(tensors):
        plain = copy.deepcopy(model)
        for layer in range(N_LAYERS):
            for tap in (Tap.Q, Tap.K):
                path = f"layers.{layer}.lowrank.attn_in.{tap}"
                if f"{path}.a" in own:
                    weight = Anatomy(plain).point(layer, tap).weight
                    weight += own[f"{path}.b"].T @ own[f"{path}.a"]
        torch.testing.assert_close(found[trial], hidden(plain, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tap", [Tap.Q, Tap.K])
def test_what_is_read_behind_the_projection_is_of_states(backbone, tap):
    """Not of positions, which the same module projects behind them."""
    model, batch = backbone.model, tiny_batch(backbone.model)
    one = genotype(op(Form.LOWRANK, tap, Tap.FFN_OUT, (0, 0, 3)))
    injection = excited(model, one, HEAD, one)
    found = hidden(model, batch).chunk(3)
    trials = [{name: t.clone() for name, t in injection.tensors(i).items()} for i in (0, 2)]
    injection.remove()
    anatomy, read = Anatomy(model), []
    handles = [
        anatomy.point(2, tap).module.register_forward_hook(lambda *args: read.append(args[-1]))
    ]
    plain = hidden(model, batch)
    torch.testing.assert_close(found[1], plain, rtol=0, atol=1e-5)
    for own, expected in zip(trials, (found[0], found[2]), strict=True):
        path = f"layers.2.lowrank.{tap}.ffn_out"
        delta = read[0] @ own[f"{path}.a"].T @ own[f"{path}.b"]
        handles += [
            anatomy.point(2, Tap.FFN_OUT).module.register_forward_hook(
                lambda _, __, out, delta=delta: out + delta
            )
        ]
        torch.testing.assert_close(expected, hidden(model, batch), rtol=0, atol=1e-5)
        handles.pop().remove()
    handles.pop().remove()


def test_the_head_reads_the_same_where_nothing_else_is_computed(backbone):
    model = copy.deepcopy(backbone.model)
    batch, states = tiny_batch(model), {}
    for first_token in (False, True):
        injection = Injection(model, COMPANY, range(6), "eager", first_token=first_token)
        with torch.no_grad():
            for trial in range(6):
                for tensor in injection.tensors(trial).values():
                    tensor.fill_(0.1 * (trial + 1))
        states[first_token] = hidden(model, batch)[:, :1]
        injection.remove()
    torch.testing.assert_close(states[True], states[False], rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_trials", [1, 3])
def test_removal_leaves_nothing_behind(backbone, n_trials):
    model, batch = backbone.model, tiny_batch(backbone.model)
    before, plain = state(model), hidden(model, batch)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    injection = excited(model, *[LORA] * n_trials)
    twin = copy.deepcopy(model)
    states = hidden(model, batch)
    assert torch.equal(hidden(twin, batch), states)
    injection.remove()
    assert same_bits(state(model), before)
    assert torch.equal(hidden(model, batch), plain)
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert torch.equal(hidden(twin, batch), states)


def test_prefixes_are_refused():
    with pytest.raises(ConfigError, match="the model has no tap head; it has: attn_in"):
        Injection(tiny_model("deberta-v2"), [MAM], [0], "eager")
