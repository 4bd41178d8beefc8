"""A search is the same whether it ran at once or was continued, and never over its budgets."""

from datetime import UTC, datetime

import optuna
import pytest
from study_factory import N_LAYERS, ledger_states, record_files, results, weights, write_jsonl

from autopeft.engines.inline import InlineEngine
from autopeft.engines.outcome import record_of
from autopeft.errors import NoFeasibleTrialError
from autopeft.records import Failure, Metric
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.shipped import load_space
from autopeft.study import propose
from autopeft.study.events import Plan, Silent
from autopeft.study.limits import Budget
from autopeft.study.planner import Known, Planner
from autopeft.study.prepare import prepare
from autopeft.study.rungs import Rungs
from autopeft.study.search import run_search
from autopeft.study.setup import set_up
from autopeft.study.starting import starts_of


@pytest.fixture
def jobs(monkeypatch):
    """The trials of every job that an engine was given."""
    given = []
    original = InlineEngine.submit

    def submit(self, job, wanted):
        given.append(job.numbers)
        assert wanted == set(job.numbers)
        original(self, job, wanted)

    monkeypatch.setattr(InlineEngine, "submit", submit)
    return given


class Plans(Silent):
    """Keeps what it is told before the first trial."""

    def __init__(self) -> None:
        self.told: list[Plan] = []

    def planned(self, plan: Plan) -> None:
        self.told.append(plan)


@pytest.mark.parametrize(
    ("sampler", "cohort", "first", "trials"),
    [
        ("tpe", 2, 2, 5),
        ("tpe", 4, 2, 5),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in (("tpe", 4, 11, 13), ("nsga2", 4, 9, 13))
        ),
        ("random", 4, 1, 6),
    ],
)
def test_continued_search_is_the_uninterrupted_one(
    spec_of, tmp_path, monkeypatch, jobs, sampler, cohort, first, trials
):
    monkeypatch.setattr(propose, "POPULATION", 6)

    def spec(total, name=sampler):
        return spec_of(trials=total, sampler=name, training={"cohort": cohort})

    folder = tmp_path / "continued"
    before = record_files(run_search(spec(first), folder))
    study = run_search(spec(trials), folder)
    after = record_files(study)
    assert [number for job in jobs for number in job] == list(range(trials)), "each trained once"
    assert {name: after[name] for name in before} == before
    assert len(before) == first
    assert len(after) == trials
    whole = run_search(spec(trials), tmp_path / "whole")
    assert results(study) == results(whole)
    assert weights(study) == weights(whole)
    assert study.front() == whole.front()
    if trials > 10:  # enough is known for the sampler to leave chance behind
        chance = _by_chance(spec(trials), whole, slot=trials - 1)
        assert whole.records()[-1].hash != chance


def _by_chance(spec, study, slot):
    """Hash of what random sampling would have tried in a slot."""
    facts = prepare(spec, study.folder).facts
    space = set_up(spec, load_space(spec.space), facts).space
    taken = {record.hash for record in study.records() if record.trial < slot}
    drawn = propose.propose(space, "random", seed=0, slot=slot, history=[], taken=taken)
    return drawn.genotype.hash


def test_finished_search_trains_nothing_and_changes_no_result(done, spec_of, tmp_path, jobs):
    plans = Plans()
    folder = tmp_path / "study"
    study = run_search(spec_of(trials=3), folder, watcher=plans)
    before, n_jobs = record_files(study), len(jobs)
    for trials in (3, 2):
        run_search(spec_of(trials=trials), folder, watcher=plans)
        assert record_files(study) == before
    assert len(jobs) == n_jobs
    assert results(study) == results(done)[:3]
    assert [(plan.trials_done, plan.trials) for plan in plans.told] == [(0, 3), (3, 3), (3, 3)]
    assert [plan.seconds_left > 0 for plan in plans.told] == [True, False, False]
    assert min(plan.seconds_left for plan in plans.told) == 0


def test_plan_is_told_before_the_first_trial(spec_of, tmp_path):
    class Check(Plans):
        def planned(self, plan):
            super().planned(plan)
            assert not (tmp_path / "study" / "records").exists()

    plans = Check()
    study = run_search(spec_of(trials=1, time="1h"), tmp_path / "study", watcher=plans)
    (plan,) = plans.told
    assert plan.folder == str(study.folder)
    assert plan.max_params == 1680  # 30 % of 5,600
    assert plan.fraction == pytest.approx(0.3)
    assert 0 < plan.least_params <= 16
    assert plan.time_seconds == 3600
    assert (plan.precision, plan.kernel, plan.cohort) == ("fp32", "eager", 4)
    assert plan.cardinality > 10**6
    assert plan.trial_seconds > 0


