"""One genotype, trained as a search trains it."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file
from study_factory import tree

from autopeft.errors import ConfigError, DataError
from autopeft.record_files import read_records
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.study.folder import Study
from autopeft.study.manifest import READING, read_manifest
from autopeft.study.single import train_one
from autopeft.study.spec import load_study_spec


def test_training_is_that_of_the_search(done, spec_of, tmp_path):
    steps = []
    for point in done.front().points:
        theirs = next(record for record in done.records() if record.trial == point.trial)
        out = tmp_path / str(point.trial)
        genotype = genotype_from_dict(theirs.genotype)
        ours = train_one(spec_of(), genotype, out, progress=lambda *a: steps.append(a))
        assert (ours.seed, ours.hash, ours.steps) == (theirs.seed, theirs.hash, theirs.steps)
        assert ours.metrics == theirs.metrics
        assert ours.objectives == theirs.objectives
        assert ours.trial == 0
        assert read_records(out) == [ours]
        one, two = load_file(out / ours.weights), load_file(done.folder / theirs.weights)
        assert one.keys() == two.keys()
        assert all(one[name].equal(two[name]) for name in one)
    assert steps[:3] == [(1, 3), (2, 3), (3, 3)]


def test_seed_of_the_study_matters(done, spec_of, tmp_path):
    genotype = genotype_from_dict(done.records()[1].genotype)
    ours = train_one(spec_of(seed=1), genotype, tmp_path / "out")
    assert ours.hash == done.records()[1].hash
    assert ours.seed != done.records()[1].seed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"max_params": 1023}, "the genotype has 1,024 parameters, the budget is 1,023"),
        ({"n_layers": 3}, "the genotype is for 3 layers, the model has 2"),
    ],
)
def test_genotype_that_does_not_fit_is_refused(done, spec_of, tmp_path, change, told):
    genotype = genotype_from_dict(done.records()[1].genotype)
    budget = change.get("max_params", 1024)
    if "n_layers" in change:
        ops = tuple(replace(op, sizes=(8, 0, 0)) for op in genotype.ops)
        genotype = Genotype(3, ops, genotype.learning_rate)
    with pytest.raises(ConfigError, match=told):
        train_one(spec_of(max_params=budget), genotype, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_genotype_of_exactly_the_budget_is_trained(done, spec_of, tmp_path):
    genotype = genotype_from_dict(done.records()[1].genotype)
    record = train_one(spec_of(max_params=1024), genotype, tmp_path / "out")
    assert record.trainable_params == 1024


def test_what_is_written_is_a_study_of_one_trial(done, spec_of, tmp_path):
    genotype = genotype_from_dict(done.records()[1].genotype)
    spec = spec_of().model_copy(update={"space": "mine.yaml"})  # which is not asked for
    record = train_one(spec, genotype, tmp_path / "out", base=tmp_path)
    study = Study(tmp_path / "out")
    assert study.records() == [record]
    (point,) = study.front().points
    assert (point.trial, point.summary) == (0, "LoRA q,v r8 x2")
    assert load_study_spec(study.spec_file).space == str(tmp_path / "mine.yaml")
    theirs, ours = read_manifest(done.manifest_file), read_manifest(study.manifest_file)
    assert (ours.model, ours.data) == (theirs.model, theirs.data)
    assert ours.fingerprint[READING] == theirs.fingerprint[READING]
    assert ours.rung_steps == (record.steps,)


def test_folder_in_use_is_refused(done, spec_of, tmp_path):
    genotype = genotype_from_dict(done.records()[1].genotype)
    (tmp_path / "precious").touch()
    with pytest.raises(ConfigError, match="exists and is not an empty folder; give another --out"):
        train_one(spec_of(), genotype, tmp_path)
    with pytest.raises(ConfigError, match="exists and is not an empty folder; give another --out"):
        train_one(spec_of(), genotype, tmp_path / "precious")
    with pytest.raises(DataError, match="cannot be made"):
        train_one(spec_of(), genotype, tmp_path / "precious" / "out")
    assert set(tree(tmp_path)) == {"precious"}


def test_trial_that_becomes_nan_is_recorded(done, spec_of, tmp_path):
    genotype = genotype_from_dict(done.records()[1].genotype)
    record = train_one(spec_of(), replace(genotype, learning_rate=1e30), tmp_path / "out")
    assert record.failure is not None
    assert record.failure.kind == "nan"
    assert read_records(tmp_path / "out") == [record]
