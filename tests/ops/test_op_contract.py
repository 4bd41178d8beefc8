"""The contract of every op: the invariants of the design, for each form in each model family."""

import math

import numpy as np
import pytest
import torch
from tiny import (
    CROSSED,
    EVERY,
    FAMILIES,
    HEADED,
    HEADLESS,
    PROMPTED,
    TASK,
    as_params,
    assert_same_training,
    genotype,
    lora,
    numbers,
    op,
    op_params,
    same_bits,
    state,
    tiny_backbone,
    tiny_batch,
    tiny_model,
    tiny_rows,
    train,
)

from autopeft.errors import ConfigError
from autopeft.export.merged import merge
from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.ops.adalora import AdaLora
from autopeft.ops.base import PAD
from autopeft.ops.build import FORM_CLASSES
from autopeft.space.forms import Activation, Form
from autopeft.space.merge import obstacles
from autopeft.space.taps import Tap
from autopeft.training.cohort import Cohort
from autopeft.training.optimizer import CohortAdamW
from autopeft.training.settings import TrainingSettings

ALONE_AND_TOGETHER = [*as_params((*HEADLESS, *FAMILIES), "fp32"), ("bert", "bf16")]
"""Families and precisions in which it is to the bit."""

DIVERGING = 1e30
"""A learning rate after which a trial is NaN or infinite from its second step on."""


@pytest.fixture(params=as_params(EVERY))
def family(request):
    return request.param


@pytest.fixture
def backbone(family):
    return tiny_backbone(family)


def inject(model, genotypes):
    return Injection(model, genotypes, range(len(genotypes)), "eager")


def hidden(model, batch):
    with torch.no_grad():
        return model.base_model(**batch).last_hidden_state


