"""The study file: what is understood, and what is refused with place and reason."""

import re
from pathlib import Path

import pytest

from autopeft.cli.study_flags import merge
from autopeft.errors import ConfigError
from autopeft.space.methods import DEFAULT_METHODS
from autopeft.study.spec import (
    BudgetSpec,
    StudySpec,
    limit,
    load_study_spec,
)
from autopeft.study.write import spec_yaml
from autopeft.training.spec import TrainingSpec

LEAST = """\
model: owner/model
data: {train: train.jsonl}
"""


@pytest.fixture
def study(tmp_path):
    """The spec of a study file with these lines after the least that is needed."""

    def read(text="", least=LEAST):
        path = tmp_path / "study.yaml"
        path.write_text(least + text, encoding="utf-8")
        return load_study_spec(path)

    return read


@pytest.fixture
def refusal(study):
    """The message about a study file with these lines, from line 3 on."""

    def refuse(text, least=LEAST):
        with pytest.raises(ConfigError) as caught:
            study(text, least)
        return re.sub(r"\S*/study\.yaml", "study.yaml", str(caught.value))

    return refuse


def test_defaults(study):
    spec = study()
    assert (spec.task, spec.chosen_metric, spec.space) == ("classification", "accuracy", "unified")
    assert (spec.sampler, spec.seed, spec.methods) == ("tpe", 0, DEFAULT_METHODS)
    assert (spec.budget.max_params, spec.budget.trials, spec.budget.time) == ("1%", 40, None)
    assert (spec.training.epochs, spec.training.cohort) == (3, "auto")


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("1%", 2000),
        ("0.5%", 1000),
        ("0.1234567890123%", 246),
        ("100%", 200_000),
        ("1 %", 2000),
        ("200000", 200_000),
        ('"200000"', 200_000),
        ("'200,000'", 200_000),
        ("200_000", 200_000),
        ("1e6", 1_000_000),
        ("'1e6'", 1_000_000),
        ("1.5e3", 1500),
        ("0", 0),
    ],
)
def test_parameter_budgets(study, text, params):
    spec = study(
        f"budget: {{max_params: {text}}}\n" if "'" in text else f"budget:\n  max_params: {text}\n"
    )
    assert limit(spec.budget.max_params, 200_000) == params


def test_a_limit_on_what_is_trained_is_optional_and_of_the_same_kind(study, refusal):
    assert study("").budget.max_trained is None
    assert limit(study("budget: {max_trained: 2%}\n").budget.max_trained, 1000) == 20
    assert study("budget: {max_trained: 500}\n").budget.max_trained == 500
    message = refusal("budget:\n  max_trained: 0%\n")
    assert message.startswith("study.yaml:4: budget.max_trained: ")


def test_percentage_is_of_whole_parameters():
    for hundredths in range(1, 10_000):
        percent = BudgetSpec(max_params=f"{hundredths / 100:g}%").max_params
        assert limit(percent, 100_000) == 10 * hundredths


@pytest.mark.parametrize("percent", ["0.9999999%", "33.3333333333333%", "1e-3%"])
def test_percentage_keeps_its_digits(percent):
    """A hard limit that is rounded up is none."""
    budget = BudgetSpec(max_params=percent)
    assert float(str(budget.max_params)[:-1]) == float(percent[:-1])
    assert BudgetSpec(max_params=budget.max_params) == budget


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("200k", "has to be a number of parameters or a percentage like 1%"),
        ("many", "has to be a number of parameters or a percentage like 1%"),
        ("0%", "a percentage has to be above 0% and at most 100%"),
        ("101%", "a percentage has to be above 0% and at most 100%"),
        ("-1%", "a percentage has to be above 0% and at most 100%"),
        ("nan%", "a percentage has to be above 0% and at most 100%"),
        ("-5", "has to be a whole number of parameters or a percentage like 1%"),
        ("0.5", "has to be a whole number of parameters or a percentage like 1%"),
        ("-5.0", "has to be a whole number of parameters or a percentage like 1%"),
        ("true", "has to be a whole number of parameters or a percentage like 1%"),
        ("[1]", "has to be a whole number of parameters or a percentage like 1%"),
    ],
)
def test_parameter_budgets_that_are_refused(refusal, text, told):
    message = refusal(f"budget:\n  max_params: {text}\n")
    assert message.startswith("study.yaml:4: budget.max_params: ")
    assert message.endswith(told)
    if text != "[1]":
        assert text.replace("true", "True") in message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1d", 86400),
        ("90", 90),
        ("0.5", 0.5),
        ('"90"', 90),
    ],
)
def test_times(study, text, seconds):
    assert study(f"budget: {{time: {text}}}\n").budget.time == seconds


