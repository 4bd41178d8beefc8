"""Known methods are tried at several sizes, spread over the front."""

from dataclasses import replace
from itertools import pairwise

import pytest

from autopeft.space.costs import CostModel, Linear, MemoryLimit
from autopeft.space.methods import DEFAULT_METHODS
from autopeft.space.shape import BERT_BASE
from autopeft.study.limits import Budget
from autopeft.study.planner import LORA_EVERY
from autopeft.study.starting import Starts, starts_of

BUDGET = Budget(1_000_000, None)


@pytest.fixture(scope="module")
def starts():
    return starts_of(BERT_BASE, BUDGET, DEFAULT_METHODS)[0]


def sizes(starts, name):
    found = [s.genotype for s in (*starts.first, *starts.later) if s.origin == f"method {name}"]
    return [genotype.count_params(BERT_BASE) for genotype in found]


def test_largest_comes_first_and_the_most_different_next(starts):
    found = sizes(starts, "scaled_parallel")
    assert len(found) > 4
    assert found[0] == max(found) <= BUDGET.max_params
    assert found[1] == min(found), "the other end of the front"
    middle = sorted(found[:3])
    assert middle[0] * 4 < middle[1] < middle[2] / 4, "then one between them"


def test_methods_take_turns(starts):
    assert [start.origin for start in starts.first] == [f"method {n}" for n in DEFAULT_METHODS]
    assert all(starts.at(slot) is start for slot, start in enumerate(starts.first))
    turns = [start.origin for start in starts.later]
    several = [n for n in DEFAULT_METHODS if len(sizes(starts, n)) > 1]
    assert turns[: len(several)] == [f"method {name}" for name in several]


@pytest.mark.parametrize("n_first", range(8))
def test_every_smaller_size_has_its_turn_and_lora_keeps_its_own(starts, n_first):
    some = Starts(starts.first[:n_first], starts.later)
    slots = [slot for slot in range(n_first, 400) if some.at(slot) is not None]
    assert [some.at(slot) for slot in slots] == list(starts.later)
    assert {two - one for one, two in pairwise(slots)} == {6}
    assert not [slot for slot in slots if slot % LORA_EVERY == LORA_EVERY - 1]


def test_no_genotype_is_tried_twice(starts):
    twice, _ = starts_of(BERT_BASE, BUDGET, [*DEFAULT_METHODS, *DEFAULT_METHODS])
    assert twice == starts
    every = [start.genotype.hash for start in (*starts.first, *starts.later)]
    assert len(set(every)) == len(every)


def test_sizes_that_a_method_has_no_place_for_are_told():
    tight = replace(BERT_BASE, room=10)
    found, notes = starts_of(tight, BUDGET, ["head", "prompt_tuning"])
    assert [max(op.sizes) for start in found.first for op in start.genotype.ops] == [8]
    (note,) = notes
    assert note.startswith("method prompt_tuning: slot prompt goes without sizes 100, 50, 20, 16: ")
    _, notes = starts_of(replace(BERT_BASE, room=0), BUDGET, ["head", "prompt_tuning"])
    assert len(notes) == 1
    assert notes[0].startswith("method prompt_tuning is left out: the longest rows leave 0 of")


def test_sizes_over_the_memory_are_left_out(starts):
    """Where a parameter that is trained takes 28 bytes and nothing else any."""
    memory = MemoryLimit(28 * 100_000, CostModel(0, 1.0, Linear(0.0, 0.0, {})))
    within, notes = starts_of(BERT_BASE, Budget(1_000_000, None, memory), DEFAULT_METHODS)
    for name in ("scaled_parallel", "lora"):
        assert sizes(within, name)[0] == max(n for n in sizes(starts, name) if n <= 100_000)
    assert all(g.count_trained(BERT_BASE) <= 100_000 for g in (s.genotype for s in within.first))
    (note,) = (note for note in notes if note.startswith("method bitfit "))
    assert " and takes " in note
    assert note.endswith(", the budget is 1,000,000, 2.67 MiB of memory")