class OpContract:
    """What every op promises. A subclass makes the op of one form at one place.

    Attributes:
        small: its sizes in one trial, other ones in each layer.
        large: its sizes in another trial, absent at the bottom.
        fresh_is_nothing: its method promises that a fresh op changes nothing.
        mergeable: it becomes a part of the weights.
        seeded: a part that is neither trained nor stored follows from the trial's seed.
    """

    small = (1, 1, 1)
    large = (0, 1, 1)
    fresh_is_nothing = True
    mergeable = True
    seeded = False

    def make(self, sizes):
        raise NotImplementedError

    def ops(self):
        """The op as different trials have it."""
        return [(self.make(self.small),), (self.make(self.large),)]

    def beside(self, one):
        """A trial, beside one without ops."""
        return [genotype(), one]

    def company(self, **last):
        """Trials with the op, one without any in their midst."""
        first, *rest = [genotype(*ops) for ops in self.ops()]
        return [first, genotype(), *rest, genotype(self.make(self.small), **last)]

    @pytest.mark.parametrize(("family", "precision"), ALONE_AND_TOGETHER)
    def test_i1_trained_together_is_trained_alone(self, backbone, precision):
        company = self.company()
        together = train(backbone, company, precision=precision)
        for trial, one in enumerate(company[:-1]):
            if one.ops:
                (alone,) = train(backbone, [one], [trial], precision=precision)
                assert_same_training(alone, together[trial])

    def test_i2_a_diverged_trial_changes_no_bit_of_the_others(self, backbone):
        small, large = self.make(self.small), self.make(self.large)
        company = [genotype(small), genotype(large), genotype(small, learning_rate=DIVERGING)]
        together = train(backbone, company)
        assert [trial.finite for trial in together] == [True, True, False]
        for trial in (0, 1):
            (alone,) = train(backbone, [company[trial]], [trial])
            assert_same_training(alone, together[trial])

    def test_pausing_and_going_on_alone_changes_no_bit(self):
        backbone, rows, company = tiny_backbone("bert"), tiny_rows(), self.company()
        settings = TrainingSettings(batch_size=4)

        def states(genotypes, seeds, until, paused=()):
            with Cohort(backbone, genotypes, seeds, TASK, settings) as cohort:
                losses = cohort.train(rows, order_seed=0, until=until, paused=paused)
                before = paused[0].losses if paused else ()
                told = [(*before, *losses[:, i].tolist()) for i in range(len(genotypes))]
                return [cohort.pause(i, told[i]) for i in range(len(genotypes))]

        seeds = range(len(company))
        whole, paused = (states(company, seeds, until) for until in (18, 11))
        (last,) = states(company[-1:], seeds[-1:], 18, paused[-1:])
        assert last.losses == whole[-1].losses
        assert same_bits(dict(last.tensors), dict(whole[-1].tensors))

    def test_i3_a_trial_without_ops_is_the_backbone(self, family):
        model = tiny_model(family)
        batch = tiny_batch(model)
        plain = hidden(model, batch)
        injection = inject(model, self.company())
        scramble(injection)
        with_op, without, *_ = hidden(model, batch).chunk(injection.n_trials)
        assert torch.equal(without, plain)
        assert not torch.equal(with_op, plain)

    def test_i4_a_fresh_op_is_a_no_op_if_promised(self, family):
        model = tiny_model(family)
        batch = tiny_batch(model)
        plain = hidden(model, batch)
        for ops in self.ops():
            injection = inject(model, [genotype(*ops)])
            assert torch.equal(hidden(model, batch), plain) is self.fresh_is_nothing
            injection.remove()

    def test_i5_the_closed_form_counts_the_tensors(self, backbone):
        for ops in self.ops():
            one = genotype(*ops)
            company = self.beside(one)
            with Cohort(backbone, company, range(len(company)), TASK, TrainingSettings()) as cohort:
                of_each = [cohort.injection.tensors(trial) for trial in range(len(company))]
                *without, counted = map(numbers, of_each)
                assert not any(without)
                assert counted == one.count_trained(backbone.shape) > 0
                stored, tensors = cohort.injection.stored(len(company) - 1)
            assert numbers(tensors) == one.count_params(backbone.shape)
            assert stored.count_params(backbone.shape) == one.count_params(backbone.shape)

    def test_what_is_stored_predicts_what_was_trained(self, backbone):
        for ops in self.ops():
            one = genotype(*ops)
            (trained,) = train(backbone, [one], [0])
            assert op_params(trained) == one.count_params(backbone.shape)
            assert trained.stored.count_trained(backbone.shape) == op_params(trained)
            seed = 0 if self.seeded else 5
            with Cohort(backbone, [trained.stored], [seed], TASK, TrainingSettings()) as cohort:
                cohort.load(0, trained.tensors)
                logits = cohort.logits(tiny_rows(22, seed=1), range(22))[0]
            assert logits.argmax(-1).tolist() == trained.predictions.tolist()

    @pytest.mark.parametrize("family", ["bert", "distilbert"])
    def test_what_merges_is_a_plain_model_and_what_does_not_is_refused_by_name(self, family):
        model = tiny_model(family)
        batch, before = tiny_batch(model), state(model)
        for ops in self.ops():
            one = genotype(*ops)
            injection = inject(model, [one])
            scramble(injection)
            trained, views = injection.stored(0)
            tensors = {name: own.clone() for name, own in views.items()}
            expected = hidden(model, batch)
            injection.remove()
            if reasons := obstacles(one, Anatomy(model).shape()):
                assert not self.mergeable
                for refused in ops:
                    assert any(f"{refused.form} {refused.read}->" in text for text in reasons)
                with pytest.raises(ConfigError, match="cannot be merged"):
                    merge(model, trained, 0, tensors)
                continue
            assert self.mergeable
            plain = merge(model, trained, 0, tensors)
            torch.testing.assert_close(hidden(plain, batch), expected, rtol=0, atol=1e-4)
            assert (hidden(model, batch) - expected).abs().max() > 1e-2
        assert same_bits(state(model), before)

    def test_i6_i8_neither_backbone_nor_global_generators_are_touched(self, backbone):
        before = state(backbone.model)
        torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
        train(backbone, self.beside(genotype(self.make(self.small))))
        assert same_bits(state(backbone.model), before)
        assert all(p.grad is None for p in backbone.model.parameters())
        assert torch.equal(torch.random.get_rng_state(), torch_state)
        np.testing.assert_equal(np.random.get_state(), numpy_state)  # noqa: NPY002

    def test_i8_initialisation_is_by_seed_and_path_alone(self, backbone):
        model = backbone.model
        genotypes = [genotype(*ops) for ops in self.ops()]
        for one in genotypes:
            alone = Injection(model, [one], [7], "eager")
            own = {name: tensor.clone() for name, tensor in alone.tensors(0).items()}
            alone.remove()
            torch.rand(5)
            others, seeds = genotypes[::-1], range(len(genotypes))
            company = Injection(model, [*others, one], [*seeds, 7], "eager")
            assert same_bits(company.tensors(len(others)), own)
            company.remove()


