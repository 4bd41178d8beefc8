"""Plain scripts of Ray Tune: any searcher in our spaces, our study and promotions in its runs."""

import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import PATIENCE_SECONDS, Cluster
from study_factory import ledger_states, results, weights

import autopeft
from autopeft.engines.ray.settings import prepare_environment
from autopeft.study import reports
from autopeft.study.search import prepare, run_search
from autopeft.study.spec import load_study_spec

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

RUNGS = {"sampler": "random", "training": {"epochs": 3}, "selection": {"seeds": 2}}


@pytest.fixture(scope="module")
def ray_here():
    """A cluster of this process."""
    prepare_environment("local")
    import ray

    cluster = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 10**8}
    ray.init("local", log_to_driver=False, **cluster)
    yield ray
    ray.shutdown()


@pytest.fixture
def fit(ray_here, tmp_path):
    """Run a Tuner."""
    from ray import tune

    from autopeft.tune import trainable

    def run(ready, space=None, **config):
        tuner = tune.Tuner(
            trainable(ready),
            param_space=space,
            tune_config=tune.TuneConfig(reuse_actors=True, **config),
            run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
        )
        return tuner.fit()

    return run


def front_in(grid):
    """What no other result beats, by quality and parameters, from what Tune reports alone."""
    measured = [(r.metrics["accuracy"], r.metrics["trainable_params"]) for r in grid]
    points = {(q, p) for q, p in measured if not math.isnan(q)}
    return {
        (q, p)
        for q, p in points
        if not any(b >= q and c <= p and (b, c) != (q, p) for b, c in points)
    }


def front_of(study):
    return {(point.quality, point.trainable_params) for point in study.front().points}


def test_random_search_of_tune_gives_a_study(fit, spec_of, tmp_path):
    from autopeft.tune import param_space

    ready = prepare(spec_of(trials=8), tmp_path / "study")
    grid = fit(ready, param_space(ready.setup.space), num_samples=6)
    study = autopeft.Study.from_result_grid(grid, tmp_path / "study")
    assert front_of(study) == front_in(grid)
    assert ledger_states(study) == ["COMPLETE"] * 6
    assert len({result.metrics["pid"] for result in grid}) <= 2, "actors are used again"
    assert len(study.report().html) > 1000
    before = results(study), weights(study)
    assert weights(study).keys() == {f"{p.trial:06d}-0-0.safetensors" for p in study.front().points}
    again = autopeft.Study.from_result_grid(grid, tmp_path / "study")
    assert (results(again), weights(again)) == before
    longer = run_search(load_study_spec(study.spec_file), study.folder)
    assert results(longer)[:6] == before[0]
    assert len(results(longer)) == 8


def test_optuna_in_tune_with_our_promotions(fit, spec_of, tmp_path):
    from optuna.trial import TrialState
    from ray.tune.search.optuna import OptunaSearch

    from autopeft.tune import Brackets, PromotionScheduler, param_space

    ready = prepare(spec_of(trials=30, **RUNGS), tmp_path / "study")
    assert ready.rungs.top == 1
    searcher = OptunaSearch(metric=["accuracy", "trainable_params"], mode=["max", "min"], seed=0)
    scheduler = PromotionScheduler(Brackets(ready, 9))
    space = param_space(ready.setup.space)
    grid = fit(ready, space, num_samples=9, search_alg=searcher, scheduler=scheduler)
    study = autopeft.Study.from_result_grid(grid, tmp_path / "study")
    assert front_of(study) == front_in(grid)
    tops = sum(result.metrics["rung"] == 1 for result in grid)
    assert 0 < tops < 9
    assert sorted(ledger_states(study)) == ["COMPLETE"] * tops + ["PRUNED"] * (9 - tops)
    theirs = [trial.state for trial in searcher._ot_study.trials]
    assert theirs.count(TrialState.COMPLETE) == tops, "stopped trials have no values"
    assert theirs.count(TrialState.PRUNED) == 9 - tops
    before = {record.key for record in study.records()}
    longer = run_search(load_study_spec(study.spec_file), study.folder)
    after = {record.key for record in longer.records() if record.trial < 9 and not record.replicate}
    assert after == before, "the scheduler has promoted as a study does"
    assert len({record.trial for record in longer.records()}) == 30


