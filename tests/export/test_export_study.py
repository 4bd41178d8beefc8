"""From a study to a folder: chosen, written, proven in a fresh process, or not there at all."""

import importlib
import json
import shutil
import sys

import pytest
import torch
from study_factory import tree
from tiny import lora, same
from transformers import AutoModelForSequenceClassification
from winners import edit_json, make_winner

from autopeft.cli.listings import merging
from autopeft.dashboard.info import study_info
from autopeft.errors import ConfigError, DataError
from autopeft.export import reload
from autopeft.export import run as run_module
from autopeft.export.adapter import Outputs
from autopeft.export.native import CONFIG
from autopeft.export.proof import ask, compare, question_of
from autopeft.export.run import TARGETS, export
from autopeft.export.winner import winner_of
from autopeft.selection import Selection
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.study.folder import Study


def test_what_was_trained_in_part_is_told_by_front_page_and_export(run, done, tmp_path):
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    steps = study.whole_steps()
    # Nothing may have been learnt, and then the page recommends nothing.
    edit_json(study.manifest_file, lambda manifest: manifest["data"].pop("constant"))
    for rungs, is_told in ([steps], False), ([steps, 3 * steps], True):
        edit_json(
            study.manifest_file, lambda manifest, rungs=rungs: manifest.update(rung_steps=rungs)
        )
        told = f"for {steps} of {3 * steps} steps; a final selection trains to the end"
        _, _, err = run("front", study.folder)
        assert (told in " ".join(err.split())) == is_told
        assert any(told in point for point in study_info(study).verdict.points) == is_told
    code, _, err = run("export", study.folder, "--to", "native", "-o", "out")
    assert code == 0
    assert f"note: trial {done.front().recommended} was trained {told}" in err
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"| trained for | {steps} of {3 * steps} optimizer steps |" in card
    assert told in card


@pytest.mark.slow
def test_a_merged_export_is_proven_and_described(run, done, tmp_path):
    """The only one of these tests that runs the fresh process of `merged`."""
    front = done.front()
    best = [p for p in front.points if not merging(front, done.shape())[p.trial]][-1]
    flags = ("--pick", best.trial, "--to", "merged", "-o", "out")
    code, out, err = run("export", done.folder, *flags)
    assert code == 0, err
    assert out == f"trial {best.trial} -> out (merged)\n"
    assert "chosen: asked for by its number; it is on the front" in err
    assert "loaded again in a fresh process: on 24 validation rows its outputs differ from" in err
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for told in (
        "autopeft export",
        f"| {best.trial} (this) | {best.quality:.4f} ± {best.stderr:.4f} |",
        f"{best.trainable_params:,} in the ops",
        "95 % interval",
        "5 trials",
        "library_name: transformers",
        "AutoModelForSequenceClassification.from_pretrained('out')",
    ):
        assert told in card
    model = AutoModelForSequenceClassification.from_pretrained("out")
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_native_export_is_proven_and_loads_by_command(run, done, tmp_path):
    code, out, err = run("export", done.folder, "--to", "native", "-o", "out", "--format", "json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["target"], told["choice"]["trial"]) == ("native", done.front().recommended)
    assert told["proof"]["rows"] == 24
    code, out, err = run("load", "out", "--text", "a great film", "--text", "an awful plot")
    assert code == 0, err
    assert "a great film" in out
    assert "bad, good" in out
    code, out, _ = run("load", "out", "--format", "json", "--text", "a great film")
    (said,) = json.loads(out)["texts"]
    assert said["text"] == "a great film"
    assert 0.5 <= said["value"] <= 1
    (tmp_path / "out" / CONFIG).write_text("{}", encoding="utf-8")
    code, _, err = run("load", "out")
    assert code == 3
    assert "genotype is missing" in err


def test_the_study_computes_what_is_compared(done):
    """The score of the exported weights is the one in the record."""
    winner = winner_of(done, "best")
    labels = winner.ground.validation.labels
    accuracy = (winner.logits.argmax(-1) == labels).float().mean().item()
    assert accuracy == pytest.approx(winner.record.metrics["accuracy"].value)


def spoil(target):
    """Let a target write weights that are a little wrong."""

    def write(winner, folder):
        tensors = winner.tensors
        name = next(name for name in tensors if name.endswith(".bias") or "lowrank" in name)
        tensors[name] = tensors[name] + 1e-2
        return TARGETS[target](winner, folder)

    return write


@pytest.mark.slow
def test_what_is_not_equal_does_not_stay(done, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "winner_of", with_known_logits)
    monkeypatch.setattr(run_module, "TARGETS", {"native": spoil("native")})
    with pytest.raises(DataError, match="not what was trained: an output differs by"):
        export(done, how="best", target="native", out=tmp_path / "out", command="")
    assert tree(tmp_path) == {}


def with_known_logits(study, how, **_):
    """A winner whose outputs were computed before anything is spoilt."""
    winner = winner_of(study, how)
    assert winner.logits.isfinite().all()
    return winner


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([[0.0, 1.0], [float("nan"), 0.0]], "not what was trained"),
        ([[0.0, 1.0], [2.0, 0.0 + 5e-5]], "differs by 5e-05, allowed are 2e-05"),
        ([[0.0, 1.0]], r"puts out \[1, 2\], not \[2, 2\]"),
    ],
)
def test_differences_beyond_rounding_are_refused(found, said):
    expected = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    with pytest.raises(DataError, match=said):
        compare(torch.tensor(found), expected, Outputs("classification", ("a", "b")), 1e-5)