class SizedContract(OpContract):
    """An op with a size, which is padded unless it says otherwise.

    Attributes:
        random: its parameters that start at random.
        pads: ops of other sizes share a stack.
    """

    pads = True

    small = (3, 1, 2)
    large = (0, 17, 9)
    random = frozenset()

    def test_i8_random_parameters_differ_by_seed_layer_and_trial(self, family):
        one = genotype(self.make(tuple(max(self.small) for _ in self.small)))
        injection = Injection(tiny_model(family), [one, one], [7, 8], "eager")
        values = [
            tensor.flatten()
            for trial in (0, 1)
            for name, tensor in injection.tensors(trial).items()
            if name.rpartition(".")[2] in self.random
        ]
        assert len(values) == 2 * len(self.small) * len(self.random)
        assert len({tuple(value.tolist()) for value in values}) == len(values)

    def test_i7_padding_gets_no_gradient_and_stays_zero(self, backbone):
        company = self.company()
        seeds = range(len(company))
        with Cohort(backbone, company, seeds, TASK, TrainingSettings()) as cohort:
            stacked = cohort.stacked()
            same = [0.01] * len(company)
            optimizer = CohortAdamW(stacked, learning_rates=same, weight_decays=same, clip=1.0)
            rows = tiny_rows()
            for _ in range(3):
                TASK.loss(cohort.logits(rows, range(8)), rows.labels[:8]).sum().backward()
                grads = [item.parameter.grad for item in stacked]
                assert padding_is_zero(stacked, grads) is self.pads
                optimizer.step(1.0)
            groups = optimizer._groups
            items = [item for group in groups for item in group.items]
            means = [mean for group in groups for mean in group.cut(group.mean)]
            squares = [square for group in groups for square in group.cut(group.square)]
            for tensors in ([item.parameter for item in items], means, squares):
                assert padding_is_zero(items, tensors) is self.pads
            assert all(square.any() for square in squares)

    def test_sizes_are_padded_alike_in_every_company(self, family):
        for stack in inject(tiny_model(family), self.company()).stacks():
            unit = PAD if stack.pads else 1
            rows = [stack.rows(member.size) for member in stack.stack]
            assert {-(-n // unit) * unit for n in rows} == {stack.padded}


class ScaledContract(SizedContract):
    """An op with a factor, constant or learned, that can stand twice in one layer."""

    def make(self, sizes, scale=1.0):
        raise NotImplementedError

    def ops(self):
        first, second = super().ops()
        learned = self.make(self.large, "learned")
        return [first, (learned,), (self.make(self.small, 2.0), *second, learned)]

    def test_a_learned_factor_starts_at_one_and_is_trained(self, backbone):
        one = genotype(self.make(self.large, "learned"))
        injection = inject(backbone.model, [one])
        fresh = [t for name, t in injection.tensors(0).items() if name.endswith(".scale")]
        assert [tensor.item() for tensor in fresh] == [1.0, 1.0]
        injection.remove()
        (trained,) = train(backbone, [one])
        assert all(t != 1 for name, t in trained.tensors.items() if name.endswith(".scale"))


def scramble(injection):
    """Give every op parameters that it could have after training."""
    generator = torch.Generator().manual_seed(0)
    for stack in injection.stacks():
        if stack.chooses in ("rehearsed", "midway"):
            stack.choose()
        for name in stack.declared:
            for i in range(len(stack.stack)):
                own = stack.own(name, i)
                own.data += torch.randn(own.shape, generator=generator)
                if isinstance(stack, AdaLora) and name == "values":
                    own.data *= stack.kept[i, : len(own), None]


def padding_is_zero(stacked, tensors):
    """Whether there is padding, all of which has to be zero."""
    n_padded = 0
    for item, tensor in zip(stacked, tensors, strict=True):
        for member, rows in enumerate(item.rows):
            padding = tensor[member, rows:]
            assert not padding.any()
            n_padded += padding.numel()
    return n_padded > 0


class TestLowRankOnQuery(ScaledContract):
    random = frozenset({"a"})

    def make(self, sizes, scale=1.0):
        return op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, sizes, scale=scale)


class TestLowRankOnFfn(ScaledContract):
    random = frozenset({"a"})

    def make(self, sizes, scale=1.0):
        return op(Form.LOWRANK, Tap.FFN_MID, Tap.FFN_OUT, sizes, scale=scale)


class TestLowRankFrozenA(ScaledContract):
    seeded = True

    def make(self, sizes, scale=1.0):
        return op(Form.LOWRANK_FA, Tap.ATTN_IN, Tap.V, sizes, scale=scale)


class TestDora(ScaledContract):
    random = frozenset({"a"})

    def make(self, sizes, scale=1.0):
        return op(Form.DORA, Tap.FFN_IN, Tap.FFN_UP, sizes, scale=scale)


class TestAdaLora(SizedContract):
    random = frozenset({"a", "b"})

    def make(self, sizes):
        return op(Form.ADALORA, Tap.ATTN_IN, Tap.V, sizes, scale=2.0)


class TestSparse(SizedContract):
    random = frozenset({"entries"})

    def make(self, sizes):
        return op(Form.SPARSE, Tap.ATTN_IN, Tap.Q, sizes)


class TestFish(SizedContract):
    random = frozenset({"entries"})

    def make(self, sizes):
        return op(Form.FISH, Tap.FFN_MID, Tap.FFN_OUT, sizes)


class TestSparseBottleneck(ScaledContract):
    mergeable = False
    fresh_is_nothing = False  # weights that are zero would have no influence to choose by
    random = frozenset({"values", "entries"})

    def make(self, sizes, scale=1.0):
        return op(Form.SPARSE_BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, sizes, scale=scale)


class TestLotteryTicket(OpContract):
    small = (3, 1, 2)
    large = (0, 17, 9)

    def make(self, sizes):
        return op(Form.LT_SFT, Tap.FFN_IN, Tap.FFN_UP, sizes)


class TestDiffPruning(OpContract):
    small = (3, 1, 2)
    large = (0, 17, 9)

    def make(self, sizes):
        return op(Form.DIFF_PRUNING, Tap.PRE_O, Tap.ATTN_OUT, sizes)


class TestVera(ScaledContract):
    def make(self, sizes, scale=1.0):
        return op(Form.VERA, Tap.PRE_O, Tap.ATTN_OUT, sizes, scale=scale)


class TestKronecker(ScaledContract):
    small = (4, 2, 8)
    large = (0, 16, 8)
    random = frozenset({"a"})
    pads = False

    def make(self, sizes, scale=1.0):
        return op(Form.KRONECKER, Tap.FFN_MID, Tap.FFN_OUT, sizes, scale=scale)


class TestParallelBottleneck(ScaledContract):
    mergeable = False
    random = frozenset({"down"})

    def make(self, sizes, scale=1.0):
        return op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, sizes, scale=scale)


