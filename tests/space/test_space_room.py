"""Prompts are no longer than the longest rows of a study leave room for."""

import random
from dataclasses import replace

import pytest
from space_factory import MINILM, NO_LIMIT, draw_uniform

from autopeft.errors import ConfigError
from autopeft.space.bind import bind
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.methods import method
from autopeft.space.shape import ModelShape
from autopeft.space.shipped import load_space
from autopeft.space.taps import Tap
from autopeft.space.transfer import transfer

ROOM = 18
TIGHT = replace(MINILM, room=ROOM)
FULL = replace(MINILM, room=0)
WHY = "the longest rows leave {} of the model's positions; a lower max_length leaves more"


def prompt(length):
    sizes = (length, *[0] * (MINILM.n_layers - 1))
    return Genotype(MINILM.n_layers, (Op(Form.PROMPT, Tap.EMBED, Tap.EMBED, sizes),), 1e-3)


def sizes(genotype):
    return [max(op.sizes) for op in genotype.ops if op.write is Tap.EMBED]


def test_longer_prompts_are_left_out_with_a_note():
    space = bind(load_space("prompts"), TIGHT, NO_LIMIT)
    by_name = {slot.name: slot.sizes for slot in space.slots}
    assert by_name["prompt"] == (1, 2, 3, 4, 6, 8, 12, 16)
    assert max(by_name["prefix"]) == 300, "a prefix has no position"
    note = f"slot prompt goes without sizes 20, 24, 30, 50, 100: {WHY.format(ROOM)}"
    assert space.notes == (note,)
    rng = random.Random(0)
    found = [size for _ in range(60) for size in sizes(space.decode(draw_uniform(space, rng)))]
    assert max(found) == 16


def test_slot_for_which_there_is_no_room_is_left_out():
    space = bind(load_space("prompts"), FULL, NO_LIMIT)
    assert {slot.name for slot in space.slots} == {"prefix", "adapter"}
    (note,) = space.notes
    assert note.startswith("slot prompt is left out: no size of 1, 2, ")
    assert note.endswith(WHY.format(0))


@pytest.mark.parametrize(("name", "size"), [("prompt_tuning", 16), ("p_tuning", 16)])
def test_methods_begin_at_a_length_that_there_is_room_for(name, size):
    known = method(name)
    assert sizes(known.genotype(TIGHT)) == [size]
    assert known.n_sizes(TIGHT) < known.n_sizes(MINILM)
    assert WHY.format(ROOM) in known.shortened(TIGHT)
    assert known.shortened(MINILM) is None
    assert known.misfit(FULL) == WHY.format(0)
    assert method("lora").misfit(FULL) is method("lora").shortened(FULL) is None


def test_longer_prompt_is_refused_by_name_and_left_out_of_a_warm_start():
    prompt(ROOM).check_fits(TIGHT)
    prompt(300).check_fits(MINILM)
    with pytest.raises(ConfigError, match=f"cannot be of size 19 .*leave {ROOM} of the model's"):
        prompt(ROOM + 1).check_fits(TIGHT)
    found, (change, _) = transfer(prompt(ROOM + 1), TIGHT, NO_LIMIT)
    assert found is None
    assert f"leave {ROOM} of the model's positions" in change


def test_room_is_told_and_that_of_studies_of_before_is_not_known():
    assert ModelShape.from_dict(TIGHT.to_dict()) == TIGHT
    assert ModelShape.from_dict(MINILM.to_dict()) == MINILM
    assert "room" not in MINILM.to_dict()
    with pytest.raises(ValueError, match="invalid literal"):
        ModelShape.from_dict({**MINILM.to_dict(), "room": "much"})
