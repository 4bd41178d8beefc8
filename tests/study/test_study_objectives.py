"""A study with other objectives than quality and parameters, from its file to its front."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from study_factory import optuna_study

from autopeft.advice import Advice
from autopeft.cli.selected import show_selection
from autopeft.engines.calibrate import fit, kept_bytes
from autopeft.engines.inline import InlineEngine
from autopeft.engines.workbench import Workbench
from autopeft.errors import ConfigError, NoFeasibleTrialError
from autopeft.front import front_of
from autopeft.objectives import PARAMS
from autopeft.records import Objective
from autopeft.selection_file import selection_from_dict
from autopeft.space.costs import CostModel, Linear
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.shipped import load_space
from autopeft.space.taps import Tap
from autopeft.study.events import Silent
from autopeft.study.manifest import read_manifest
from autopeft.study.planner import words
from autopeft.study.propose import propose
from autopeft.study.search import run_search
from autopeft.study.setup import set_up
from autopeft.study.single import train_one
from autopeft.study.spec import BudgetSpec
from autopeft.training import alone
from autopeft.training.cohort import Cohort

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
EXACT = ["adapter_bytes", "metric", "trained_params"]


@pytest.fixture(scope="module")
def exact(spec_of, tmp_path_factory):
    """A study of exact costs; to be read only."""
    spec = spec_of(trials=6, objectives=EXACT, methods=["head", "lora", "fish"])
    return run_search(spec, tmp_path_factory.mktemp("exact") / "study")


def test_records_front_and_ledger_have_the_costs(exact):
    for record in exact.records():
        assert list(record.objectives) == ["accuracy", PARAMS, "trained_params", "adapter_bytes"]
    front = exact.front()
    assert list(front.worst) == ["trained_params", "adapter_bytes"]
    costs = dict.fromkeys(front.worst)
    assert front == front_of(exact.records(), "accuracy", "maximize", 1680, words, costs)
    with optuna_study(f"sqlite:///{exact.database}") as study:
        names, trials = study.metric_names, study.trials
    assert names == ["accuracy", "log10(1 + trained_params)", "log10(1 + adapter_bytes)"]
    assert [len(trial.values) for trial in trials] == [3] * 6
    assert trials[0].values[1:] == [0.0, 0.0], "the head alone"


def test_study_file_says_what_counts(exact):
    told = json.loads(exact.manifest_file.read_text(encoding="utf-8"))
    assert told["fingerprint"]["objectives"] == {
        "metric": "maximize",
        "trained_params": "minimize",
        "adapter_bytes": "minimize",
    }
    text = exact.spec_file.read_text(encoding="utf-8")
    assert "objectives:\n- metric\n- trained_params\n- adapter_bytes\n" in text


def test_other_objectives_are_another_study(exact, spec_of):
    spec = spec_of(trials=7, methods=["head", "lora", "fish"])
    with pytest.raises(ConfigError, match=r"objectives: was .*adapter_bytes"):
        run_search(spec, exact.folder)


def model_of(step=None, latency=None, start=0):
    """A cost model whose memory grows with the parameters alone."""
    return CostModel(start, 1.0, Linear(0.0, 0.0, {}), step, latency)


PREDICTED = ["metric", "trainable_params", "peak_memory_bytes", "latency_ms"]


@pytest.fixture(scope="module")
def predicted(spec_of, tmp_path_factory):
    """A study of predicted costs; to be read only."""
    spec = spec_of(trials=6, objectives=PREDICTED)
    return run_search(spec, tmp_path_factory.mktemp("predicted") / "study")


def test_predictions_follow_from_genotype_and_manifest(predicted):
    costs, shape = read_manifest(predicted.manifest_file).costs, predicted.shape()
    assert costs.step is None, "nobody asked for it"
    for record in predicted.records():
        genotype = genotype_from_dict(record.genotype)
        memory, latency = (record.objectives[name] for name in PREDICTED[2:])
        assert memory == Objective(costs.memory_bytes(genotype, shape), "B", None, "predicted")
        assert latency == Objective(costs.latency_ms(genotype, shape), "ms", None, "predicted")
        assert memory.value > costs.start_bytes
        assert latency.value > 0
    assert list(predicted.front().worst) == PREDICTED[1:]


def test_a_study_that_goes_on_predicts_as_it_did(predicted, spec_of, tmp_path, monkeypatch):
    copytree(predicted.folder, tmp_path / "study")
    monkeypatch.setattr(Workbench, "calibrate", None)
    more = run_search(spec_of(trials=8, objectives=PREDICTED), tmp_path / "study")
    assert more.records()[:6] == predicted.records()
    assert read_manifest(more.manifest_file) == read_manifest(predicted.manifest_file)


def test_nothing_over_the_memory_is_trained(spec_of, tmp_path, monkeypatch):
    """Memory is 28 bytes for each trained parameter: 400 of 1,680 are within it."""
    monkeypatch.setattr(Workbench, "calibrate", lambda *_: model_of())
    spec = spec_of(trials=10)
    spec = spec.model_copy(
        update={"budget": spec.budget.model_copy(update={"max_memory": 28 * 400})}
    )
    study = run_search(spec, tmp_path / "study")
    sizes = [record.trainable_params for record in study.records()]
    assert len(sizes) == 10
    assert max(sizes) <= 400
    assert max(sizes) > 100, "or the limit is not the reason"
    manifest = json.loads(study.manifest_file.read_text(encoding="utf-8"))
    assert manifest["fingerprint"]["max_memory"] == 28 * 400
    assert manifest["cohort"] == 1, "the tensors of two are more than that"


def test_memory_that_not_even_the_head_fits_into_is_refused(spec_of, tmp_path):
    spec = spec_of(trials=2)
    budget = spec.budget.model_copy(update={"max_memory": 1000})
    with pytest.raises(NoFeasibleTrialError, match=r"the head alone takes .*max_memory is 1000 B"):
        run_search(spec.model_copy(update={"budget": budget}), tmp_path / "study")
    assert not (tmp_path / "study" / "manifest.json").exists()


def test_one_genotype_over_the_memory_is_refused(spec_of, tmp_path):
    spec = spec_of()
    budget = spec.budget.model_copy(update={"max_memory": 1000})
    lora = Genotype(2, (Op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, (1, 1)),), 1e-3)
    with pytest.raises(ConfigError, match=r"takes .* of memory, the budget is 1000 B"):
        train_one(spec.model_copy(update={"budget": budget}), lora, tmp_path / "one")


def test_every_form_is_measured_small_and_large(spec_of):
    facts = Workbench(spec_of().work).facts
    spec = spec_of(selection={"seeds": 3}, methods=["head", "lora", "vera"])
    setup = set_up(spec, load_space("unified"), facts)
    head, *probes = setup.probes
    assert not head.ops
    forms = {op.form for probe in probes for op in probe.ops}
    assert Form.VERA in forms, "of a method"
    assert forms > {form for slot in setup.space.spec.slots for form in slot.form}
    assert probes[-1].fork == 1, "in the highest layer alone"
    lowrank = [p for p in probes if {op.form for op in p.ops} == {Form.LOWRANK}]
    small, large = sorted(p.count_params(facts.shape) for p in lowrank if not p.fork)
    assert small < large


def test_coefficients_are_found_again():
    true = Linear(7.0, 2.0, {Form.LOWRANK: (1.5, 0.25), Form.BIAS: (3.0, 0.0)})
    parts = [
        {},
        {Form.LOWRANK: (1, 10)},
        {Form.LOWRANK: (2, 80)},
        {Form.LOWRANK: (1, 0)},
        {Form.BIAS: (4, 0)},
        {Form.LOWRANK: (1, 5), Form.BIAS: (1, 0)},
    ]
    layers = [0, 2, 2, 1, 2, 2]
    found = fit(layers, parts, [true.of(n, one) for n, one in zip(layers, parts, strict=True)])
    assert (found.base, found.layer) == pytest.approx((true.base, true.layer))
    for form, rates in true.forms.items():
        assert found.forms[form] == pytest.approx(rates)


def test_memory_of_mixtures_is_predicted(spec_of):
    """Against what a step of each is seen to keep; fitted on one form at a time."""
    bench = Workbench(spec_of(objectives=["metric", "peak_memory_bytes"]).work)
    setup = set_up(spec_of(), load_space("unified"), bench.facts)
    settings, shape = bench._ground.settings, bench.facts.shape
    costs = bench.calibrate(settings, setup.probes)
    for slot in range(10):
        drawn = propose(setup.space, "random", seed=0, slot=slot, history=[], taken=()).genotype
        kept = kept_bytes(bench._ground, settings, drawn)
        predicted = (costs.memory_bytes(drawn, shape) - costs.start_bytes) / costs.overhead
        assert 0.6 < predicted / kept < 1.6, drawn


def test_latency_is_measured_of_what_is_stored(spec_of, monkeypatch):
    ground = Workbench(spec_of().work)._ground
    measured = []

    def cohort(backbone, genotypes, *args, **more):
        measured.extend(genotypes)
        return Cohort(backbone, genotypes, *args, **more)

    monkeypatch.setattr(alone, "Cohort", cohort)
    by_mlp = Genotype(2, (Op(Form.PREFIX_MLP, Tap.HEAD, Tap.HEAD, (3, 3)),), 1e-3)
    plain = Genotype(2, (Op(Form.PREFIX, Tap.HEAD, Tap.HEAD, (3, 3)),), 1e-3)
    merging = Genotype(2, (Op(Form.ADALORA, Tap.ATTN_IN, Tap.Q, (2, 2)),), 1e-3)
    for one in (by_mlp, plain, merging):
        args = (ground.backbone, one, ground.task, ground.settings, ground.train)
        assert alone.answer_seconds(*args, times=1) > 0
    assert measured == [plain, plain, replace(merging, ops=())]


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [("6GiB", 6 * 2**30), ("1.5 MiB", 3 * 2**19), ("800MB", 8 * 10**8), ("7", 7), (12, 12)],
)
def test_memory_in_words(spec_of, given, n_bytes):
    assert BudgetSpec.model_validate({"max_memory": given}).max_memory == n_bytes


@pytest.mark.parametrize("given", ["six", "6 gigs", "-1GiB", 0, True, 1.5])
def test_wrong_memory_is_refused(given):
    with pytest.raises(ValidationError, match="max_memory"):
        BudgetSpec.model_validate({"max_memory": given})


@pytest.fixture(scope="module")
def selected(spec_of, tmp_path_factory):
    """A study with a final selection, and what was asked for while something else was pending."""
    pending, together = set(), []
    submit = InlineEngine.submit

    class Watcher(Silent):
        def measured(self, record, summary, front):
            pending.discard(record.key)

    def watched(self, job, wanted):
        together.append((job, frozenset(pending)))
        pending.update(key for key in job.keys if key[0] in wanted)
        submit(self, job, wanted)

    spec = spec_of(trials=8, objectives=PREDICTED, selection={"seeds": 2, "share": 0.9})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InlineEngine, "n_workers", 2)
        patch.setattr(InlineEngine, "submit", watched)
        folder = tmp_path_factory.mktemp("selected") / "study"
        return run_search(spec, folder, watcher=Watcher()), together


def test_finalists_are_measured_once(selected):
    study, _ = selected
    records = [record for record in study.records() if record.replicate]
    assert {record.replicate for record in records} == {1, 2}
    for record in records:
        how = {record.objectives[name].how for name in ("peak_memory_bytes", "latency_ms")}
        assert how == {"measured" if record.replicate == 1 else "predicted"}
        assert record.objectives[PARAMS].how is None
    selection = study.selection()
    measured = {record.trial: record.objectives for record in records if record.replicate == 1}
    for contender in selection.contenders:
        assert list(contender.costs) == PREDICTED[2:]
        assert all(measured[contender.trial][n] == o for n, o in contender.costs.items())
    written = json.loads(study.selection_file.read_text(encoding="utf-8"))
    assert selection_from_dict(written) == selection
    schema = json.loads((SCHEMAS / "selection.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(written)


def test_nothing_runs_beside_what_is_measured(selected):
    _, together = selected
    measuring = {key for job, _ in together if job.measures for key in job.keys}
    assert len(measuring) > 2
    assert any(pending for job, pending in together), "or nothing ever runs beside anything"
    for job, pending in together:
        assert not (pending if job.measures else pending & measuring)


def test_table_of_the_selection_tells_measured_costs(selected, capsys):
    study, _ = selected
    show_selection(study.selection(), Advice(None))
    out = capsys.readouterr().out
    assert "peak training memory" in out
    assert "ms measured" in out
