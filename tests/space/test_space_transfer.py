"""A genotype goes to another model: relative depth, taps, widths and budget."""

import pytest

from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.methods import method
from autopeft.space.shape import ModelShape, encoder_shape
from autopeft.space.taps import Tap
from autopeft.space.transfer import transfer

SIX, TWELVE = (encoder_shape(n, 32, 64, 400_000) for n in (6, 12))
MUCH = 10**6


def lora(*sizes, rate=1e-3):
    return Genotype(len(sizes), (Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, sizes),), rate)


def sizes(genotype):
    (op,) = genotype.ops
    return op.sizes


def test_what_fits_stays_as_it_is():
    genotype = lora(1, 2, 3, 4, 5, 6)
    assert transfer(genotype, SIX, genotype.count_params(SIX)) == (genotype, [])


def test_layers_are_those_at_the_same_relative_depth():
    found, changes = transfer(lora(1, 2, 3, 4, 5, 6, rate=3e-4), TWELVE, MUCH)
    assert sizes(found) == (1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6)
    assert found.learning_rate == 3e-4
    assert changes == ["from 6 layers to 12"]
    back, _ = transfer(found, SIX, MUCH)
    assert sizes(back) == (1, 2, 3, 4, 5, 6)


def test_first_and_last_layers_remain_so():
    assert sizes(transfer(lora(7, *[0] * 10, 9), SIX, MUCH)[0]) == (7, 0, 0, 0, 0, 9)


def test_prompts_stay_below_the_first_layer():
    prompt = method("prompt_tuning").genotype(TWELVE)
    found, _ = transfer(prompt, SIX, MUCH)
    found.check_fits(SIX)
    assert sizes(found) == (sizes(prompt)[0], 0, 0, 0, 0, 0)


def test_what_the_model_lacks_is_left_out_and_told():
    taps = {tap: width for tap, width in SIX.widths.items() if tap is not Tap.FFN_NORM}
    poorer = ModelShape(6, taps, 400_000)
    both = Genotype(6, (*lora(*[2] * 6).ops, *method("pfeiffer").genotype(SIX).ops), 1e-3)
    found, (change,) = transfer(both, poorer, MUCH)
    assert found == lora(*[2] * 6)
    assert "without bottleneck" in change
    assert "no tap ffn_norm" in change
    nothing, (_, reason) = transfer(method("pfeiffer").genotype(SIX), poorer, MUCH)
    assert nothing is None
    assert reason == "nothing of it remains"


@pytest.mark.parametrize("name", ["lora", "mam", "compacter", "fish"])
def test_what_exceeds_the_budget_shrinks(name):
    genotype = method(name).genotype(SIX)
    least = method(name).smallest(SIX).count_params(SIX)
    most = genotype.count_params(SIX)
    budget = (least + most) // 2
    found, changes = transfer(genotype, SIX, budget)
    found.check_fits(SIX)
    assert budget / 3 < found.count_params(SIX) <= budget
    assert len(changes) == 1


def test_what_is_too_large_at_any_size_is_left_out():
    assert transfer(lora(*[8] * 6), SIX, 6 * 64 - 1)[0] is None
    assert sizes(transfer(lora(*[8] * 6), SIX, 6 * 64)[0]) == (1,) * 6
    head = method("head").genotype(SIX)
    assert transfer(head, SIX, 0) == (head, [])