def test_the_least_of_a_plan_is_an_op_that_can_be_drawn(spec_of, tmp_path):
    """In a space with one size for all layers it is in both."""
    plans = Plans()
    spec = spec_of(trials=1, space="he2022", methods=["head"])
    run_search(spec, tmp_path / "study", watcher=plans)
    assert plans.told[0].least_params == N_LAYERS * 2 * 16  # a prefix of one token


@pytest.mark.parametrize("space", ["unified", "lora", "adapters", "autopeft"])
def test_nothing_over_the_parameter_budget_is_trained(spec_of, tmp_path, space):
    spec = spec_of(trials=7, space=space, max_params=150, methods=["head", "lora", "bitfit"])
    notes = Plans()
    study = run_search(spec, tmp_path / "study", watcher=notes)
    shape = prepare(spec, tmp_path).backbone.shape
    records = study.records()
    assert len(records) == 7
    for record in records:
        count = genotype_from_dict(record.genotype).count_params(shape)
        assert count == record.trainable_params <= 150
    assert max(record.trainable_params for record in records) > 75
    assert sum(not record.genotype["ops"] for record in records) == 1, "the head-only method"
    assert any("method bitfit is left out" in note for note in notes.told[0].notes)


@pytest.mark.parametrize(("max_params", "size"), [(1680, 8), (1024, 8), (1023, 4)])
def test_size_of_a_method_shrinks_to_the_budget(spec_of, tmp_path, max_params, size):
    shape = prepare(spec_of(), tmp_path).backbone.shape
    starts, notes = starts_of(shape, Budget(max_params, None), ["head", "lora"])
    head, lora = (start.genotype for start in starts.first)
    assert not head.ops
    assert {op.sizes for op in lora.ops} == {(size,) * N_LAYERS}
    assert not notes


@pytest.mark.usefixtures("metered")
def test_time_budget_holds_over_all_runs(spec_of, tmp_path, jobs):
    folder = tmp_path / "study"
    for time, numbers in ((2.5, 2), (2.5, 2), (5.9, 5), (7, 7), ("1m", 9)):
        study = run_search(spec_of(trials=9, time=time), folder)
        assert len(study.records()) == numbers
        assert not [entry for entry in ledger_states(study) if entry == "RUNNING"]
    assert jobs == [(0, 1), (2, 3), (4,), (5, 6), (7,), (8,)]
    whole = run_search(spec_of(trials=9), tmp_path / "whole")
    assert results(study) == results(whole)


def test_too_little_time_is_refused_before_anything_is_written(spec_of, tmp_path, jobs):
    with pytest.raises(NoFeasibleTrialError, match="time budget of 1e-06 s is less than"):
        run_search(spec_of(time=1e-6), tmp_path / "study")
    assert not jobs
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("metered")
def test_less_time_than_was_spent_keeps_what_was_found(spec_of, tmp_path):
    folder = tmp_path / "study"
    before = run_search(spec_of(trials=4), folder).front()
    assert run_search(spec_of(trials=8, time=0.1), folder).front() == before


