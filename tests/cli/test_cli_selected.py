"""What people see of the final selection."""

import shutil
from dataclasses import replace

import pytest

from autopeft.advice import Advice
from autopeft.cli.console import show_opening
from autopeft.cli.selected import show_selection
from autopeft.selection import Comparison, Contender, Selection
from autopeft.selection_file import write_selection
from autopeft.study.unseen import Opening


def contender(trial, role, params, quality):
    return Contender(
        trial, role, params, params / 1e6, f"genotype {trial}", 0.91, quality, 0.01, 0.8, 0.9, 3
    )


def test_intervals_drop_and_verdict_are_shown(capsys):
    selection = Selection(
        metric="accuracy",
        rows=500,
        contenders=(contender(4, "recommended", 500, 0.86), contender(1, "lora", 1000, 0.85)),
        comparisons=(Comparison(4, 1, 0.01, -0.01, 0.03, 0.2),),
        recommended=4,
        notes=("trial 9 is left out",),
    )
    show_selection(selection, Advice(4))
    out, err = capsys.readouterr()
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0] == "Trained anew, on 500 rows that the search has not seen"
    assert lines[2].split()[:2] == ["*", "4"]
    assert "0.8600 0.8000 to 0.9000 0.9100" in " ".join(lines[2].split())
    assert "tuned LoRA" in lines[3]
    assert lines[4] == selection.verdict
    assert "note: trial 9 is left out" in err
    assert "Means of 3 fresh seeds" in err
    assert "* trial 4 is recommended: " in err
    assert "In the search the front scored 0.0500 higher in the mean" in err
    show_selection(replace(selection, seen=500), Advice(4))
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "Trained anew, on 500 rows, 500 of them with a text that the search has seen"
    show_selection(replace(selection, search_compares=False), Advice(None))
    _, err = capsys.readouterr()
    assert "* trial 4: " in err
    assert "in the mean" not in err


@pytest.mark.parametrize(("quality", "is_told"), [(0.51, True), (0.99, False)])
def test_front_tells_whether_its_final_selection_has_learnt_anything(
    run, done, tmp_path, quality, is_told
):
    """The study itself has not: its best trial is no better than one answer to every row."""
    shutil.copytree(done.folder, tmp_path / "study")
    contenders = tuple(contender(i, role, 500, quality) for i, role in enumerate(("head", "lora")))
    selection = Selection("accuracy", 500, contenders, (), recommended=1)
    assert done.front().recommended != 1
    write_selection(tmp_path / "study" / "selection.json", selection)
    _, _, err = run("front", tmp_path / "study")
    told = "and trained anew with fresh seeds no trial is better beyond noise: nothing has been"
    assert (f"{told} learnt yet" in err) == is_told
    assert ("trial 1 is recommended" in err) == (not is_told)
    assert f"trial {done.front().recommended} is recommended" not in err
    assert ("--genotype 1 > genotype.yaml" in err) == (not is_told)
    assert ("Next:" in err) == (not is_told)


def test_test_rows_that_the_search_has_seen_are_told_in_one_line(capsys):
    show_opening(Opening("2026-01-01", 1, 20_000, "accuracy", (), seen=10_000))
    told = "On 20,000 test rows, 10,000 of them with a text that the search has seen"
    assert capsys.readouterr().out.splitlines()[0].rstrip() == told