class TestWiderFfn(ScaledContract):
    random = frozenset({"down"})

    def make(self, sizes, scale=1.0):
        ffn = (Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, sizes)
        return op(*ffn, scale=scale, activation=Activation.GELU)


class TestSequentialBottleneck(ScaledContract):
    mergeable = False
    random = frozenset({"down"})

    def make(self, sizes, scale=1.0):
        return op(Form.BOTTLENECK, Tap.ATTN_OUT, Tap.ATTN_OUT, sizes, scale=scale)


class TestBottleneckThroughNorm(ScaledContract):
    """Where a sublayer ends with a LayerNorm."""

    mergeable = False
    random = frozenset({"down"})

    @pytest.fixture(params=as_params([*FAMILIES, *HEADLESS]))
    def family(self, request):
        return request.param

    def make(self, sizes, scale=1.0):
        return op(Form.BOTTLENECK, Tap.FFN_NORM, Tap.FFN_OUT, sizes, scale=scale)


class TestPhm(ScaledContract):
    small = (4, 8, 12)
    large = (0, 16, 4)
    random = frozenset({"down_in", "down_out", "up_in"})
    pads = False
    mergeable = False

    def make(self, sizes, scale=1.0):
        return op(Form.PHM, Tap.FFN_OUT, Tap.FFN_OUT, sizes, scale=scale)

    def test_second_factors_begin_by_glorot_over_each_of_them(self, backbone):
        """There are four of them, each of a fourth of the state."""
        width = backbone.shape.widths[Tap.FFN_OUT]
        bounds = {"down_in": width / 4, "down_out": 8 / 4, "up_in": 8 / 4}
        with Cohort(backbone, [genotype(self.make(8))], [0], TASK, TrainingSettings()) as cohort:
            for part, n_in in bounds.items():
                found = [t for k, t in cohort.injection.tensors(0).items() if k.endswith(part)]
                largest = torch.cat([t.flatten() for t in found]).abs().max().item()
                bound = math.sqrt(6 / (n_in + 1))
                assert 0.8 * bound < largest <= bound

    def test_layers_share_one_rule_for_each_trial(self, backbone):
        company = self.company()
        with Cohort(backbone, company, range(len(company)), TASK, TrainingSettings()) as cohort:
            shared = [name for name in cohort.injection.tensors(0) if not name.startswith("layers")]
            assert shared == ["shared.phm.rule"]
            assert not any(name.startswith("shared") for name in cohort.injection.tensors(1))
            rules = [p for p in backbone.model.parameters() if p.shape[1:] == (4, 16)]
            (rule,) = rules
            assert sum(item.parameter is rule for item in cohort.stacked()) == 1
            assert len(rule) == len(company) - 1
        assert company[0].count_params(backbone.shape) == 64 + sum(
            op.params_in_layer(size, backbone.shape) for op in company[0].ops for size in op.sizes
        )


