"""A proposal depends on seed, slot and measurements alone, fits, is new, and gets better."""

import math
import random
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch

from autopeft.errors import NoFeasibleTrialError
from autopeft.space import yaml
from autopeft.space.bind import bind
from autopeft.space.costs import CostModel, Linear, MemoryLimit
from autopeft.space.forms import Form
from autopeft.space.shape import encoder_shape
from autopeft.space.shipped import load_space
from autopeft.space.spec import SpaceSpec, TrainingSpec
from autopeft.space.taps import Tap
from autopeft.study import propose as module
from autopeft.study.propose import Measured, propose

SHAPE = encoder_shape(4, 32, 64, 40_000)
SAMPLERS = ("tpe", "nsga2", "gp", "random")
NOTHING = module._Told((), (), 1)
ONE_POINT = """
name: point
description: A single genotype.
slots:
  - {name: v, form: scale, read: same, write: v, layout: same}
training: {learning_rate: 1e-3}
"""
SMALL = """
name: small
description: Two slots of one size each, in the top n of four layers.
draw: filter
layouts: {depth: top}
slots:
  - {name: one, form: lowrank, read: weight, write: q, size: [1, 2, 4], layout: depth}
  - {name: two, form: lowrank, read: weight, write: v, size: [1, 2, 4], layout: depth}
training: {learning_rate: 1e-3}
"""
SMALL_SIZE = 4 * (4 * 4 - 1)
"""Genotypes of it."""


def space_of(name="unified", max_params=1000):
    return bind(load_space(name), SHAPE, max_params)


def proposals(space, n, sampler="random", *, history=(), taken=(), pending=(), seed=0, first=0):
    """What is proposed for some slots."""
    told = {"history": history, "taken": taken, "pending": pending}
    return [propose(space, sampler, seed=seed, slot=first + slot, **told) for slot in range(n)]


def drawn(space, n, sampler="random", **more):
    """The genotypes proposed for some slots."""
    return [proposal.genotype for proposal in proposals(space, n, sampler, **more)]


def adapter_share(genotype):
    """The part of the parameters in the adapters at the FFN."""
    count = genotype.count_params(SHAPE)
    own = [op for op in genotype.ops if (op.form, op.write) == (Form.BOTTLENECK, Tap.FFN_OUT)]
    return sum(op.params_in_layer(size, SHAPE) for op in own for size in op.sizes) / count


def measured(genotypes):
    return [
        Measured(g, adapter_share(g), {"trainable_params": g.count_params(SHAPE)})
        for g in genotypes
    ]


