"""Winners of any family and genotype, with random weights instead of a search."""

import json

import torch
from model.test_model_kin import KIN
from model.test_model_kin import tiny as tiny_kin
from record_factory import make_record
from study_factory import ROWS, rows_of, save_tokenizer, write_data, write_jsonl
from tiny import genotype, lora, op, same, tiny_model
from transformers import AutoTokenizer
from wholes import WHOLES, whole

from autopeft.export.adapter import head_tensors
from autopeft.export.native import write_native
from autopeft.export.pick import Choice
from autopeft.export.winner import Winner
from autopeft.front import front_of
from autopeft.model.inject import Injection
from autopeft.records import Metric
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype
from autopeft.space.shipped import load_space
from autopeft.space.taps import Tap
from autopeft.study.folder import Study
from autopeft.study.manifest import MANIFEST_VERSION, Manifest
from autopeft.study.prepare import prepare
from autopeft.study.spec import StudySpec
from autopeft.study.write import spec_yaml

LORA = (lora(Tap.Q, 3), lora(Tap.V, (0, 2, 8), scale=2.0), lora(Tap.ATTN_OUT, 2))
MIXED = (
    *LORA,
    same(Form.PREFIX, Tap.HEAD, (4, 0, 2)),
    op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 5),
)
"""What only a native export can hold."""


def save_family(folder, family):
    """The checkpoint of a tiny model without its head, and a tokenizer of nineteen words."""
    if family in WHOLES:
        model = whole(family)
    else:
        model = tiny_kin(family) if family in KIN else tiny_model(family).base_model
    save_tokenizer(folder)
    if model.config.is_encoder_decoder:  # their heads read the end of a sentence
        model.config.eos_token_id = AutoTokenizer.from_pretrained(folder).sep_token_id
    model.save_pretrained(folder)
    return folder


def forget_pad(folder):
    """Let model and tokenizer of a checkpoint have no token to pad with, as GPT-2 and Llama."""
    edit_json(folder / "config.json", lambda config: config.update(pad_token_id=None))
    edit_json(
        folder / "tokenizer_config.json",
        lambda config: config.update(pad_token=None, eos_token="[MASK]"),
    )


def make_winner(folder, family, *ops, task="classification", seed=5, quantize=None):
    """A trial that nobody has trained.

    Args:
        folder: for model and data; used again if they are there.
        family: of the model.
        ops: of the genotype.
        task: classification of two classes, "three" for three of them, or regression.
        seed: of the trial.
        quantize: how the weights of its layers are kept in few bits.
    """
    model = folder / family
    if not model.exists():
        save_family(model, family)
    data = folder / task
    if not data.exists():
        write_data(data)
        labels = {"regression": [3.0 + i for i in range(5)], "three": ["x", "y", "z"]}.get(task)
        for name in ROWS if labels else ():
            rows = [{**r, "label": labels[i % len(labels)]} for i, r in enumerate(rows_of(24, 0))]
            write_jsonl(data / f"{name}.jsonl", rows)
    spec = StudySpec.model_validate(
        {
            "model": str(model),
            "quantize": quantize,
            "task": task if task == "regression" else "classification",
            "data": {name: str(data / f"{name}.jsonl") for name in ROWS},
            "training": {"max_length": 16, "precision": "fp32", "attention": "eager"},
        }
    )
    return winner_of(spec, folder, *ops, seed=seed)


def winner_of(spec, folder, *ops, seed=5):
    """A trial of a study that nobody has trained."""
    study = Study(folder)
    study.spec_file.write_text(spec_yaml(spec), encoding="utf-8")
    study.space_file.write_text(spec_yaml(load_space(spec.space)), encoding="utf-8")
    ground = prepare(spec, folder)
    stored, weights = random_weights(ground.backbone, genotype(*ops), seed)
    metric = ground.task.metric
    record = make_record(
        trial=0,
        rung=0,
        steps=3,
        seed=seed,
        genotype=stored.to_dict(),
        metrics={metric: Metric(0.75, 0.01)},
    )
    front = front_of([record], metric, "maximize", 10**9, lambda _: "what it is")
    manifest = Manifest(
        version=MANIFEST_VERSION,
        study="winner",
        created="2026-01-31T12:00:00+00:00",
        command=["autopeft", "search"],
        versions={"python": "3.11.7"},
        machine={},
        fingerprint={},
        model={},
        data={"sha256": "0" * 64, "rows": ROWS},
        settings=ground.settings,
        cohort=1,
        max_params=10**9,
        trial_seconds=1.0,
        trial_bytes=1,
        rung_steps=(3,),
    )
    choice = Choice(0, "it is the only one")
    return Winner(study, manifest, front, [record], choice, record, ground, stored, weights)


def write(folder, winner):
    """A native export of a winner, without proof and card."""
    folder.mkdir()
    write_native(folder, winner.description, winner.tensors)
    winner.tokenizer.save_pretrained(folder)
    return folder


def random_weights(backbone, one: Genotype, seed: int):
    """What a genotype is stored as, and parameters for it and the head."""
    generator = torch.Generator().manual_seed(1)
    injection = Injection(backbone.model, [one], [seed], "eager", fresh=backbone.fresh)
    with torch.no_grad():
        for tensor in injection.tensors(0).values():
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
        stored, ops = injection.stored(0)
        ops = {name: tensor.clone() for name, tensor in ops.items()}
    injection.remove()
    head = {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in head_tensors(backbone.model, backbone.fresh).items()
    }
    return stored, ops | head


def edit_json(path, change):
    """Let a function change a JSON file in place."""
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