class InAttention:
    """Where attention is called through the registry."""

    @pytest.fixture(params=as_params(HEADED))
    def family(self, request):
        return request.param

    # The parameters of a test go before those of a fixture.
    @pytest.mark.parametrize(("family", "precision"), ALONE_AND_TOGETHER[len(HEADLESS) :])
    def test_i1_trained_together_is_trained_alone(self, backbone, precision):
        super().test_i1_trained_together_is_trained_alone(backbone, precision)


class TestPrefix(InAttention, SizedContract):
    mergeable = False
    fresh_is_nothing = False  # its keys take a share of the softmax, whatever they are
    random = frozenset({"keys", "values"})

    def make(self, sizes):
        return op(Form.PREFIX, Tap.HEAD, Tap.HEAD, sizes)


class TestPrefixMlp(InAttention, SizedContract):
    fresh_is_nothing = False
    random = frozenset({"up"})
    mergeable = False

    def make(self, sizes):
        return op(Form.PREFIX_MLP, Tap.HEAD, Tap.HEAD, sizes)


class BeforeTheRow(SizedContract):
    """Rows are longer, so a trial has no company; a size is exact, and at the lowest layer."""

    fresh_is_nothing = False
    mergeable = False
    pads = False
    small = (3, 0, 0)
    large = (17, 0, 0)

    @pytest.fixture(params=as_params(PROMPTED))
    def family(self, request):
        return request.param

    def beside(self, one):
        return [one]

    def company(self):
        return [genotype(self.make(self.large))]

    @pytest.mark.parametrize(("family", "precision"), [("bert", "fp32")])
    def test_i1_trained_together_is_trained_alone(self, backbone, precision):
        for company in ([(), (self.make(self.small),)], [(self.make(self.small),)] * 2):
            with pytest.raises(ConfigError, match="a prompt has longer rows, and no company"):
                train(backbone, [genotype(*ops) for ops in company], precision=precision)

    def test_i2_a_diverged_trial_changes_no_bit_of_the_others(self, backbone):
        assert genotype(self.make(self.small)).alone
        diverging = genotype(self.make(self.small), learning_rate=DIVERGING)
        (trained,) = train(backbone, [diverging])
        assert not trained.finite

    def test_i3_a_trial_without_ops_is_the_backbone(self, family):
        model = tiny_model(family)
        batch = tiny_batch(model)
        plain = hidden(model, batch)
        injection = inject(model, self.company())
        scramble(injection)
        with_prompt = hidden(model, batch)
        injection.remove()
        assert with_prompt.shape == plain.shape
        assert (with_prompt - plain).abs().max() > 1e-2
        assert torch.equal(hidden(model, batch), plain)

    def test_i8_initialisation_is_by_seed_and_path_alone(self, backbone):
        def fresh(seed, sizes):
            injection = Injection(backbone.model, [genotype(self.make(sizes))], [seed], "eager")
            own = {name: tensor.clone() for name, tensor in injection.tensors(0).items()}
            injection.remove()
            return own

        assert same_bits(fresh(7, self.small), fresh(7, self.small))
        one, other = fresh(7, self.small), fresh(8, self.small)
        for name in one:
            assert torch.equal(one[name], other[name]) is (
                name.rpartition(".")[2] not in self.random
            )

    test_i8_random_parameters_differ_by_seed_layer_and_trial = None  # it has one layer, one trial


