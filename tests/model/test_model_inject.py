"""Putting ops in and taking them out: the fork, the copies, what is left behind."""

import copy
import pickle

import pytest
import torch
from tiny import (
    FAMILIES,
    N_LAYERS,
    as_params,
    genotype,
    numbers,
    op,
    same_bits,
    state,
    tiny_batch,
    tiny_model,
)

from autopeft.errors import ConfigError
from autopeft.model.anatomy import Anatomy
from autopeft.model.head import OPS_ATTRIBUTE
from autopeft.model.inject import Injection
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.taps import Tap


def lora(sizes=3):
    return op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, sizes)


def adapter(sizes=4):
    return op(Form.BOTTLENECK, Tap.FFN_NORM, Tap.FFN_OUT, sizes)


def prefix(sizes=5):
    return op(Form.PREFIX, Tap.HEAD, Tap.HEAD, sizes)


MIXED = genotype(lora(), adapter(), prefix(), op(Form.BIAS, Tap.FFN_UP, Tap.FFN_UP))


@pytest.fixture(params=as_params(FAMILIES))
def model(request):
    return tiny_model(request.param)


def inject(model, *genotypes, kernel="eager"):
    """Ops with the parameters they could have after training."""
    injection = Injection(model, genotypes, range(len(genotypes)), kernel)
    scramble(injection)
    return injection


@torch.no_grad()
def scramble(injection):
    for trial in range(injection.n_trials):
        generator = torch.Generator().manual_seed(trial)
        for tensor in injection.tensors(trial).values():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.3)


@torch.no_grad()
def hidden(model, batch):
    return model.base_model(**batch).last_hidden_state


def hooks(model):
    return [
        hook
        for module in model.modules()
        for table in (module._forward_hooks, module._forward_pre_hooks)
        for hook in table.values()
    ]


class TestFork:
    @pytest.mark.parametrize("lowest", [1, 2])
    def test_trials_above_a_fork_are_the_same_without_one(self, model, lowest):
        batch = tiny_batch(model)
        sizes = tuple(3 if layer >= lowest else 0 for layer in range(N_LAYERS))
        high = [genotype(lora(sizes)), genotype(adapter(sizes)), genotype(prefix(sizes))]
        forked = inject(model, *high)
        assert forked.forks.forks == (lowest,) * 3
        states = hidden(model, batch)
        forked.remove()
        with_a_low_one = inject(model, *high, MIXED)
        assert with_a_low_one.forks.forks == (lowest, lowest, lowest, 0)
        assert torch.equal(hidden(model, batch)[: len(states)], states)

    def test_every_trial_begins_at_its_own_lowest_op(self, model):
        batch = tiny_batch(model, 5)
        rows = []
        for layer in Anatomy(model).layers:
            layer.register_forward_hook(lambda _, __, out: rows.append(len(out)))
        trials = genotype(lora((0, 0, 3))), genotype(), genotype(adapter((0, 3, 3)))
        inject(model, *trials)
        assert len(hidden(model, batch)) == 15
        # the trunk; it and one trial; it, for the one without ops, and two trials
        assert rows == [5, 10, 15]

    def test_the_trunk_gets_no_gradient(self, model):
        injection = inject(model, MIXED, genotype(lora((0, 0, 3))))
        seen = []
        last = Anatomy(model).layers[1]
        last.register_forward_hook(lambda _, __, out: out.register_hook(seen.append) and None)
        model.base_model(**tiny_batch(model, 5)).last_hidden_state.sum().backward()
        (gradient,) = seen
        own, trunk = gradient.chunk(2)
        assert own.any()
        assert not trunk.any()
        assert all(p.grad is not None for p in injection.ops.parameters())

    @pytest.mark.parametrize("trials", [1, 2])
    def test_without_ops_rows_begin_at_the_top(self, model, trials):
        batch = tiny_batch(model, 5)
        plain = hidden(model, batch)
        injection = inject(model, *[genotype()] * trials)
        assert injection.forks.forks == (N_LAYERS,) * trials
        assert torch.equal(hidden(model, batch), plain.repeat(trials, 1, 1))

    def test_alone_it_needs_no_hook(self, model):
        inject(model, genotype())
        assert hooks(model) == []


