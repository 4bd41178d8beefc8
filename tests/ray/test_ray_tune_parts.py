"""Searcher and scheduler for Ray Tune by themselves, without a cluster."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from study_factory import ledger_states

from autopeft.engines.outcome import record_of
from autopeft.errors import ConfigError, DataError
from autopeft.records import Metric
from autopeft.study import reports
from autopeft.study.contenders import kind_of
from autopeft.study.promote import winners
from autopeft.study.propose import propose
from autopeft.study.reports import REPORT, Report
from autopeft.study.search import prepare

pytestmark = pytest.mark.ray

RUNGS = {"sampler": "random", "training": {"epochs": 3}}


@pytest.fixture
def ready(spec_of, tmp_path):
    return prepare(spec_of(trials=30, **RUNGS), tmp_path / "study")


def results_of(ready, n_trials):
    """What trials report at the lowest rung, by made-up scores, and at the next one."""
    space, reported = ready.setup.space, []
    for slot in range(n_trials):
        genotype = propose(space, "random", seed=1, slot=slot, history=[], taken=()).genotype
        config = {reports.GENOTYPE: json.dumps(genotype.to_dict())}
        records, texts = (), []
        for rung in (0, 1):
            job = reports.job_of(ready, reports.first_job(ready, config).trials[0], rung)
            score = (int(genotype.hash, 16) % 97 + rung) / 100
            record = record_of(
                job, job.trials[0], facts=ready.setup.facts, precision="fp32", worker="w",
                seconds=1.0, started=datetime(2026, 1, 31, tzinfo=UTC), failure=None,
                metric="accuracy", metrics={"accuracy": Metric(score, 0.1)},
            )  # fmt: skip
            records = (*records, record)
            texts.append({REPORT: Report(records).to_json()})
        reported.append(texts)
    return reported


def test_decisions_follow_from_last_results_in_any_order(ready):
    """So a Tuner that is restored, and adds its trials by time, decides as before."""
    from autopeft.tune import Brackets

    reported = results_of(ready, 9)
    first = Brackets(ready, 9)
    configs = {}
    for i, (low, _) in enumerate(reported):
        configs[i] = first.joins(f"t{i}", {})
        assert list(first.going_on(is_all=False)) == []
        first.hears(f"t{i}", low)
    chosen = list(first.going_on(is_all=False))
    assert 0 < len(chosen) < 9
    one = int(chosen[0][1:])
    first.hears(chosen[0], reported[one][1])
    again = Brackets(ready, 9)
    for i in reversed(range(9)):
        again.joins(f"t{i}", configs[i])
        again.hears(f"t{i}", reported[i][1] if i == one else reported[i][0])
    assert list(again.going_on(is_all=False)) == list(first.going_on(is_all=False)) == chosen[1:]


def test_the_best_lora_goes_on_as_in_a_study(ready):
    from autopeft.tune import Brackets

    reported, brackets = results_of(ready, 9), Brackets(ready, 9)
    loras = {}
    for i, (low, _) in enumerate(reported):
        brackets.joins(f"t{i}", {})
        brackets.hears(f"t{i}", low)
        (record,) = Report.from_json(low[REPORT], "test").records
        if kind_of(record.genotype) == "lora":
            loras[f"t{i}"] = record.metrics["accuracy"].value
    assert loras
    best = max(loras, key=lambda name: loras[name])
    places = winners(brackets._standings.values(), ready.rungs.reduction)
    assert best not in {f"t{i}" for i in places}, "or this tests nothing"
    assert set(brackets.going_on(is_all=False)) == {best, *(f"t{i}" for i in places)}


def test_failed_trial_never_goes_on_and_one_that_is_tried_again_has_not_failed(ready):
    from autopeft.tune import Brackets

    reported = results_of(ready, 9)
    brackets = Brackets(ready, 9)
    for i in range(9):
        brackets.joins(f"t{i}", {})
    for i in range(8):
        brackets.hears(f"t{i}", reported[i][0])
    brackets.loses("t8")
    assert list(brackets.going_on(is_all=False)), "a failure fills its place"
    brackets.joins("t8", {})
    assert not list(brackets.going_on(is_all=False))
    assert list(brackets.going_on(is_all=True)) == []


def test_tune_asks_whether_results_may_come_several_at_once(ready):
    """By a name of its own: where it has another one, ours would say nothing."""
    from ray.tune.schedulers import TrialScheduler

    from autopeft.tune import Brackets, PromotionScheduler

    assert TrialScheduler._supports_buffered_results is True
    assert PromotionScheduler(Brackets(ready, 9)).supports_buffered_results is False


def test_other_trainable_is_told_apart(ready):
    from autopeft.tune import Brackets, PromotionScheduler

    scheduler = PromotionScheduler(Brackets(ready, 9))
    with pytest.raises(ConfigError, match=r"a result of trial t0 has no report: .*\.trainable"):
        scheduler.on_trial_result(None, SimpleNamespace(trial_id="t0"), {"accuracy": 1.0})


def test_node_with_another_metric_measures_nothing(spec_of, tmp_path):
    """As where a folder of the cluster has an older version of the file."""
    from autopeft.tune import trainable

    file = tmp_path / "my.py"
    file.write_text("def score(p, r): return 0.5\n", encoding="utf-8")
    ready = prepare(spec_of(metric=f"{file}:score"), tmp_path / "study")
    file.write_text("def score(p, r): return 0.6\n", encoding="utf-8")
    with pytest.raises(DataError, match="this node has another file of the metric than the study"):
        trainable(ready)({})


def test_trial_that_tune_gives_up_has_failed(ready, tmp_path):
    from autopeft.tune import StudySearch

    search = StudySearch(ready, concurrent=2)
    first = search.suggest("a")
    second = search.suggest("b")
    assert reports.job_in(first[reports.JOB]).numbers == (0,)
    assert reports.job_in(second[reports.JOB]).numbers == (1,)
    assert search.suggest("c") is None, "two at a time"
    search.save(str(tmp_path / "state"))
    search.on_trial_complete("a", error=True)
    record = ready.study.records()[0]
    assert (record.trial, record.failure.kind) == (0, "crash")
    search.close()
    other = StudySearch(ready, concurrent=2)
    other.restore(str(tmp_path / "state"))
    assert reports.job_in(other.suggest("d")[reports.JOB]).numbers == (2,), "b is at 1"
    other.close()
    assert ledger_states(ready.study)[:2] == ["FAIL", "RUNNING"]
    fresh = StudySearch(ready, concurrent=2)
    assert reports.job_in(fresh.suggest("e")[reports.JOB]).numbers == (1,), "nobody is"
    fresh.close()


def test_restored_trial_is_paused_where_it_was(ready):
    from ray.tune.experiment import Trial

    from autopeft.tune import Brackets, PromotionScheduler

    class Added:
        def __init__(self, trial_id, last_result):
            self.trial_id, self.last_result = trial_id, last_result
            self.config, self.status = {}, Trial.PENDING

        def set_config(self, config):
            self.config = config

        def set_status(self, status):
            self.status = status

    scheduler = PromotionScheduler(Brackets(ready, 9))
    restored, new = Added("t0", results_of(ready, 1)[0][0]), Added("t1", {})
    scheduler.on_trial_add(None, restored)
    scheduler.on_trial_add(None, new)
    assert (restored.status, new.status) == (Trial.PAUSED, Trial.PENDING)
    assert (restored.config, new.config) == ({"trial": 0}, {"trial": 1})
    restored.status = Trial.PENDING
    scheduler.on_trial_add(None, restored)
    assert restored.status == Trial.PENDING, "Tune tries it again after an error"