class TestPrompt(BeforeTheRow):
    random = frozenset({"prompt"})

    def make(self, sizes):
        return op(Form.PROMPT, Tap.EMBED, Tap.EMBED, sizes)


class TestPromptMlp(BeforeTheRow):
    """In a few families: prompts run in all of them by themselves."""

    random = frozenset({"embedding", "linear1", "linear2", "linear3"})

    @pytest.fixture(params=["bert", "roberta", "gpt2", "llama"])
    def family(self, request):
        return request.param

    def make(self, sizes):
        return op(Form.PROMPT_MLP, Tap.EMBED, Tap.EMBED, sizes)


class TestGated(SizedContract):
    """A factor for every example; in the last layer, too, it sees all tokens."""

    random = frozenset({"down"})
    mergeable = False

    @pytest.fixture(params=as_params(name for name in EVERY if name not in CROSSED))
    def family(self, request):
        return request.param

    def make(self, sizes):
        return op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, sizes, scale="gated")

    def ops(self):
        first, second = super().ops()
        return [(*first, lora(Tap.V, self.small, scale="gated")), second]


class TestGatedPrefix(InAttention, SizedContract):
    """In a few families: prefixes and gates run in all of them by themselves."""

    fresh_is_nothing = False
    random = frozenset({"keys", "values"})
    mergeable = False

    @pytest.fixture(params=["bert", "modernbert", "llama", "gpt2"])
    def family(self, request):
        return request.param

    def make(self, sizes):
        return op(Form.PREFIX, Tap.HEAD, Tap.HEAD, sizes, scale="gated")


class TestMultiHead(InAttention, ScaledContract):
    random = frozenset({"keys"})
    mergeable = False

    def make(self, sizes, scale=1.0):
        return op(Form.MULTIHEAD, Tap.Q, Tap.HEAD, sizes, scale=scale)


class TestBias(OpContract):
    def make(self, sizes):
        return op(Form.BIAS, Tap.FFN_UP, Tap.FFN_UP, sizes)


class TestScale(OpContract):
    def make(self, sizes):
        return op(Form.SCALE, Tap.FFN_MID, Tap.FFN_MID, sizes)


def test_every_form_has_signed_the_contract():
    signed = {
        form
        for cls in (*OpContract.__subclasses__(), *SizedContract.__subclasses__())
        for sub in (cls, *cls.__subclasses__())
        if sub.__name__.startswith("Test")
        for form in [sub().make(sub.small).form]
    }
    assert signed == set(FORM_CLASSES) == set(Form)
