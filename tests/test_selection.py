"""The selection's file and its verdict in words."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest
from jsonschema import Draft202012Validator

from autopeft.constant import Constant
from autopeft.errors import DataError
from autopeft.selection import (
    Comparison,
    Contender,
    Lead,
    Selection,
)
from autopeft.selection_file import read_selection, selection_to_dict, write_selection

SCHEMA = Path(__file__).parents[1] / "docs" / "schema" / "selection.schema.json"


def contender(trial, role, params, quality, **changes):
    values = {
        "fraction": params / 1e6,
        "summary": f"genotype {trial}",
        "search_quality": quality + 0.02,
        "stderr": 0.01,
        "low": quality - 0.02,
        "high": quality + 0.02,
        "seeds": 3,
    }
    return Contender(trial, role, params, quality=quality, **(values | changes))


def selection(p_value=0.01):
    return Selection(
        metric="accuracy",
        rows=500,
        contenders=(
            contender(0, "head", 0, 0.6),
            contender(4, "recommended", 500, 0.84),
            contender(1, "lora", 1000, 0.8),
            contender(7, "front", 2000, 0.85, search_quality=0.9),
        ),
        comparisons=(Comparison(4, 1, 0.04, 0.01, 0.07, p_value),),
        recommended=4,
        notes=("trial 9 is left out",),
    )


@pytest.mark.parametrize(("p_value", "beats"), [(0.049, True), (0.05, False)])
def test_lead_on_the_same_rows_tells_more_than_scores_of_others(tmp_path, p_value, beats):
    found = replace(selection(), lead=Lead(0.82, 0.03, 0.01, 0.05, p_value))
    assert found.beats(Constant("x", 0.0 if not beats else 1.0, 0.0)) == beats
    Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(
        selection_to_dict(found)
    )
    write_selection(tmp_path / "selection.json", found)
    assert read_selection(tmp_path / "selection.json") == found
    write_selection(
        tmp_path / "selection.json", replace(found, lead=replace(found.lead, p_value=-1))
    )
    with pytest.raises(DataError, match=r"lead\.p_value"):
        read_selection(tmp_path / "selection.json")


def test_something_that_beats_lora_is_named():
    found = selection()
    assert found.comparisons[0].beats
    assert found.verdict == (
        "At equal or fewer parameters this beats tuned LoRA (trial 1, 1,000 parameters): "
        "trial 4 by +0.0400 (95 % interval +0.0100 to +0.0700, p 0.01)."
    )


def test_several_that_beat_lora_are_named():
    found = selection()
    small = contender(7, "front", 900, 0.9)
    more = replace(
        found,
        contenders=(*found.contenders[:3], small),
        comparisons=(*found.comparisons, Comparison(7, 1, 0.1, 0.0, 0.2, 0.02)),
    )
    assert "these beat tuned LoRA" in more.verdict
    assert "trial 4 by +0.0400" in more.verdict
    assert "trial 7 by +0.1000" in more.verdict


@pytest.mark.parametrize(
    ("p_value", "told"),
    [
        (
            0.02,
            (
                "this beats tuned LoRA (trial 1, 1,000 parameters): trial 7 (2,000 parameters) by "
                "+0.1000 (95 % interval +0.0000 to +0.2000, p 0.02)"
            ),
        ),
        (
            0.05,
            (
                "nothing beats tuned LoRA (trial 1, 1,000 parameters) beyond noise; the nearest is "
                "trial 7 (2,000 parameters) by +0.1000 (95 % interval +0.0000 to +0.2000, p 0.05)"
            ),
        ),
    ],
)
def test_what_is_larger_than_every_lora_is_told_apart(p_value, told):
    """It is better at more parameters, which is another thing than at as few."""
    found = selection(p_value=0.2)
    larger = Comparison(7, 1, 0.1, 0.0, 0.2, p_value)
    more = replace(found, comparisons=(larger, *found.comparisons))
    assert more.within_size == [*found.comparisons]
    of_larger = f"Of what is larger than every LoRA that was tried again {told}."
    assert more.verdict == f"{found.verdict} {of_larger}"
    alone = replace(found, comparisons=(larger,))
    assert alone.verdict == f"{replace(found, comparisons=()).verdict} {of_larger}"


def test_nothing_that_beats_lora_is_an_answer():
    found = selection(p_value=0.05)
    assert not found.comparisons[0].beats
    assert found.verdict.startswith(
        "Nothing beats tuned LoRA (trial 1, 1,000 parameters) here at equal or fewer parameters "
        "beyond noise; the nearest is trial 4 by +0.0400"
    )


def test_each_is_named_with_the_lora_that_it_was_compared_with():
    """Where there are several; which of them the search thought best says nothing of the others."""
    found = selection()
    larger = contender(8, "front", 3000, 0.81)
    more = replace(
        found,
        contenders=(*found.contenders, larger),
        comparisons=(*found.comparisons, Comparison(7, 8, 0.03, 0.0, 0.06, 0.02)),
    )
    assert more.verdict == (
        "At equal or fewer parameters these beat tuned LoRA: trial 4 by +0.0400 (95 % interval "
        "+0.0100 to +0.0700, p 0.01) against trial 1 (1,000 parameters), trial 7 by +0.0300 (95 % "
        "interval +0.0000 to +0.0600, p 0.02) against trial 8 (3,000 parameters)."
    )
    comparisons = tuple(replace(item, p_value=1.0) for item in more.comparisons)
    assert replace(more, comparisons=comparisons).verdict == (
        "Nothing beats tuned LoRA here at equal or fewer parameters beyond noise; the nearest is "
        "trial 4 by +0.0400 (95 % interval +0.0100 to +0.0700, p 1) against trial 1 (1,000 "
        "parameters)."
    )
    alone = replace(more, comparisons=comparisons[1:])
    assert alone.verdict.startswith("Nothing beats LoRA (trial 8, 3,000 parameters) here"), (
        "which is not the one that is called tuned in the table"
    )


def test_without_lora_or_without_anything_smaller_the_verdict_says_so():
    found = selection()
    assert "as few parameters" in replace(found, comparisons=()).verdict
    rest = tuple(item for item in found.contenders if item.role != "lora")
    assert "no tuned LoRA" in replace(found, contenders=rest, comparisons=()).verdict


def test_rows_that_the_search_has_seen_are_told():
    found = replace(selection(), seen=3)
    rows = f"{found.rows:,} rows"
    assert found.which_rows == f"{rows}, 3 of them with a text that the search has seen"
    assert replace(found, seen=0).which_rows == f"{rows} that the search has not seen"


def test_best_of_several_has_to_be_farther_above_a_constant():
    """Of three candidates each is allowed a third of the errors; full fine-tuning is none."""
    found = selection()
    candidates = [item for item in found.contenders if item.trial != 7]
    noise = math.hypot(0.01, 0.02)
    for among, more in ((3, ()), (3, (contender(8, "full", 10**6, 0.99),))):
        some = replace(found, contenders=(*candidates, *more))
        needed = NormalDist().inv_cdf(1 - 0.05 / among) * noise
        assert not some.beats(Constant("x", 0.84 - needed + 1e-6, 0.02))
        assert some.beats(Constant("x", 0.84 - needed - 1e-6, 0.02))


def test_drop_is_what_the_front_lost():
    found = selection()
    assert found.contender(7).drop == pytest.approx(0.05)
    assert found.drop == pytest.approx((0.02 + 0.05) / 2)
    baselines = tuple(item for item in found.contenders if item.role in {"lora", "head"})
    assert replace(found, contenders=baselines).drop is None


@pytest.mark.parametrize("more", [{}, {"search_compares": False}, {"folds": True}, {"seen": 3}])
def test_file_is_what_was_written_and_fits_the_schema(tmp_path, more):
    path = tmp_path / "selection.json"
    written = replace(selection(), **more)
    write_selection(path, written)
    assert read_selection(path) == written
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("rows", -1),
        ("recommended", 5),
        ("recommended", None),
        ("contenders.0.role", "winner"),
        ("contenders.0.trial", 7),
        ("contenders.1.stderr", -0.1),
        ("contenders.1.high", float("nan")),
        ("comparisons.0.baseline", 3),
        ("comparisons.0.p_value", "small"),
        ("notes", [""]),
        ("verdict", ""),
        ("more", 1),
    ],
)
def test_malformed_file_is_refused_by_name(tmp_path, key, value):
    data = copy.deepcopy(selection_to_dict(selection()))
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    place[last] = value
    path = tmp_path / "selection.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"selection\.json"):
        read_selection(path)