@pytest.mark.parametrize("text", ["2 hours", "h", "1h30", "-5s", "2H", "''"])
def test_times_that_are_refused(refusal, text):
    message = refusal(f"budget:\n  time: {text}\n")
    assert message.startswith("study.yaml:4: budget.time: ")
    assert "has to be like 90s, 30m, 2h or 1h30m, or a number of seconds" in message


@pytest.mark.parametrize("text", ["0s", "0", "-1", "true"])
def test_times_that_are_none(refusal, text):
    assert refusal(f"budget:\n  time: {text}\n").startswith("study.yaml:4: budget.time")


@pytest.mark.parametrize(
    ("text", "place", "allowed"),
    [
        (
            "sede: 1\n",
            "study.yaml:3: sede: unknown key; allowed: budget, cache, data, ",
            "training",
        ),
        (
            "budget:\n  trails: 4\n",
            "study.yaml:4: budget.trails: unknown key; ",
            "max_params, max_t",
        ),
        ("training: {epoch: 1}\n", "study.yaml:3: training.epoch: unknown key; ", "batch_size, "),
        ("metric: rouge\n", "study.yaml:", "accuracy, f1, mcc"),
        ("task: regression\nmetric: f1\n", "study.yaml:", "pearson, spearman"),
        ("positive: good\n", "study.yaml:", "`positive` is the class that `metric: f1`"),
        ("metric: f1\npositive: 0.5\n", "study.yaml:4: positive", "has to be a text"),
        ("task: summarisation\n", "study.yaml:3: task", "'classification', 'multi_label_cl"),
        ("methods: [head, loraa]\n", "study.yaml:3: methods.1", "did you mean `lora`?"),
        ("sampler: cmaes\n", "study.yaml:3: sampler", "'tpe', 'nsga2', 'gp' or 'random'"),
        ("training:\n  precision: fp16\n", "study.yaml:4: training.pre", "'auto', 'fp32' or 'bf"),
        ("budget: {trials: 0}\n", "study.yaml:3: budget.trials", "greater than or equal to 1"),
        ("budget: {trials: true}\n", "study.yaml:3: budget.trials", "has to be a"),
        ("budget: {trials: many}\n", "study.yaml:3: budget.trials", "has to be a whole number"),
        ("budget: {trials: 2.5}\n", "study.yaml:3: budget.trials", "has to be a"),
        ("budget: 3\n", "study.yaml:3: budget", "has to be a mapping"),
        ("seed: -1\n", "study.yaml:3: seed", "greater than or equal to 0"),
        ("training: {cohort: 0}\n", "study.yaml:3: training.cohort", "greater than or equal to 1"),
        (
            "training: {accumulation: 0}\n",
            "study.yaml:3: training.acc",
            "greater than or equal to 1",
        ),
        ("training: {accumulation: 33}\n", "study.yaml:3: training.accumulation: ", "at most 32"),
        (
            "training: {checkpointing: 1}\n",
            "study.yaml:3: training.check",
            "has to be true or false",
        ),
        ("seed: 1\nseed: 2\n", "study.yaml:4: key `seed`", "given twice"),
        ("seed: &a 1\n", "study.yaml:3: aliases and anchors", "not allowed"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_what_is_allowed(refusal, text, place, allowed):
    message = refusal(text)
    assert message.startswith(place)
    assert allowed in message
    assert len(message.splitlines()) == 1


def test_a_study_of_before_is_still_the_same_study():
    """Its fingerprint lacks the keys that came later."""
    before = TrainingSpec().told
    assert not {"accumulation", "checkpointing"} & before.keys()
    assert TrainingSpec(accumulation=2).told == before | {"accumulation": 2}
    assert TrainingSpec(checkpointing=True).told == before | {"checkpointing": True}


def test_all_problems_are_told_at_once(refusal):
    message = refusal("seed: x\nsampler: y\nbudget: {trials: 0, time: z}\n")
    assert len(message.splitlines()) == 4


@pytest.mark.parametrize("key", ["model", "data"])
def test_model_and_data_are_needed(refusal, key):
    least = "".join(line + "\n" for line in LEAST.splitlines() if not line.startswith(key))
    assert refusal("", least) == f"study.yaml:1: {key}: is missing"


def test_empty_model_is_refused(refusal):
    assert "study.yaml:1: model" in refusal("", LEAST.replace("owner/model", "''"))


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_study_spec(tmp_path / "none.yaml")


def test_resolved_study_is_the_same_in_any_folder(study, tmp_path):
    (tmp_path / "model").mkdir()
    least = LEAST.replace("owner/model", "model")
    here = study("metric: f1\n", least).resolved(tmp_path)
    assert here.model == str(tmp_path / "model")
    assert here.data.train == tmp_path / "train.jsonl"
    assert here.data.validation is None
    assert here.resolved(Path("/elsewhere")) == here
    assert study().resolved(tmp_path).model == "owner/model", "not a folder: a name on the Hub"
    assert study().resolved(tmp_path).metric == "accuracy"


def test_written_study_reads_back_as_the_same(study, tmp_path):
    text = """\
task: regression
metric: spearman
methods: []
budget: {max_params: 0.1234567%, trials: 7, time: 1h30m}
training: {clip: 1e-2, warmup: 0, precision: bf16}
sampler: nsga2
seed: 9223372036854775807
"""
    spec = study(text).resolved(tmp_path)
    path = tmp_path / "again.yaml"
    path.write_text(spec_yaml(spec), encoding="utf-8")
    assert load_study_spec(path) == spec
    assert isinstance(spec, StudySpec)


def test_cluster(study):
    text = "engine: {kind: ray, address: 'ray://[::1]:10001', workers: 3, gpus_per_worker: 0.5}\n"
    engine = study(text).engine
    assert (engine.kind, engine.workers, engine.gpus_per_worker) == ("ray", 3, 0.5)
    assert study("engine: {kind: ray}\n").engine.address == "auto"


def test_local_engine_takes_nothing_of_the_cluster_in_a_file(study, tmp_path):
    file, flags = tmp_path / "study.yaml", {("engine", "kind"): "local"}
    cluster = "address: head:6379, cpus_per_worker: 4, gpus_per_worker: 0.5"
    assert study(f"engine: {{kind: ray, workers: 3, {cluster}}}\n") == merge(file, {}, None)
    engine = merge(file, flags, None).engine
    assert (engine.kind, engine.address, engine.workers) == ("local", "auto", 3)
    with pytest.raises(ConfigError, match="`address` is of a cluster"):
        merge(file, {**flags, ("engine", "address"): "head:6379"}, None)


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("{kind: ray, workers: 0}", "workers: 0"),
        ("{address: local}", "`address` is of a cluster"),
        ("{gpus_per_worker: 0.5}", "`gpus_per_worker` is of a cluster"),
        ("{kind: ray, gpus_per_worker: 2}", "less than or equal to 1"),
        ("{kind: ray, address: 'http://host:1'}", "address"),
        ("{kind: spark}", "'local' or 'ray'"),
    ],
)
def test_bad_cluster(refusal, engine, told):
    assert told in refusal(f"engine: {engine}\n")


@pytest.mark.parametrize(("given", "name"), [("1", "1"), ("true", "true"), ("fraud", "fraud")])
def test_the_class_of_f1_is_read_as_classes_are(study, given, name):
    assert study(f"metric: f1\npositive: {given}\n").positive == name