@pytest.fixture(scope="module")
def history():
    """Sixty random trials, the better the more adapter they have."""
    return measured(drawn(space_of(), 60, seed=7))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_arguments_give_the_same_proposal(sampler, history):
    answers = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global one is what is tested
        torch.manual_seed(seed)
        before = (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
        space = space_of()
        answers.append(propose(space, sampler, seed=3, slot=61, history=list(history), taken=set()))
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        assert before == (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
    assert answers[0] == answers[1]
    assert answers[0].origin == sampler


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_slots_and_seeds_differ(sampler, history):
    space = space_of()
    found = [p for seed in (0, 1) for p in proposals(space, 3, sampler, history=history, seed=seed)]
    assert len({proposal.genotype.hash for proposal in found}) == 6


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_measurements_matter_and_accidents_do_not(sampler, history):
    space = space_of()
    failed = [Measured(m.genotype, None, {}) for m in measured(drawn(space, 9, seed=9))]
    (known,) = drawn(space, 1, sampler, history=history)
    assert [known] == drawn(space, 1, sampler, history=[*failed, *history])
    assert [known] != drawn(space, 1, sampler)


EDGE = 6e-3
"""A learning rate beyond which everything diverges."""


def beyond_the_edge(sampler, *, is_bad, quality, cost):
    """The part of proposals beyond the edge, and that of what they are learnt from."""
    space = space_of()
    genotypes = drawn(space, 36, seed=3)
    told = [
        Measured(
            genotype,
            None if genotype.learning_rate > EDGE else quality(genotype),
            {"trainable_params": cost(genotype)},
            is_bad=is_bad and genotype.learning_rate > EDGE,
        )
        for genotype in genotypes
    ]
    asked = drawn(space, 10 if sampler == "gp" else 40, sampler, history=told, first=36)
    return [fmean(g.learning_rate > EDGE for g in some) for some in (asked, genotypes)]


def test_tpe_keeps_away_from_what_diverged():
    """The better the higher the rate is, up to the edge."""
    case = {"quality": lambda g: math.log(g.learning_rate), "cost": lambda g: g.count_params(SHAPE)}
    untold, by_chance = beyond_the_edge("tpe", is_bad=False, **case)
    told, _ = beyond_the_edge("tpe", is_bad=True, **case)
    assert told < by_chance / 2 < untold


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_what_diverged_is_not_good_for_being_small(sampler):
    """By their values alone such trials would be on the front of quality and parameters."""
    case = {"quality": lambda _: 0.5, "cost": lambda g: 1 if g.learning_rate > EDGE else 500}
    told, by_chance = beyond_the_edge(sampler, is_bad=True, **case)
    assert told < by_chance / 2


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_what_is_pending_changes_what_is_proposed(sampler, history):
    """Of several asks a Gaussian process would give one answer again and again."""
    space, some = space_of(), history[:12]
    (first,) = drawn(space, 1, sampler, history=some, first=12)
    pending = [first]
    for _ in range(2):
        more = {"history": some, "first": 12, "pending": pending}
        (genotype,) = drawn(space, 1, sampler, **more)
        assert [genotype] == drawn(space, 1, sampler, **more)
        pending.append(genotype)
    assert len({genotype.hash for genotype in pending}) == 3, "of one slot and seed"


def test_gaussian_process_is_told_of_the_limit(monkeypatch):
    """Where more is better, it would ask for too much if it did not know what fits."""
    space, most = space_of("autopeft", 2000), 2000
    genotypes = drawn(space, 16, seed=5)
    costs = {"trainable_params": 500}
    told = [Measured(g, g.count_params(SHAPE) / most, costs) for g in genotypes]

    def fitting():
        known = module._told(space, "gp", told, (), 1)
        asked = (space.decode(module._ask(space, "gp", seed, known)) for seed in range(4))
        return sum(genotype.count_params(SHAPE) <= most for genotype in asked)

    informed = fitting()
    monkeypatch.setattr(module, "_excess", lambda *_: -1.0)
    assert informed > fitting()


def test_gaussian_process_gives_way_to_chance(history, monkeypatch):
    monkeypatch.setattr(module, "GP_ATTEMPTS", 0)
    (proposal,) = proposals(space_of(), 1, "gp", history=history)
    assert proposal.origin == "random"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_taken_is_not_proposed_again(sampler):
    space, taken = space_of(max_params=64), set()  # room for little
    for _ in range(5):
        (genotype,) = drawn(space, 1, sampler, taken=taken)
        assert genotype.hash not in taken
        taken.add(genotype.hash)


@pytest.mark.parametrize("sampler", [pytest.param("tpe", marks=pytest.mark.slow), "nsga2"])
def test_a_sampler_that_sees_nothing_new_gives_way_to_chance(sampler):
    """Of a space whose cheapest draws are empty, told that the cheap is as good as the dear."""
    space = bind(yaml.validate(SpaceSpec, yaml.loads(SMALL, "small.yaml")), SHAPE, 100_000)
    found = {}
    for slot in range(SMALL_SIZE // 2):
        told = [
            Measured(g, 0.5, {"trainable_params": g.count_params(SHAPE)}) for g in found.values()
        ]
        proposal = propose(space, sampler, seed=0, slot=slot, history=told, taken=found)
        found[proposal.genotype.hash] = proposal.genotype
    assert len(found) == SMALL_SIZE // 2


def test_exhausted_space_repeats_itself_after_bounded_draws(monkeypatch):
    asked, ask = [], module._ask
    monkeypatch.setattr(module, "_ask", lambda *args: asked.append(args[2]) or ask(*args))
    document = yaml.loads(ONE_POINT, "point.yaml")
    space = bind(yaml.validate(SpaceSpec, document), SHAPE, 1000)
    (only,) = drawn(space, 1)
    assert len(asked) == 1
    assert drawn(space, 1, taken={only.hash}) == [only]
    assert len(set(asked[1:])) == len(asked[1:]) == 2 * module.NEW_ATTEMPTS + 1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["autopeft", "unified"])
def test_every_proposal_fits_and_has_ops(sampler, name):
    space = space_of(name, 700)
    if name == "autopeft":
        plain = [space.decode(module._ask(space, "random", seed, NOTHING)) for seed in range(60)]
        fitting = sum(0 < genotype.count_params(SHAPE) <= 700 for genotype in plain)
        assert 0 < fitting < 20, "or nothing had to be drawn again"
    for genotype in drawn(space, 10, sampler):
        assert 0 < genotype.count_params(SHAPE) <= 700


def test_space_without_a_fitting_draw_is_refused(monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 40)
    nothing = MemoryLimit(0, CostModel(0, 1.0, Linear(0.0, 0.0, {})))
    space = replace(space_of("autopeft", 64), memory=nothing)
    with pytest.raises(
        NoFeasibleTrialError,
        match="none of 40 draws from space autopeft fits 64 parameters and the memory",
    ):
        drawn(space, 1)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_where_hardly_a_draw_fits_one_is_made_smaller(sampler, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 5)
    space = bind(load_space("autopeft"), encoder_shape(6, 384, 1536, 22_713_216), 2271)
    found = {}
    for slot in range(12):
        proposal = propose(space, sampler, seed=0, slot=slot, history=(), taken=found)
        assert proposal.genotype.ops
        assert space.admits(proposal.genotype)
        found[proposal.genotype.hash] = proposal.genotype
    assert len(found) == 12
    assert {op.form for g in found.values() for op in g.ops} == {Form.PREFIX, Form.BOTTLENECK}
    assert len({op.sizes.index(1) for g in found.values() for op in g.ops}) > 3


def test_of_all_that_fits_something_is_found_and_then_repeated(monkeypatch):
    """One prefix of one row in one layer, with learning rates that are told apart."""
    monkeypatch.setattr(module, "ATTEMPTS", 5)
    text = load_space("autopeft").model_copy(update={"training": TrainingSpec(learning_rate=1e-3)})
    space = bind(text, SHAPE, 64)
    found = {}
    for slot in range(8):
        (genotype,) = drawn(space, 1, taken=found, first=slot)
        assert [(op.form, sum(op.sizes)) for op in genotype.ops] == [(Form.PREFIX, 1)]
        found[genotype.hash] = genotype
    assert len(found) == 4


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_sampler_learns_what_pays(sampler):
    """Were all of one size, the best would be adapters and nothing else."""
    history = measured(drawn(space_of(), 120, seed=7))  # which hold few of them
    same = [Measured(m.genotype, m.quality, {"trainable_params": 500}) for m in history]
    space = space_of()
    learned = fmean(map(adapter_share, drawn(space, 24, sampler, history=same, first=60)))
    by_chance = fmean(m.quality for m in history)
    assert learned > by_chance + 0.2, (learned, by_chance)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_sampler_learns_that_less_is_better(sampler, history):
    """Were all of one quality, the best would be the smallest."""
    same = [Measured(m.genotype, 0.5, m.costs) for m in history]
    space = space_of()
    learned = fmean(
        math.log(g.count_params(SHAPE)) for g in drawn(space, 24, sampler, history=same, first=60)
    )
    by_chance = fmean(math.log(m.genotype.count_params(SHAPE)) for m in history)
    assert learned < by_chance - 0.5, (learned, by_chance)
