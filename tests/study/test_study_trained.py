"""Studies of methods that train other parameters than they store, from the search to the test."""

import json
import re

import pytest
from safetensors.torch import load_file
from study_factory import D_MODEL, N_LAYERS

from autopeft.errors import ConfigError
from autopeft.front_file import front_from_dict
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.taps import Tap
from autopeft.study.search import run_search
from autopeft.study.single import train_one
from autopeft.study.unseen import open_test

METHODS = ["head", "adalora", "lt_sft", "lora"]
HEAD, ADALORA, LT_SFT, LORA = range(4)


@pytest.fixture(scope="module")
def study(spec_of, tmp_path_factory):
    spec = spec_of(trials=4, methods=METHODS, max_params="40%", training={"epochs": 3})
    return run_search(spec, tmp_path_factory.mktemp("trained") / "study")


def test_a_trial_that_is_dense_while_training_has_a_cohort_of_its_own(study):
    assert [record.cohort for record in study.records()] == [
        (HEAD, ADALORA, LORA),
        (HEAD, ADALORA, LORA),
        (LT_SFT,),
        (HEAD, ADALORA, LORA),
    ]
    manifest = json.loads(study.manifest_file.read_text())
    assert manifest["cohort"] == 4


def test_a_study_of_methods_without_company_decides_on_the_cohorts_of_the_others(spec_of, tmp_path):
    """What the space proposes shares cohorts; if nothing of it does, one trial is measured."""
    methods = ["head", "prompt_tuning", "p_tuning"]
    for space, cohort in {"lora": 4, str(_only_prompts(tmp_path)): 1}.items():
        training = {"cohort": "auto", "epochs": 1}
        most = 8 * D_MODEL  # longer prompts leave the text no positions
        spec = spec_of(trials=3, methods=methods, max_params=most, space=space, training=training)
        study = run_search(spec, tmp_path / f"study{cohort}")
        assert json.loads(study.manifest_file.read_text())["cohort"] == cohort
        assert [record.cohort for record in study.records()] == [(0,), (1,), (2,)]
        assert {record.state for record in study.records()} == {"complete"}


def _only_prompts(folder):
    path = folder / "only.yaml"
    path.write_text(
        "name: only\ndescription: prompts\ndraw: budget\nslots:\n"
        "  - {name: prompt, form: prompt, read: same, write: embed, size: [1, 2], layout: same}\n"
        "training: {learning_rate: 1e-2}\n"
    )
    return path


def test_a_dense_trial_that_will_not_fit_into_memory_is_not_begun(spec_of, tmp_path, monkeypatch):
    monkeypatch.setattr("autopeft.engines.workbench.available_bytes", lambda _: 1000)
    spec = spec_of(trials=2, methods=["lora", "lt_sft"], max_params="40%")
    lora, dense = run_search(spec, tmp_path / "study").records()
    assert lora.state == "complete"
    assert dense.failure.kind == "out_of_memory"
    assert dense.failure.message.endswith("GiB are free")
    assert dense.trained_params > dense.trainable_params


def test_records_say_what_was_trained_and_what_is_stored(study, spec_of):
    records = study.records()
    assert [record.version for record in records] == [1, 2, 2, 1]
    for record in records:
        stored = genotype_from_dict(record.stored_genotype)
        if record.version == 1:
            assert record.stored_genotype == record.genotype
        else:
            assert {op.form for op in stored.ops} <= {Form.LOWRANK, Form.SPARSE}
            assert record.trained_params > record.trainable_params
    lt_sft = records[LT_SFT]
    assert lt_sft.trained_params == N_LAYERS * (4 * 16 * 16 + 2 * 16 * 32)
    assert lt_sft.steps == 2 * records[LORA].steps


def test_weights_are_those_of_the_stored_genotype(study, monkeypatch):
    for record in study.records():
        if record.weights is None or not (study.folder / record.weights).is_file():
            continue
        tensors = load_file(study.folder / record.weights)
        ops = {name: tensor for name, tensor in tensors.items() if name.startswith("layers.")}
        counted = sum(t.numel() for t in ops.values() if t.is_floating_point())
        assert counted == record.trainable_params
        if record.trial != HEAD:
            data = study.folder / "front.json"
            chosen = json.loads(data.read_text()) | {"recommended": record.trial}
            monkeypatch.setattr(type(study), "front", lambda _, c=chosen: front_from_dict(c))
            opening = open_test(study)
            assert opening.results[0].trial == record.trial
            assert 0 <= opening.results[0].metrics["accuracy"].value <= 1


def test_a_limit_on_what_is_trained_leaves_methods_out(spec_of, tmp_path):
    spec = spec_of(trials=2, methods=["head", "lt_sft", "lora"])
    budget = spec.budget.model_copy(update={"max_trained": 1500})
    study = run_search(spec.model_copy(update={"budget": budget}), tmp_path / "study")
    forms = {op["form"] for record in study.records() for op in record.genotype["ops"]}
    assert forms == {"lowrank"}
    for record in study.records():
        assert record.trainable_params <= 1500


def test_a_genotype_over_the_limit_on_what_is_trained_is_refused(spec_of, tmp_path):
    spec = spec_of()
    budget = spec.budget.model_copy(update={"max_trained": 255})
    op = Op(Form.LT_SFT, Tap.ATTN_IN, Tap.Q, (5,) + (0,) * (N_LAYERS - 1))
    message = "the genotype has 5 parameters, 256 while training, the budget is 1,680, 255 of them"
    with pytest.raises(ConfigError, match=re.escape(message)):
        train_one(
            spec.model_copy(update={"budget": budget}),
            Genotype(N_LAYERS, (op,), 1e-3),
            tmp_path / "out",
        )