@torch.no_grad()
def frozen_states(model, batch):
    """What each layer reads, and what the head does."""
    return model.base_model(**batch, output_hidden_states=True).hidden_states


class TestGivenStates:
    COMPANIES = (
        ((0, 0, 3), (0, 3, 3), (0, 0, 0)),
        ((0, 0, 3), (3, 0, 3)),
        ((0, 0, 0), (0, 0, 0)),
        ((0, 3, 0),),
        ((0, 0, 0),),
    )

    @pytest.mark.parametrize("company", COMPANIES)
    def test_they_stand_for_the_layers_below(self, model, company):
        batch = tiny_batch(model, 5)
        states = frozen_states(model, batch)
        trials = [genotype(lora(sizes)) for sizes in company]
        computed = inject(model, *trials)
        expected = hidden(model, batch)
        computed.remove()
        before, layers = list(model.modules()), Anatomy(model).layers
        given = Injection(model, trials, range(len(trials)), "eager", given=True)
        scramble(given)
        given.states.update({fork: states[fork] for fork in given.forks.forks if fork})
        rows = []
        for layer in layers:
            layer.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
        assert torch.equal(hidden(model, batch), expected)
        forks = given.forks.forks
        assert rows == [
            5 * sum(fork <= layer for fork in forks) for layer in range(min(forks), N_LAYERS)
        ]
        given.remove()
        assert list(model.modules()) == before


HEADS = genotype(
    op(Form.MULTIHEAD, Tap.Q, Tap.HEAD, 4),
    op(Form.LOWRANK, Tap.PRE_O, Tap.ATTN_OUT, 3),
    op(Form.BIAS, Tap.Q, Tap.Q),
    op(Form.SCALE, Tap.K, Tap.K),
    op(Form.SCALE, Tap.PRE_O, Tap.PRE_O),
)
ACROSS = genotype(op(Form.BOTTLENECK, Tap.ATTN_IN, Tap.ATTN_OUT, 4), lora((0, 0, 3)))
WHOLE = [
    genotype(op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, 3, scale="gated")),
    genotype(op(Form.BOTTLENECK, Tap.PRE_O, Tap.ATTN_OUT, 3, scale="gated")),
    genotype(op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 3, scale="gated")),
]
"""Ops that read more than the first token's query, or more of what becomes of it."""


def tokens_and_rows(model, layer, role):
    """How many tokens of how many rows a module reads."""
    seen = []
    module = Anatomy(model).module(layer, role)
    module.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[:2])))
    return seen


