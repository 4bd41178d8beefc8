"""Results of another tuner as a study, without Ray: what is kept, left out and refused."""

import contextlib
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from study_factory import ledger_states, results, tree, weights

from autopeft.engines.inline import InlineEngine
from autopeft.errors import ConfigError, DataError
from autopeft.handle import Study
from autopeft.space.dimension import Categorical, Integer
from autopeft.space.methods import method
from autopeft.study import reports
from autopeft.study.prepared import read_prepared
from autopeft.study.reports import Report
from autopeft.study.search import prepare


class Checkpoint:
    """As far as Tune's is needed."""

    def __init__(self, folder):
        self._folder = folder

    @contextlib.contextmanager
    def as_directory(self):
        yield str(self._folder)


def draw(space, choose):
    """A configuration in the middle of every range; of choices the one that is chosen."""
    found = {}
    for dim in space.dimensions():
        if isinstance(dim, Categorical):
            found[dim.name] = dim.choices[choose % len(dim.choices)]
        elif isinstance(dim, Integer):
            found[dim.name] = (dim.low + dim.high) // 2
        else:
            found[dim.name] = dim.low + (0.3 + choose / 10) * (dim.high - dim.low)
    return found


@pytest.fixture(scope="module")
def ready(spec_of, tmp_path_factory):
    """A prepared study without trials."""
    return prepare(spec_of(), tmp_path_factory.mktemp("tuned") / "study")


@pytest.fixture(scope="module")
def grid(ready, tmp_path_factory):
    """What four trials of Tune come to, two of them of one genotype."""
    folder = tmp_path_factory.mktemp("grid")
    engine = InlineEngine(ready.setup.spec.work)
    engine.load()
    engine.begin(ready.manifest.decided, folder)
    found = []
    for choose in (0, 1, 0, 2):
        config = draw(ready.setup.space, choose)
        job = reports.first_job(ready, config)
        engine.submit(job, job.numbers)
        (record,) = engine.results(lambda *_: None)
        place = folder / f"checkpoint{len(found)}"
        place.mkdir()
        shutil.move(folder / record.weights, place / reports.WEIGHTS)
        metrics = {reports.REPORT: Report((record,)).to_json(), "trial_id": f"t{len(found)}"}
        found.append(SimpleNamespace(metrics=metrics, checkpoint=Checkpoint(place)))
    return found


@pytest.fixture
def folder(ready, tmp_path):
    return shutil.copytree(ready.study.folder, tmp_path / "study")


def test_results_become_a_study(grid, folder):
    study = Study.from_result_grid(grid, folder)
    records = study.records()
    assert [record.trial for record in records] == [0, 1, 2], "one genotype is one trial"
    assert [record.cohort for record in records] == [(0,), (1,), (2,)]
    assert len({record.hash for record in records}) == 3
    assert ledger_states(study) == ["COMPLETE"] * 3
    assert weights(study).keys() == {f"{p.trial:06d}-0-0.safetensors" for p in study.front().points}
    before = tree(folder)
    Study.from_result_grid(grid, folder)
    assert {k: v for k, v in tree(folder).items() if "study.db" not in k} == {
        k: v for k, v in before.items() if "study.db" not in k
    }


def test_results_can_come_in_parts_and_in_any_order(grid, folder):
    study = Study.from_result_grid(grid[3:], folder)
    first = results(study)
    study = Study.from_result_grid(grid[::-1], folder)
    assert results(study)[:1] == first
    assert len(results(study)) == 3


def test_what_was_lost_is_a_failure_and_what_was_refused_is_told(ready, grid, folder):
    shape = ready.setup.space.shape
    genotype = method("lora_all").largest(shape, 10**6)
    assert genotype.count_params(shape) > ready.setup.space.max_params
    large = {reports.GENOTYPE: json.dumps(genotype.to_dict())}
    more = [
        SimpleNamespace(metrics={"config": draw(ready.setup.space, 3)}, checkpoint=None),
        SimpleNamespace(metrics={"config": large}, checkpoint=None),
        SimpleNamespace(metrics={"trial_id": "gone"}, checkpoint=None),
    ]
    with pytest.warns(UserWarning, match="trial gone has no result and no configura") as told:
        study = Study.from_result_grid([*grid, *more], folder)
    spent = f"{genotype.count_params(shape):,} parameters, the budget is"
    assert f"2 results are left out: the genotype has {spent}" in str(told[0].message)
    last = study.records()[-1]
    assert (last.state, last.failure.kind) == ("failed", "crash")
    assert ledger_states(study) == [*["COMPLETE"] * 3, "FAIL"]


def test_what_is_not_of_the_study_is_refused(ready, grid, folder, tmp_path, done):
    text = grid[0].metrics[reports.REPORT]
    asked = text.replace('"asked": false', '"asked": true')
    assert asked != text
    for metrics, checkpoint, refusal in (
        ({reports.REPORT: asked}, None, r"trial None is of another study: none in .* trial 0 at"),
        ({reports.REPORT: text}, grid[1].checkpoint, "the weights in its checkpoint are of no rec"),
        ({reports.REPORT: "{"}, None, "trial None is not strict JSON"),
        ({reports.REPORT: '{"records": []}'}, None, "trial None: refusal is missing"),
        ({reports.REPORT: text.replace('"rung": 0', '"rung": -1')}, None, "trial None: rung is -1"),
    ):
        result = SimpleNamespace(metrics=metrics, checkpoint=checkpoint)
        with pytest.raises(DataError, match=refusal):
            Study.from_result_grid([result], folder)
    assert not (folder / "records").exists()
    with pytest.raises(DataError, match=r"was not made by `autopeft\.tune\.prepare`: it has no"):
        Study.from_result_grid(grid, done.folder)
    with pytest.raises(ConfigError, match="the configuration lacks total, "):
        reports.first_job(ready, {"learning_rate": 1e-3})
    (folder / "facts.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"facts\.json: model_shape is not valid"):
        read_prepared(folder)


def test_prepared_study_is_read_again_without_the_model(ready):
    again = read_prepared(ready.study.folder)
    assert (again.setup, again.manifest) == (ready.setup, ready.manifest)
    assert again.manifest.cohort == 1


def test_without_ray_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith(("autopeft.tune", "ray."))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"needs Ray Tune, .*: pip install 'autopeft\[ray\]'"):
        import autopeft.tune  # noqa: F401
