"""A study that is only told: what it would be, from a configuration without weights."""

import json

import pytest
import tiny
from study_factory import write_data
from tiny_language import CONFIGS, MIXTURES, kind_of, language, writing_backbone

from autopeft.engines.ground import Ground
from autopeft.engines.outlined import guess, outlined
from autopeft.engines.work import Work
from autopeft.errors import DataError
from autopeft.model.outline import outline
from autopeft.space.methods import method
from autopeft.tasks.spec import DataSpec, GenerationSpec
from autopeft.tasks.splits import Split
from autopeft.tasks.task import encode_for
from autopeft.training.footprint import trial_bytes
from autopeft.training.settings import TrainingSettings
from autopeft.training.spec import TrainingSpec

BATCH = 8
QUICK = ("bert", "gpt2", "bart", "deberta-v2")
"""One of each kind."""


@pytest.fixture
def folder(tmp_path):
    """A BERT of which there is nothing but the configuration."""
    tiny.tiny_model("bert").config.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize(
    "family",
    [
        family if family in QUICK else pytest.param(family, marks=pytest.mark.slow)
        for family in tiny.EVERY
    ],
)
def test_shape_without_weights_is_that_of_the_model(family, tmp_path):
    tiny.tiny_model(family).config.save_pretrained(tmp_path)
    assert outline(str(tmp_path), tiny.N_OUTPUTS).shape == tiny.tiny_backbone(family).shape


LESS = {"accumulation": 2, "checkpointing": True}


@pytest.mark.parametrize(
    ("family", "how"), [*((f, {}) for f in CONFIGS | MIXTURES), ("bart", LESS), ("llama", LESS)]
)
def test_memory_that_is_guessed_is_about_what_a_step_keeps(family, how, tmp_path):
    backbone = writing_backbone(family)
    backbone.model.config.save_pretrained(tmp_path)
    rows = Split("train", ((" ".join(["w5"] * 15),),) * BATCH, (" ".join(["w5"] * 11),) * BATCH)
    encoded = encode_for(language(family), rows, backbone.tokenizer, 16)
    work = Work(
        model=str(tmp_path),
        task=kind_of(family),
        metric="exact_match",
        data=DataSpec(hub="owner/name"),
        training=TrainingSpec(batch_size=BATCH, max_length=16, **how),
        seed=0,
        generation=GenerationSpec(max_target_length=12),
    )
    costs = guess(outline(str(tmp_path), 1, kind_of(family)), work)
    settings = TrainingSettings(epochs=1, batch_size=BATCH, **how)
    for name in ("lora", "scaled_parallel", "mam"):
        genotype = method(name).genotype(backbone.shape)
        told = (costs.memory_bytes(genotype, backbone.shape) - costs.start_bytes) / costs.overhead
        kept = trial_bytes(
            backbone, [genotype], task=language(family), settings=settings, rows=encoded
        )
        assert 0.7 < told / kept < 1.4


def test_study_is_told_and_nothing_is_written(run, folder, tmp_path):
    data = write_data(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    flags = ["--model", folder, "--data", data, "--trials", 40, "--max-params", "20%"]
    flags += ["--max-length", 16]
    code, out, err = run("search", "--dry-run", *flags)
    assert code == 0, err
    assert "(bert), 26,896 parameters" in out
    assert "40 of" in out
    assert "\nlabels      2 classes: 'bad', 'good'\n" in out
    assert "Nothing was written" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_counts_are_those_of_the_methods(run, folder, tmp_path):
    data = write_data(tmp_path / "data")
    flags = ["--model", folder, "--data", data, "--max-params", 900, "--max-length", 16]
    code, out, _ = run("search", "--dry-run", *flags, "--format", "json")
    found = json.loads(out)
    shape = tiny.tiny_backbone("bert").shape
    assert code == 0
    assert found["max_params"] == 900
    assert found["steps"] == 3 * -(-found["n_rows"]["train"] // 32)
    assert {sized["name"] for sized in found["methods"]} >= {"head", "lora", "mam", "ia3"}
    for sized in found["methods"]:
        genotype = method(sized["name"]).genotype(shape, sized["level"])
        assert sized["params"] == genotype.count_params(shape)
        assert sized["fits"] == (sized["params"] <= 900)
    assert {sized["fits"] for sized in found["methods"]} == {True, False}


@pytest.mark.parametrize("task", ["classification", "causal"])
def test_room_for_prompts_is_what_a_worker_finds(task, tmp_path):
    family = {"classification": "bert", "causal": "gpt2"}[task]
    backbone = writing_backbone(family) if task == "causal" else tiny.tiny_backbone(family)
    backbone.model.config.save_pretrained(tmp_path)
    work = Work(
        model=str(tmp_path),
        task=task,
        metric="exact_match",
        data=DataSpec(hub="owner/name"),
        training=TrainingSpec(max_length=16),
        seed=0,
        generation=GenerationSpec(max_target_length=5, max_new_tokens=8),
    )
    n_positions = backbone.model.config.max_position_embeddings
    room = n_positions - 16 - (8 if task == "causal" else 0)
    facts = outlined(work).facts
    assert (facts.room, facts.answered) == (room, task == "causal")
    assert (facts.shape.room, facts.shape.answered) == (room, task == "causal")
    ground = Ground(work, None, backbone, None, None, None, None, ())
    assert ground.room == room


def test_prompts_that_there_is_no_room_for_are_told(run, folder, tmp_path):
    study = {
        "model": str(folder),
        "data": {"hub": "glue/sst2"},
        "space": "prompts",
        "methods": ["lora", "prompt_tuning"],
        "budget": {"max_params": "100%"},
        "training": {"max_length": 30},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    flags = ["--dry-run", "--out", "x", "--format", "json"]
    code, out, err = run("search", tmp_path / "study.yaml", *flags)
    assert code == 0, err
    found = json.loads(out)
    assert found["shape"]["room"] == tiny.N_POSITIONS - 30
    published = next(one for one in found["methods"] if one["name"] == "prompt_tuning")
    assert (published["level"], published["params"]) == (0, 8 * tiny.D_MODEL)
    assert sum("leave 10 of the model's positions" in note for note in found["notes"]) == 2


def test_hub_is_not_asked_for_rows(run, folder):
    flags = ["--model", folder, "--data", "glue/sst2", "--max-params", "20%", "--max-length", 16]
    code, out, _ = run("search", "--dry-run", *flags, "--out", "x", "--format", "json")
    assert code == 0
    assert json.loads(out)["steps"] is None


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--max-params", "1"], 4, "fits 1 parameters"),
        (["--max-params", "20%", "--max-memory", "0.2MB"], 4, "training the head alone takes"),
        (["--max-length", 41, "--max-params", "20%"], 2, "at most 40"),
        (["--model", "nowhere"], 3, "model `nowhere` cannot be outlined"),
    ],
)
def test_what_cannot_be_is_refused_as_by_a_search(run, folder, flags, code, message):
    given = ["--model", folder, "--data", "glue/sst2", "--out", "x", "--max-length", 16]
    found, _, err = run("search", "--dry-run", *given, *flags)
    assert message in err
    assert found == code


def test_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be outlined"):
        outline(str(tmp_path), 2)
