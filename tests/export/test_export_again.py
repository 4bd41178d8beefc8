"""Exports without weights: what is needed to train a genotype again."""

import json
import runpy
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file
from study_factory import N_LAYERS
from tiny import genotype as genotype_of
from tiny import lora, op, same
from winners import make_winner, save_family

import autopeft
from autopeft.errors import ConfigError
from autopeft.export.refusal import refuse
from autopeft.export.run import TARGETS, export
from autopeft.export.to_adapters import adapters_config
from autopeft.model.head import OPS_ATTRIBUTE
from autopeft.space.forms import Activation, Form
from autopeft.space.genotype_file import load_genotype
from autopeft.space.shape import encoder_shape
from autopeft.space.taps import Tap
from autopeft.study.spec import load_study_spec

SHAPE = encoder_shape(3, 32, 64, 1000)
FFN = (Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT)


def test_yaml_trains_the_same_genotype_again(run, done, tmp_path):
    best = done.front().points[-1]
    code, out, err = run("export", done.folder, "--pick", "best", "--to", "yaml", "-o", "out")
    assert code == 0, err
    assert out == f"trial {best.trial} -> out (yaml)\n"
    assert "note: to train it again: autopeft train genotype.yaml" in err
    again = load_genotype(tmp_path / "out" / "genotype.yaml")
    record = next(r for r in done.records() if r.trial == best.trial)
    assert again.to_dict() == record.genotype
    assert load_study_spec(tmp_path / "out" / "study.yaml") == load_study_spec(done.spec_file)
    flags = ("out/genotype.yaml", "--study", "out/study.yaml", "--format", "json")
    code, out, err = run("train", *flags)
    assert code == 0, err
    trained = json.loads(out)
    assert (trained["seed"], trained["hash"]) == (record.seed, record.hash)
    assert trained["metrics"][done.front().metric]["value"] == best.quality


