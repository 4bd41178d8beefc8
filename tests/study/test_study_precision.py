"""A study in bf16: the backbone computes in it, everything that is trained or kept is fp32."""

import torch
from safetensors.torch import load_file

from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.methods import method
from autopeft.study.prepare import prepare
from autopeft.study.search import run_search
from autopeft.study.single import train_one
from autopeft.study.unseen import open_test
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings


def test_search_single_trial_and_test_split_agree(spec_of, data_folder, tmp_path):
    files = {"train": "train", "validation": "validation", "test": "validation"}
    data = {name: str(data_folder / f"{file}.jsonl") for name, file in files.items()}
    spec = spec_of(data=data, trials=2, training={"precision": "bf16"})
    study = run_search(spec, tmp_path / "study")
    records = study.records()
    assert {record.precision for record in records} == {"bf16"}
    for record in records:
        genotype = genotype_from_dict(record.genotype)
        alone = train_one(spec, genotype, tmp_path / str(record.trial))
        assert alone.metrics == record.metrics
        kept = load_file(tmp_path / str(record.trial) / alone.weights)
        assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    by_trial = {record.trial: record.metrics for record in records}
    for tested in open_test(study).results:
        assert tested.metrics == by_trial[tested.trial]


def test_what_is_trained_is_in_fp32(spec_of, tmp_path):
    ground = prepare(spec_of(), tmp_path).computing_in("bf16")
    backbone, settings = ground.backbone, TrainingSettings(precision="bf16")
    with Cohort(backbone, [lora(ground)], [0], ground.task, settings) as cohort:
        assert {item.parameter.dtype for item in cohort.stacked()} == {torch.float32}
        trained = {id(item.parameter) for item in cohort.stacked()}
        frozen = [p for p in backbone.model.parameters() if id(p) not in trained]
        assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}
        assert cohort.logits(ground.train, [0, 1, 2, 3]).dtype == torch.float32


def lora(ground):
    return method("lora").largest(ground.backbone.shape, 10_000)