class TestFirstToken:
    @pytest.mark.parametrize(("kernel", "near"), [("eager", 1e-6), ("sdpa", 3e-6)])
    @pytest.mark.parametrize("given", [False, True])
    def test_the_head_reads_what_it_would_have_read(self, model, given, kernel, near):
        batch = tiny_batch(model, 5)
        trials = [
            MIXED,
            genotype(op(Form.BOTTLENECK, Tap.ATTN_IN, Tap.FFN_OUT, 4), adapter()),
            genotype(op(Form.BOTTLENECK, Tap.ATTN_NORM, Tap.ATTN_OUT, 4), lora((0, 0, 3))),
            genotype(),
            HEADS,
            ACROSS,
        ]
        states = frozen_states(model, batch)
        whole = inject(model, *trials, kernel=kernel)
        expected = hidden(model, batch)[:, :1]
        whole.remove()
        cut = Injection(model, trials, range(len(trials)), kernel, given=given, first_token=True)
        scramble(cut)
        if given:
            cut.states[N_LAYERS] = states[N_LAYERS][:, :1]
        of_queries = tokens_and_rows(model, N_LAYERS - 1, "q")
        of_keys = tokens_and_rows(model, N_LAYERS - 1, "k")
        of_outputs = tokens_and_rows(model, N_LAYERS - 1, "o")
        torch.testing.assert_close(hidden(model, batch), expected, rtol=0, atol=near)
        n_tokens = batch["input_ids"].shape[1]
        (rows,) = {n_rows for n_rows, _ in of_keys}
        assert of_keys == [(rows, n_tokens)]
        assert of_queries == of_outputs == [(rows, 1)]

    def test_a_query_behind_a_prompt_sees_what_its_own_mask_shows(self):
        model = tiny_model("bert")
        model.config.is_decoder = True  # so that the rows of the mask differ
        batch, states = tiny_batch(model, 5), []
        for first_token in (False, True):
            prompt = genotype(op(Form.PROMPT, Tap.EMBED, Tap.EMBED, (4, 0, 0)))
            injection = Injection(model, [prompt], [0], "eager", first_token=first_token)
            states.append(hidden(model, batch)[:, :1])
            injection.remove()
        torch.testing.assert_close(*states, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("one", WHOLE)
    def test_what_reads_whole_rows_has_them(self, model, one):
        batch = tiny_batch(model, 5)
        whole = inject(model, one, HEADS)
        expected = hidden(model, batch)[:, :1]
        whole.remove()
        cut = Injection(model, [one, HEADS], range(2), "eager", first_token=True)
        scramble(cut)
        of_queries = tokens_and_rows(model, N_LAYERS - 1, "q")
        assert torch.equal(hidden(model, batch)[:, :1], expected)
        assert of_queries == [(10, batch["input_ids"].shape[1])]

    def test_other_trials_have_the_bits_that_they_have_without_it(self, model):
        batch = tiny_batch(model, 5)
        few = Injection(model, [HEADS, MIXED], range(2), "eager", first_token=True)
        scramble(few)
        expected = hidden(model, batch)
        few.remove()
        more = Injection(model, [HEADS, MIXED, WHOLE[0]], range(3), "eager", first_token=True)
        scramble(more)
        assert torch.equal(hidden(model, batch)[:10], expected)


class TestSharedRows:
    @pytest.mark.parametrize("role", ["q", "k", "v"])
    def test_the_lowest_layer_projects_them_once(self, model, role):
        inject(model, genotype(lora((0, 3, 3))), genotype(prefix((0, 2, 2))), genotype(adapter()))
        seen = [tokens_and_rows(model, i, role) for i in range(N_LAYERS)]
        batch = tiny_batch(model, 5)
        hidden(model, batch)
        n_tokens = batch["input_ids"].shape[1]
        # The lowest layer has rows of the last trial and of the trunk.
        assert seen == [[(5, n_tokens)], [(15, n_tokens)], [(15, n_tokens)]]

    def test_not_where_an_op_writes_what_is_projected(self, model):
        batch = tiny_batch(model, 5)
        alone = inject(model, genotype(lora()))
        expected = hidden(model, batch)
        alone.remove()
        inject(model, genotype(lora()), genotype(op(Form.BIAS, Tap.ATTN_IN, Tap.ATTN_IN)))
        seen = tokens_and_rows(model, 0, "q")
        states = hidden(model, batch)
        assert [rows for rows, _ in seen] == [10]
        assert torch.equal(states[:5], expected)
        assert not torch.allclose(states[5:], expected)


class TestRemoval:
    @pytest.mark.parametrize("kernel", ["eager", "sdpa"])
    def test_it_restores_the_model(self, model, kernel):
        batch = tiny_batch(model)
        model.requires_grad_(requires_grad=True)
        before, plain = state(model), hidden(model, batch)
        attributes = {name: set(vars(module)) for name, module in model.named_modules()}
        injection = inject(model, MIXED, genotype(), genotype(lora()), kernel=kernel)
        assert hooks(model)
        assert not any(parameter.requires_grad for parameter in model.base_model.parameters())
        injection.remove()
        assert hooks(model) == []
        assert not hasattr(model, OPS_ATTRIBUTE)
        assert model.config._attn_implementation == "eager"
        assert same_bits(state(model), before)
        assert torch.equal(hidden(model, batch), plain)
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}

    def test_a_frozen_model_stays_frozen(self, model):
        inject(model, MIXED).remove()
        assert not any(parameter.requires_grad for parameter in model.parameters())


