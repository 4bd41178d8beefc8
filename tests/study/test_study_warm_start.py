"""A study begins with the front of an earlier one, and is the same study without it later."""

import json
import shutil

import pytest
from study_factory import results

from autopeft.errors import ConfigError, DataError
from autopeft.front_file import read_front
from autopeft.space.bind import bind
from autopeft.space.shape import BERT_BASE
from autopeft.space.shipped import load_space
from autopeft.study.folder import Study
from autopeft.study.limits import Budget
from autopeft.study.search import run_search
from autopeft.study.spec import load_study_spec
from autopeft.study.warm_start import COPY, MOST, read_warm_start, warm_starts


@pytest.fixture(scope="module")
def source(done, tmp_path_factory):
    """A copy of a finished study, to be thrown away."""
    return shutil.copytree(done.folder, tmp_path_factory.mktemp("source") / "study")


def test_front_comes_first_and_the_folder_is_enough(source, spec_of, tmp_path):
    front = Study(source).front()
    spec = spec_of(trials=len(front.points) + 1, warm_start=str(source), seed=3)
    folder = tmp_path / "study"
    study = run_search(spec, folder)
    whole = results(study)
    first = [record["hash"] for record in whole[: len(front.points)]]
    assert sorted(first) == sorted(
        r.hash for r in Study(source).records() if r.trial in {p.trial for p in front.points}
    )
    recommended = next(p for p in front.points if p.trial == front.recommended)
    assert whole[0]["genotype"] == recommended.genotype

    moved = shutil.move(folder, tmp_path / "elsewhere")
    shutil.move(source, tmp_path / "gone")
    again = load_study_spec(moved / "study.yaml")
    assert str(again.warm_start) == COPY
    more = again.model_copy(update={"budget": again.budget.model_copy(update={"trials": 6})})
    assert results(run_search(more, moved, base=moved))[: len(whole)] == whole
    assert read_front(moved / COPY) == front

    with pytest.raises(ConfigError, match="holds another study") as refusal:
        run_search(spec.model_copy(update={"warm_start": None}), moved)
    assert "warm_start: was" in str(refusal.value)
    shutil.move(tmp_path / "gone", source)


HOSTILE = {
    "not json": "{",
    "not a front": '{"version": 1}',
    "a list": "[]",
    "genotype": None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_front_is_one_message_and_nothing_is_written(kind, source, spec_of, tmp_path):
    front = json.loads((source / "front.json").read_text())
    front["points"][-1]["genotype"]["ops"] = [{"form": "../../etc/passwd"}]
    path = tmp_path / "front.json"
    path.write_text(HOSTILE[kind] or json.dumps(front))
    with pytest.raises(DataError, match=str(path)):
        run_search(spec_of(warm_start=str(path)), tmp_path / "study")
    with pytest.raises(DataError, match=r"cannot read .*missing"):
        run_search(spec_of(warm_start=str(tmp_path / "missing")), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_points_are_few_far_apart_and_mapped_with_notes(source):
    front = read_warm_start(source, source)
    space = bind(load_space("lora"), BERT_BASE, 100_000)
    starts, notes = warm_starts(front, space, Budget(100_000, None))
    assert 0 < len(starts) <= min(MOST, len(front.points))
    assert all(start.genotype.n_layers == BERT_BASE.n_layers for start in starts)
    assert all(start.genotype.count_params(BERT_BASE) <= 100_000 for start in starts)
    assert all("from 2 layers to 12" in note for note in notes[: len(starts)])