def test_what_was_trained_again_is_exported(run, done, tmp_path):
    """Of a trial whose weights the search has not kept."""
    lost = next(r for r in done.records() if not (done.folder / r.weights).is_file())
    _, out, _ = run("front", done.folder, "--genotype", lost.trial)
    (tmp_path / "genotype.yaml").write_text(out, encoding="utf-8")
    code, _, err = run("train", "genotype.yaml", "--study", done.spec_file)
    assert code == 0, err
    score = lost.metrics[done.front().metric].value
    code, out, err = run("export", "trained", "-o", "adapter", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["proof"]["rows"] == 24
    assert f"| 0 (this) | {score:.4f} ± " in (tmp_path / "adapter" / "README.md").read_text()
    code, _, err = run("export", "trained", "-o", "again", "--to", "yaml")
    assert code == 0, err
    assert load_genotype(tmp_path / "again" / "genotype.yaml").hash == lost.hash
    (tmp_path / "trained" / "manifest.json").unlink()
    for command in (("export", "trained", "-o", "other"), ("test", "trained")):
        code, _, err = run(*command)
        assert (code, "trained holds no study: it has no manifest.json" in err) == (3, True)


def test_the_script_has_the_ops_in_the_model(done, tmp_path):
    export(done, how="best", target="yaml", out=tmp_path / "out", command="")
    found = runpy.run_path(str(tmp_path / "out" / "finetune.py"))
    parameters = [p for group in found["optimizer"].param_groups for p in group["params"]]
    head = 2 * 16 + 2
    # Parameters are padded to a multiple of eight.
    assert sum(p.numel() for p in parameters) >= done.front().points[-1].trainable_params + head
    assert all(p.requires_grad for p in parameters)
    assert found["optimizer"].param_groups[0]["lr"] == found["genotype"].learning_rate
    assert found["genotype"].n_layers == N_LAYERS
    found["ops"].save(tmp_path / "adapter", found["tokenizer"])
    model, _ = autopeft.load(tmp_path / "adapter")
    assert model.config.num_labels == found["model"].config.num_labels


@pytest.mark.parametrize("pooler", ["in the checkpoint", "fresh"])
def test_the_script_trains_what_the_search_trains(tmp_path, pooler):
    save_family(tmp_path / "bert", "bert")
    if pooler == "fresh":  # as of a masked language model
        path = tmp_path / "bert" / "model.safetensors"
        kept = {name: t for name, t in load_file(path).items() if not name.startswith("pooler.")}
        save_file(kept, path, {"format": "pt"})
    winner = make_winner(tmp_path, "bert", lora(Tap.Q, 2))
    (tmp_path / "out").mkdir()
    TARGETS["yaml"](winner, tmp_path / "out")
    model = runpy.run_path(str(tmp_path / "out" / "finetune.py"))["model"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    head = {name for name in trained if not name.startswith(OPS_ATTRIBUTE)}
    assert head == set(winner.head)
    assert len(head) == (4 if pooler == "fresh" else 2)


@pytest.mark.parametrize("form", [Form.FISH, Form.ADALORA, Form.SPARSE_BOTTLENECK])
def test_no_script_is_written_that_would_train_something_else(tmp_path, form):
    trained = genotype_of(op(form, Tap.ATTN_IN, Tap.Q, 4), lora(Tap.V, 2))
    winner = make_winner(tmp_path, "bert", *trained.ops)
    record = replace(winner.record, genotype=trained.to_dict())
    (tmp_path / "out").mkdir()
    first, second = TARGETS["yaml"](replace(winner, record=record), tmp_path / "out")
    assert first.startswith("no finetune.py: a loop of one's own lets no op choose")
    assert first.endswith(f": {form} attn_in->q")
    assert second.startswith("to train it again: autopeft train genotype.yaml")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("genotype.yaml", winner.study.spec_file.name, winner.study.space_file.name)
    }
    assert load_genotype(tmp_path / "out" / "genotype.yaml") == trained


def config(*ops):
    return adapters_config(genotype_of(*ops), SHAPE)


def test_lora_and_its_matrices():
    found = config(*(lora(tap, (4, 0, 4), scale=2.0) for tap in (Tap.Q, Tap.V, Tap.FFN_OUT)))
    assert found == {
        "architecture": "lora",
        "selfattn_lora": True,
        "intermediate_lora": False,
        "output_lora": True,
        "attn_matrices": ["q", "v"],
        "r": 4,
        "alpha": 8.0,
        "leave_out": [1],
        "version": "adapters.1.3.0",
    }


def test_a_rank_comes_back_from_its_reduction_factor():
    sizes = (5, 0, 31)
    found = config(op(*FFN, sizes, scale=4.0, activation=Activation.SILU))
    assert (found["is_parallel"], found["scaling"], found["non_linearity"]) == (True, 4.0, "swish")
    assert {int(k): int(32 // f) for k, f in found["reduction_factor"].items()} == {0: 5, 2: 31}
    assert found["leave_out"] == [1]
    (one,) = {int(32 // config(op(*FFN, size))["reduction_factor"]) for size in (7,)}
    assert one == 7


def test_mix_and_match_is_a_union():
    found = config(same(Form.PREFIX, Tap.HEAD, 9), op(*FFN, 4))
    assert found["architecture"] == "union"
    assert {c["architecture"] for c in found["configs"]} == {"prefix_tuning", None}
    pfeiffer = config(op(Form.BOTTLENECK, Tap.FFN_NORM, Tap.FFN_OUT, 4))
    assert pfeiffer["original_ln_before"] is True


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        ((same(Form.BIAS, Tap.Q),), "no configuration of adapters is a bias"),
        ((lora(Tap.Q, (1, 2, 3)),), "one rank in all layers (native, peft, merged, yaml can)"),
        ((lora(Tap.ATTN_OUT, 2),), "adapters has LoRA at q, k, v, ffn_up, ffn_out"),
        ((lora(Tap.Q, 2, scale="learned"),), "learns no scale"),
        ((lora(Tap.Q, 2), lora(Tap.V, 3)), "lowrank q, v: adapters has one rank and scale"),
        ((same(Form.PREFIX, Tap.HEAD, (2, 3, 3)),), "one prefix length"),
        ((op(*FFN, 2), op(*FFN, 2, scale=4.0)), "bottleneck ffn_out: adapters has one of them"),
        ((op(Form.BOTTLENECK, Tap.ATTN_IN, Tap.FFN_OUT, 2),), "behind attention and FFN"),
    ],
)
def test_what_adapters_cannot_hold_is_refused_by_name(ops, said):
    with pytest.raises(ConfigError) as refusal:
        refuse("adapters", genotype_of(*ops), SHAPE)
    assert said in str(refusal.value)