@pytest.mark.parametrize("pauses", [True, False])
def test_our_study_in_tune_is_a_search(fit, spec_of, tmp_path, pauses):
    """Also where no scheduler lets trials pause: then those that go on begin anew."""
    from autopeft.tune import StudySearch

    spec = spec_of(trials=30, **RUNGS)
    whole = run_search(spec_of(trials=30, **RUNGS | {"training": {"epochs": 3, "cohort": 1}}),
                       tmp_path / "whole")  # fmt: skip
    search = StudySearch(prepare(spec, tmp_path / "study"))
    scheduler = search.scheduler() if pauses else None
    grid = fit(search._ready, num_samples=-1, search_alg=search, scheduler=scheduler)
    study = autopeft.Study(tmp_path / "study")
    assert results(study) == results(whole)
    assert study.selection() == whole.selection()
    assert ledger_states(study) == ledger_states(whole)
    assert "RUNNING" not in ledger_states(study)
    kept = autopeft.Study.from_result_grid(grid, study.folder)
    assert results(kept) == results(whole)
    assert weights(kept) == weights(whole)


def test_draws_over_the_budget_are_told_and_never_trained(fit, spec_of, tmp_path):
    from autopeft.tune import param_space

    space = tmp_path / "space.yaml"
    space.write_text(
        "name: wide\ndescription: Most draws are too large.\ndraw: filter\n"
        "slots: [{name: lora, form: lowrank, read: attn_in, write: q, size: [1, 8, 16]}]\n"
        "training: {learning_rate: 0.01}\n",
        encoding="utf-8",
    )
    spec = spec_of(space=str(space), max_params=300, methods=[])
    ready = prepare(spec, tmp_path / "study")
    grid = fit(ready, param_space(ready.setup.space), num_samples=12)
    over = [r for r in grid if r.metrics["trainable_params"] > 300]
    assert over, "no draw was over the budget"
    for result in over:
        assert math.isnan(result.metrics["accuracy"])
        report = reports.report_in(result.metrics, "result")
        assert report.records == ()
        assert report.refusal.endswith("the budget is 300")
    with pytest.warns(UserWarning, match=f"{len(over)} results are left out: the genotype has"):
        study = autopeft.Study.from_result_grid(grid, tmp_path / "study")
    assert all(record.trainable_params <= 300 for record in study.records())
    assert front_of(study) == front_in(grid)


def test_spaces_for_tune_keep_to_the_budget(ray_here):
    from synthetic_study import MINILM

    from autopeft.space.bind import bind
    from autopeft.space.shipped import load_space, shipped_spaces
    from autopeft.tune import param_space

    for name in shipped_spaces():
        space = bind(load_space(name), MINILM, MINILM.backbone_params // 100)
        domains = param_space(space)
        assert list(domains) == [dim.name for dim in space.dimensions()]
        for _ in range(20 if space.by_construction else 0):
            draw = {key: domain.sample() for key, domain in domains.items()}
            assert space.admits(space.decode(draw)), (name, draw)


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "stations").mkdir()
    made = Cluster(tmp_path / "stations")
    yield made
    made.stop()


def test_killed_tuner_goes_on_where_it_was(cluster, spec_of, tmp_path):
    """By `Tuner.restore`, and by a resume of the study's folder without Tune."""
    spec = spec_of(trials=30, **RUNGS | {"training": {"epochs": 3, "cohort": 1}})
    whole = run_search(spec, tmp_path / "whole")
    study = autopeft.Study(prepare(spec, tmp_path / "study").study.folder)
    cluster.start_node()

    def start():
        script = [sys.executable, str(Path(__file__).with_name("tune_script.py"))]
        environment = cluster.driver_environment | {"TUNE_GLOBAL_CHECKPOINT_S": "0.1"}
        arguments = [cluster.address, str(study.folder), str(tmp_path / "tune")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*script, *arguments], env=environment, **pipes)

    def n_records():
        return len(list((study.folder / "records").glob("[0-9]*.json")))

    tuner = start()
    end = time.monotonic() + PATIENCE_SECONDS
    while n_records() < 14:
        assert tuner.poll() is None, tuner.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
    tuner.send_signal(signal.SIGKILL)
    tuner.communicate()
    assert n_records() < len(results(whole)), "the tuner died after the study"
    copy = shutil.copytree(study.folder, tmp_path / "copy")
    resumed = run_search(load_study_spec(copy / "study.yaml"), copy)
    assert results(resumed) == results(whole)
    tuner = start()
    out, _ = tuner.communicate(timeout=PATIENCE_SECONDS)
    assert tuner.returncode == 0, out
    assert "restored" in out
    assert results(study) == results(whole)
    assert ledger_states(study) == ledger_states(whole)
    assert not list(study.folder.rglob("*.tmp"))