def test_a_prediction_changes_only_between_classes_that_are_as_close():
    expected = torch.tensor([[1e-6, 0.0], [1.0, 0.0]])
    found = torch.tensor([[0.0, 1e-6], [1.0, 0.0]])
    proof = compare(found, expected, Outputs("classification", ("a", "b")), 1e-5)
    assert (proof.rows, proof.changed) == (2, 1)


@pytest.mark.slow
def test_a_folder_that_cannot_be_loaded_is_no_proof(tmp_path):
    winner = make_winner(tmp_path, "bert", lora(Tap.Q, 2))
    with pytest.raises(DataError, match=r"cannot be loaded again: .*not an export"):
        ask(question_of("native", tmp_path, winner))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("merged", "prefix head->head: trained keys and values are no weights (native"),
    ],
)
def test_what_a_target_cannot_hold_is_refused_by_name(target, said, tmp_path, monkeypatch):
    winner = make_winner(tmp_path, "bert", lora(Tap.Q, 2), same(Form.PREFIX, Tap.HEAD, 2))
    monkeypatch.setattr(run_module, "winner_of", lambda *_, **__: winner)
    with pytest.raises(ConfigError) as refusal:
        export(Study(tmp_path), how="best", target=target, out=tmp_path / "out", command="")
    assert said in str(refusal.value)
    assert "lowrank" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_refusals_before_anything_is_loaded(run, done, tmp_path):
    assert (
        "allowed: native, peft, merged" in run("export", done.folder, "--to", "onnx", "-o", "x")[2]
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not an empty folder" in run("export", done.folder, "-o", "full")[2]
    lost = next(r.trial for r in done.records() if not (done.folder / r.weights).is_file())
    code, _, err = run("export", done.folder, "--pick", lost, "-o", "x")
    assert (code, "to train it again: autopeft front" in err) == (3, True)


@pytest.mark.parametrize("target", ["yaml", "adapters"])
def test_what_holds_no_weights_needs_none(run, done, tmp_path, target):
    study = shutil.copytree(done.folder, tmp_path / "study")
    shutil.rmtree(study / "weights")
    code, out, err = run("export", study, "--pick", 1, "--to", target, "-o", "out")
    assert (code, out) == (0, f"trial 1 -> out ({target})\n"), err
    code, _, err = run("export", study, "--pick", 1, "-o", "other")
    assert (code, "are not kept" in err) == (3, True)


@pytest.mark.slow
# peft asks a model for a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_approximation_says_what_it_costs(run, done):
    """The only one of these tests that runs the fresh process of `peft`."""
    front = done.front()
    best = [p for p in front.points if not merging(front, done.shape())[p.trial]][-1]
    flags = ("--pick", best.trial, "--to", "peft", "--as-lora", 1, "-o", "out")
    code, out, err = run("export", done.folder, *flags)
    assert code == 0, err
    assert out == f"trial {best.trial} -> out (peft)\n"
    assert "note: approximated by LoRA of rank 1: accuracy 0." in err
    assert "loaded again in a fresh process" in err
    code, _, err = run("export", done.folder, "--as-lora", 1, "-o", "other")
    assert (code, "--as-lora 1: a rank from 1, with --to peft" in err) == (2, True)


def test_what_is_picked_is_what_the_final_selection_recommends(done, monkeypatch):
    front = done.front()
    other = next(point.trial for point in front.points if point.trial != front.recommended)
    selection = Selection("accuracy", 30, (), (), other)
    monkeypatch.setattr(Study, "selection", lambda _: selection)
    choice = winner_of(done, "cheapest").choice
    assert (choice.trial, choice.reason[-22:]) == (other, "in the final selection")
    assert winner_of(done, "best").choice.trial == front.points[-1].trial


def other_data(study):
    edit_json(study / "manifest.json", lambda told: told["data"].update(sha256="0" * 64))


def other_model(study):
    edit_json(study / "manifest.json", lambda told: told["model"].update(sha256="0" * 64))


def other_reading(study):
    told = {"configuration_and_tokens": "0" * 64}
    edit_json(study / "manifest.json", lambda manifest: manifest["fingerprint"].update(told))


def other_weights(study):
    for path in (study / "weights").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_data, "the data have changed since the search"),
        (other_model, "the model has changed since the search"),
        (other_reading, "the model's configuration or tokenizer has changed since the search"),
        (other_weights, "sha256 is"),
    ],
)
def test_what_has_changed_since_the_search_is_not_exported(done, tmp_path, change, said):
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    change(study.folder)
    with pytest.raises((ConfigError, DataError), match=said):
        export(study, how="best", target="native", out=tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()


def test_another_transformers_may_tell_more_of_the_same_configuration(done, tmp_path):
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    other_reading(study.folder)
    older = {"transformers": "5.0.0"}
    edit_json(study.manifest_file, lambda manifest: manifest["versions"].update(older))
    assert winner_of(study, "best").genotype == winner_of(done, "best").genotype


def test_nothing_of_autopeft_can_be_imported_where_others_load(tmp_path, monkeypatch):
    """But for the native format."""
    found = []

    def answer(_):
        with pytest.raises(ModuleNotFoundError) as failure:
            importlib.import_module("autopeft.nothing")
        found.append(str(failure.value))
        return torch.zeros(1, 2), []

    monkeypatch.setattr(reload, "answer", answer)
    for target in ("peft", "merged", "native"):
        (tmp_path / "question").write_text(json.dumps({"target": target}), encoding="utf-8")
        words = ["reload.py", str(tmp_path / "question"), str(tmp_path / "answer")]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
        reload.main()
        monkeypatch.undo()
        monkeypatch.setattr(reload, "answer", answer)
    refused = "no autopeft.nothing here"
    assert found == [refused, refused, "No module named 'autopeft.nothing'"]