class TestRefusal:
    def test_ops_are_put_in_once(self, model):
        inject(model, MIXED)
        with pytest.raises(ConfigError, match="has ops already"):
            Injection(model, [MIXED], [0], "eager")

    def test_another_depth_is_refused_and_changes_nothing(self, model):
        deeper = Genotype(4, (Op(Form.BIAS, Tap.V, Tap.V, (1, 1, 1, 1)),), 1e-3)
        before = state(model)
        with pytest.raises(ConfigError, match="for 4 layers, the model has 3"):
            Injection(model, [MIXED, deeper], [0, 1], "eager")
        assert hooks(model) == []
        assert same_bits(state(model), before)
        assert model.config._attn_implementation == "eager"


def pickled(model):
    return pickle.loads(pickle.dumps(model))


class TestCopies:
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
    def test_a_copy_is_equal_and_independent(self, model, duplicate):
        batch = tiny_batch(model)
        injection = inject(model, MIXED, genotype(), genotype(lora((0, 3, 1))))
        states = hidden(model, batch)
        twin = duplicate(model)
        assert torch.equal(hidden(twin, batch), states)
        scramble(injection)
        changed = hidden(model, batch)
        assert torch.equal(hidden(twin, batch), states)
        assert not torch.equal(changed, states)
        for parameter in twin.get_submodule(OPS_ATTRIBUTE).parameters():
            parameter.data.fill_(1.0)
        assert torch.equal(hidden(model, batch), changed)
        assert not torch.equal(hidden(twin, batch), states)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_what_is_raised_half_way_leaves_the_model_as_it_was(family, monkeypatch):
    model = tiny_model(family)
    batch = tiny_batch(model)
    model.requires_grad_(requires_grad=True)
    before = model(**batch).logits
    hook = Injection._hook

    def refuse(self, anatomy, index, layer):
        hook(self, anatomy, index, layer)
        if index == N_LAYERS - 1:
            raise ConfigError("not here")

    monkeypatch.setattr(Injection, "_hook", refuse)
    with pytest.raises(ConfigError, match="not here"):
        Injection(model, [genotype(lora(), adapter())] * 2, [0, 1], "eager", checkpointing=True)
    assert not hasattr(model, OPS_ATTRIBUTE)
    assert not hooks(model)
    assert model.config._attn_implementation == tiny_model(family).config._attn_implementation
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(**batch).logits, before)
    monkeypatch.undo()
    inject(model, MIXED if family == "bert" else genotype(lora())).remove()
    assert torch.equal(model(**batch).logits, before)


def test_two_ops_of_almost_one_scale_keep_their_tensors_apart(model):
    near = [op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, 2, scale=2 + i / 1e9) for i in range(2)]
    one = genotype(*near)
    injection = inject(model, one)
    shape = Anatomy(model).shape()
    assert numbers(injection.tensors(0)) == one.count_params(shape) == 2 * N_LAYERS * 2 * 64


@pytest.mark.parametrize(
    ("family", "overwritten"), [("bert", True), ("llama", True), ("t5", False)]
)
def test_an_activation_is_overwritten_if_its_backward_pass_does_not_read_it(family, overwritten):
    """That of a ReLU, which T5 has, reads what came out."""
    model = tiny_model(family)
    scale = genotype(op(Form.SCALE, Tap.FFN_MID, Tap.FFN_MID))
    point = Anatomy(model).point(N_LAYERS - 1, Tap.FFN_MID)
    places = []

    def tell(_, args):
        places.append(args[0].data_ptr())

    point.module.register_forward_pre_hook(tell)
    injection = Injection(model, [scale, genotype(lora())], [0, 1], "eager")
    point.module.register_forward_pre_hook(tell)
    model.base_model(**tiny_batch(model)).last_hidden_state.sum().backward()
    before, behind = places
    assert (before == behind) == overwritten
    assert all(stack.factors.grad.any() for stack in injection.stacks() if stack.form == Form.SCALE)