def test_search_without_methods_is_quiet(spec_of, tmp_path, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    study = run_search(spec_of(methods=[], trials=2), tmp_path / "study")
    assert all(record.genotype["ops"] for record in study.records())
    assert capfd.readouterr() == ("", "")


def test_seed_decides_everything(done, spec_of, tmp_path):
    other = run_search(spec_of(seed=1), tmp_path / "other")
    one, two = done.records(), other.records()
    methods = 0, 1, 4
    assert [one[i].hash for i in methods] == [two[i].hash for i in methods]
    assert not {record.hash for record in one[2:4]} & {record.hash for record in two[2:4]}
    assert not {record.seed for record in one} & {record.seed for record in two}


def test_regression_on_pairs_runs_to_the_end(spec_of, tmp_path):
    words = ("good", "fine", "bad", "poor")
    rows = [
        {"a": f"{words[i % 4]} film", "b": f"{words[i % 3]} plot", "y": float(i % 4 == i % 3)}
        for i in range(40)
    ]
    train = write_jsonl(tmp_path / "train.jsonl", rows)
    spec = spec_of(
        task="regression", data={"train": str(train), "text": ["a", "b"], "label": "y"}, trials=3
    )
    study = run_search(spec, tmp_path / "study")
    assert study.front().metric == "pearson"
    assert {record.split for record in study.records()} == {"validation"}
    assert all(set(record.metrics) == {"pearson", "spearman"} for record in study.records())


def test_too_few_rows_for_a_final_selection_are_told(spec_of, tmp_path):
    facts = prepare(spec_of(), tmp_path).facts
    spec = spec_of(selection={"seeds": 2})
    note = "there are too few training rows for a final selection"
    few = facts.model_copy(update={"unseen": None})
    assert note in set_up(spec, load_space("unified"), few).notes
    assert note not in set_up(spec, load_space("unified"), facts).notes
    data = spec.data.model_copy(update={"selection_rows": 0})
    unwanted = spec.model_copy(update={"data": data})
    assert note not in set_up(unwanted, load_space("unified"), few).notes


def test_too_few_trials_for_a_final_selection_are_told(spec_of, tmp_path):
    facts = prepare(spec_of(), tmp_path).facts

    def told(trials, seeds):
        spec = spec_of(trials=trials, selection={"seeds": seeds})
        setup = set_up(spec, load_space("unified"), facts)
        notes = [note for note in setup.notes if note not in facts.notes]
        return setup.seeds, [note for note in notes if "final selection" in note]

    assert told(10, 3) == (2, [])
    assert told(30, 3) == (3, [])
    assert told(9, 0) == (0, [])
    (few,) = told(9, 2)[1]
    assert few.startswith("9 trials pay for no final selection, ")
    assert few.endswith("; from 10 trials on there is one")
    assert told(99, 1) == (0, ["there is no final selection: it takes at least 2 seeds"])


def test_slot_knows_the_genotypes_whose_measurements_it_may_not_know(
    spec_of, tmp_path, monkeypatch
):
    told = []

    def spy(*args, **more):
        told.append((more["slot"], [genotype.hash for genotype in more["pending"]]))
        return propose.propose(*args, **more)

    monkeypatch.setattr("autopeft.study.planner.propose", spy)
    spec = spec_of(methods=[], trials=12)
    setup = set_up(spec, load_space("unified"), prepare(spec, tmp_path).facts)
    planner = Planner(setup, Rungs((1,), 3), trial_seconds=1.0, cohort=3, n_workers=2)
    known = Known([], {})
    for _ in range(3):  # with two workers the third block does not wait for the first
        job = planner.next_job(known)
        assert job is not None
        known.jobs.append(job)
    hashes = [trial.genotype.hash for trial in known.trials]
    assert told == [(slot, hashes[:slot]) for slot in range(9)]
    assert planner.next_job(known) is None, "the fourth one does"


def test_sampler_is_told_who_diverged_and_of_no_accident(spec_of, tmp_path, monkeypatch):
    told = {}

    def spy(*args, **more):
        told.update({one.genotype.hash: one for one in more["history"]})
        return propose.propose(*args, **more)

    monkeypatch.setattr("autopeft.study.planner.propose", spy)
    spec = spec_of(methods=[], trials=6)
    facts = prepare(spec, tmp_path).facts
    setup = set_up(spec, load_space("unified"), facts)
    planner = Planner(setup, Rungs((1,), 3), trial_seconds=1.0, cohort=3, n_workers=1)
    job = planner.next_job(Known([], {}))
    failures = [Failure("nan", "the loss became NaN"), Failure("out_of_memory", "killed"), None]
    records = {
        (trial.number, 0, 0): record_of(
            job,
            trial,
            facts=facts,
            precision="fp32",
            worker="w",
            seconds=1.0,
            started=datetime.now(UTC),
            failure=failure,
            metric=spec.chosen_metric,
            metrics=None if failure else {spec.chosen_metric: Metric(0.5, 0.1)},
        )
        for trial, failure in zip(job.trials, failures, strict=True)
    }
    planner.next_job(Known([job], records))

    nan, killed, fine = (told[trial.genotype.hash] for trial in job.trials)
    assert (nan.quality, nan.is_bad) == (None, True)
    assert nan.costs == {"trainable_params": nan.genotype.count_params(facts.shape)}
    assert (killed.quality, killed.is_bad) == (None, False)
    assert (fine.quality, fine.is_bad) == (0.5, False)


def test_which_class_f1_is_of_is_told(spec_of, tmp_path):
    of_good, of_bad, macro = (
        [note for note in prepare(spec_of(**more), tmp_path).notes if note.startswith("metric")]
        for more in ({"metric": "f1"}, {"metric": "f1", "positive": "bad"}, {"metric": "f1_macro"})
    )
    told = "metric: f1 is that of the class 'good'; `positive: bad` takes the other one, "
    assert [note.startswith(told) for note in of_good] == [True]
    assert of_bad == ["metric: f1 is that of the class 'bad'"]
    assert macro == []
