"""The commands: results alone on stdout, the rest on stderr, an exit code for each outcome."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console
from study_factory import ROWS, ledger_states, results, write_data

from autopeft import __version__
from autopeft.cli import console, demo
from autopeft.cli.listings import merging
from autopeft.front_file import front_to_dict
from autopeft.records import Record
from autopeft.space.genotype_file import load_genotype
from autopeft.space.shipped import shipped_spaces
from autopeft.study.folder import Study
from autopeft.study.spec import load_study_spec
from autopeft.study.write import spec_yaml

COMMANDS = (
    "search",
    "resume",
    "front",
    "train",
    "test",
    "export",
    "load",
    "demo",
    "spaces",
    "methods",
    "report",
    "serve",
)
PAGES = {"report", "serve"}
"""Commands whose result is a page and nothing to print."""


@pytest.fixture
def study_file(spec_of, tmp_path):
    """A study file of three trials."""
    path = tmp_path / "sentiment.yaml"
    path.write_text(spec_yaml(spec_of(trials=3)), encoding="utf-8")
    return path


def without(data, key):
    return {name: value for name, value in data.items() if name != key}


def assert_plain(text):
    assert not re.search(r"[\x1b\r]", text)


def test_search_ends_in_a_front(run, study_file, done):
    code, out, err = run("search", study_file)
    assert code == 0
    study = Study(study_file.parent / "trials" / "sentiment")
    assert results(study) == results(done)[:3]
    header, columns, *rows = out.splitlines()
    assert header.strip() == "Pareto front of trials/sentiment"
    assert columns.split()[:3] == ["trial", "accuracy", "parameters"]
    assert len(rows) == len(study.front().points)
    assert "head only" in rows[0]
    lines = err.splitlines()
    told = [line for line in lines if re.match(r"\[\d/3, .* left\] trial \d: accuracy 0\.", line)]
    assert [line[:3] for line in told] == ["[1/", "[2/", "[3/"]
    assert lines.index("2 classes: 'bad', 'good'") < lines.index(told[0])
    plan = next(line for line in lines if line.startswith("3 trials, about "))
    assert lines.index(plan) < lines.index(told[0]), "the cost is told before the first trial"
    assert "in cohorts of 4 (fp32, eager attention): about" in plan
    assert any("16 to 1,680 parameters (budget 30 % of the backbone)" in line for line in lines)
    assert any(line.startswith('note: Always answering "') for line in lines), "it learnt nothing"
    assert "Next: " not in err, "nor is there anything to go on with"
    assert_plain(err)
    assert_plain(out)


def test_search_continues_to_the_total(run, study_file):
    run("search", study_file, "--trials", 2, "--out", "here")
    code, out, err = run("search", study_file, "--out", "here", "--format", "json")
    assert code == 0
    assert "continuing here: 2 trials are there\n" in err
    assert "[3/3, 0 s left] trial 2: " in err
    front = Study(study_file.parent / "here").front()
    assert without(json.loads(out), "not_mergeable") == front_to_dict(front)
    code, _, err = run("search", study_file, "--out", "here")
    assert code == 0
    assert "\n0 trials, about " in err


def test_total_is_never_less_than_what_is_there(run, study_file):
    run("search", study_file, "--out", "here")
    told = "note: 3 trials are there already, so the total is 3, not 2\n"
    for command in (("resume", "here"), ("search", study_file, "--out", "here")):
        code, _, err = run(*command, "--trials", 2)
        assert (code, told in err) == (0, True), err
        assert load_study_spec(study_file.parent / "here" / "study.yaml").budget.trials == 3
    _, _, err = run("resume", "here", "--trials", 3)
    assert "are there already" not in err


def test_search_by_flags_alone(run, checkpoint, data_folder, tmp_path):
    flags = (
        *("--model", checkpoint, "--data", data_folder, "--task", "classification"),
        *("--text", "text", "--label", "label", "--train-rows", 20, "--metric", "f1"),
        *("--space", "lora", "--max-params", "20%", "--trials", 2, "--time", "1h30m"),
        *("--epochs", 2, "--batch-size", 8, "--max-length", 12, "--cohort", 2),
        *("--precision", "bf16", "--sampler", "nsga2", "--seed", 7),
    )
    code, _, err = run("search", *flags)
    assert code == 0, err
    folder = tmp_path / "trials" / f"{data_folder.stem}-{checkpoint.name}"
    spec = load_study_spec(folder / "study.yaml")
    assert (spec.model, spec.task, spec.metric) == (str(checkpoint), "classification", "f1")
    assert spec.data.train == data_folder / "train.jsonl"
    assert (spec.data.text, spec.data.label, spec.data.train_rows) == (("text",), "label", 20)
    assert (spec.space, spec.sampler, spec.seed) == ("lora", "nsga2", 7)
    assert spec.budget.model_dump(exclude_none=True) == {
        "max_params": "20%",
        "trials": 2,
        "time": 5400,
    }
    training = spec.training
    assert (training.epochs, training.batch_size, training.max_length) == (2, 8, 12)
    assert (training.cohort, training.precision) == (2, "bf16")
    record = Study(folder).records()[0]
    assert (record.precision, record.steps) == ("bf16", 6)


def test_paths_in_flags_start_from_the_working_folder(run, study_file, monkeypatch):
    """And those in a study file from the file."""
    here, there = study_file.parent / "here", study_file.parent / "there"
    here.mkdir()
    there.mkdir()
    shutil.copy(shipped_spaces()["lora"], here / "mine.yaml")
    study = there / "study.yaml"
    spec = load_study_spec(study_file)
    shutil.copytree(spec.model, there / "model")
    write_data(there / "data")
    text = study_file.read_text(encoding="utf-8").replace(spec.model, "model")
    text = text.replace(str(spec.data.train.parent), "data")
    study.write_text(text, encoding="utf-8")
    monkeypatch.chdir(here)
    flags = ("--space", "mine.yaml", "--trials", 1, "--out", "out")
    assert run_in(here, run, monkeypatch, "search", "../there/study.yaml", *flags)[0] == 0
    assert (here / "out" / "space.yaml").read_text(encoding="utf-8").startswith("name: lora")
    assert load_study_spec(here / "out" / "study.yaml").model == str(there / "model")
    write_data(here / "other", train=30)
    flags = ("--data", "other", "--trials", 1, "--out", "out2")
    assert run_in(here, run, monkeypatch, "search", "../there/study.yaml", *flags)[0] == 0
    assert load_study_spec(here / "out2" / "study.yaml").data.train == here / "other/train.jsonl"


def run_in(folder, run, monkeypatch, *arguments):
    monkeypatch.chdir(folder)
    return run(*arguments)


def test_front_says_what_merges_and_what_is_in_the_way(run, done, tmp_path):
    code, out, _ = run("front", done.folder)
    assert code == 0
    assert "merges" in out.splitlines()[1]
    found = merging(done.front(), done.shape())
    marks = [re.search(r"(yes|no)  ", line)[1] for line in out.splitlines()[2:]]
    assert marks == ["no" if reasons else "yes" for reasons in found.values()]
    adapter = {"form": "bottleneck", "read": "ffn_out", "write": "ffn_out", "sizes": [1, 1]}
    genotype = {**done.front().points[0].genotype, "ops": [{**adapter, "activation": "relu"}]}
    point = replace(done.front().points[0], genotype=genotype)
    front = replace(done.front(), points=(point,), recommended=point.trial)
    (reasons,) = merging(front, done.shape()).values()
    assert [reason.split(":")[0] for reason in reasons] == ["bottleneck ffn_out->ffn_out"]
    shutil.copytree(done.folder, tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text(encoding="utf-8"))
    del manifest["model"]["biased"]
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    code, out, _ = run("front", tmp_path / "old")
    assert code == 0
    assert all("  ?  " in line for line in out.splitlines()[2:])


def test_progress_on_a_terminal_is_one_display(run, study_file, monkeypatch):
    screen = StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(console, "stderr", lambda: terminal)
    code, out, _ = run("search", study_file)
    assert code == 0
    shown = screen.getvalue()
    assert "\x1b[" in shown
    assert "trials" in shown
    for trial in range(3):
        assert shown.count(f"trial {trial}: accuracy") == 1
    assert_plain(out)


def test_front_is_shown_for_people_and_programs(run, done):
    code, out, err = run("front", done.folder, "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert without(found, "not_mergeable") == front_to_dict(done.front())
    assert [int(trial) for trial in found["not_mergeable"]] == [
        p.trial for p in done.front().points
    ]
    assert err == ""
    code, out, err = run("front", done.folder)
    assert code == 0
    front = done.front()
    rows = out.splitlines()[2:]
    for point, row in zip(front.points, rows, strict=True):
        assert point.summary in row
        assert f"{point.quality:.4f} ± {point.stderr:.4f}" in row
        assert f"{point.trainable_params:,}" in row
        assert row.startswith("*") == (point.trial == front.recommended)
    assert f"* trial {front.recommended}: the cheapest within one standard error" in err


@pytest.mark.parametrize("metric", ["acc[/red]", "[bold]acc", "acc\x1b]0;OWNED\x07\x1b[31m\x9b2J"])
def test_names_in_anybodys_files_are_shown_and_not_obeyed(run, done, tmp_path, metric):
    folder = tmp_path / "esc\x1b[31m[/red]"
    shutil.copytree(done.folder, folder)
    front = {**front_to_dict(done.front()), "metric": metric}
    (folder / "front.json").write_text(json.dumps(front), encoding="utf-8")
    code, out, err = run("front", folder)
    assert code == 0
    spelled = metric.replace("\x1b", r"\x1b").replace("\x07", r"\x07").replace("\x9b", r"\x9b")
    assert spelled in out
    assert r"esc\x1b[31m[/red]" in out
    assert not {*"\x1b\x07\x9b"} & {*out, *err}


def test_a_trial_is_recommended_unless_nothing_has_been_learnt(run, done, tmp_path):
    shutil.copytree(done.folder, tmp_path / "study")
    manifest = json.loads(done.manifest_file.read_text(encoding="utf-8"))
    for value, is_recommended in ((manifest["data"]["constant"]["value"], False), (-9.0, True)):
        manifest["data"]["constant"]["value"] = value
        (tmp_path / "study" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        _, _, err = run("front", tmp_path / "study")
        told = f"* trial {done.front().recommended}{' is recommended' if is_recommended else ''}: "
        assert told in err
        assert ("nothing has been learnt" in err) == (not is_recommended)
        again = f"Next: autopeft test {tmp_path}/study   or: autopeft front {tmp_path}/study "
        again += f"--genotype {done.front().recommended} > genotype.yaml"
        assert (err.splitlines()[-1] == again) == is_recommended
        assert ("Next: " in err) == is_recommended


def test_genotype_of_the_front_can_be_trained(run, done, tmp_path):
    record = done.records()[1]
    code, out, err = run("front", done.folder, "--genotype", 1)
    assert (code, err) == (0, "")
    file = tmp_path / "genotype.yaml"
    file.write_text(out, encoding="utf-8")
    assert load_genotype(file).hash == record.hash
    flags = ("--study", done.spec_file, "--format", "json", "--out", "trained")
    code, out, err = run("train", file, *flags)
    assert code == 0
    trained = Record.from_dict(json.loads(out))
    assert (trained.hash, trained.metrics) == (record.hash, record.metrics)
    assert (tmp_path / "trained" / trained.weights).is_file()
    assert err.splitlines() == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    code, out, err = run("train", file, "--study", done.spec_file, "--out", "again")
    assert code == 0
    accuracy = record.metrics["accuracy"]
    assert f"accuracy    {accuracy.value:.4f} ± {accuracy.stderr:.4f}" in out
    assert out.startswith("LoRA q,v r8 x2\n")
    assert "3 steps in " in err
    assert_plain(err)
    code, out, _ = run("test", "again", "--format", "json")
    (result,) = json.loads(out)["results"]
    assert (code, result["role"], result["trial"]) == (0, "recommended", 0)
    code, _, err = run("resume", "again", "--trials", 3)
    assert (code, "again holds another study" in err) == (2, True)


def test_unknown_trial_is_refused(run, done):
    code, out, err = run("front", done.folder, "--genotype", 9)
    assert (code, out) == (2, "")
    assert err == f"error: {done.folder} has no record of trial 9; it has 0 to 4\n"


def test_test_split_is_opened(run, done, tmp_path):
    folder = shutil.copytree(done.folder, tmp_path / "study")
    code, out, err = run("test", folder)
    assert (code, err) == (0, "")
    assert out.startswith(f"On {ROWS['test']} test rows that the search has not seen")
    assert [row[:11].strip() for row in out.splitlines()[2:]] == ["recommended", "head only"]
    code, out, _ = run("test", folder, "--format", "json")
    assert code == 0
    assert json.loads(out)["nth"] == 2
    _, _, err = run("test", folder)
    assert err == "This was look 3 at the test split; it is no longer unseen.\n"


@pytest.mark.slow
def test_demo_searches_and_opens_the_test_split(
    run, checkpoint, data_folder, monkeypatch, tmp_path
):
    def build(folder, seed):
        assert (folder, seed) == (demo.Path("demo-text"), 3)
        return SimpleNamespace(**{name: data_folder / f"{name}.jsonl" for name in ROWS})

    monkeypatch.setattr(demo, "embedded_model", lambda: checkpoint)
    monkeypatch.setattr(demo, "build", build)
    monkeypatch.setattr(demo, "MAX_LENGTH", 16)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / ".lock").touch()  # of a demo that was stopped early
    arguments = ("demo", "--out", "demo", "--trials", 3, "--seed", 3)
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "Pareto front of demo" in out
    assert "test rows that the search has not seen" in out
    assert len(Study(tmp_path / "demo").records()) == 3
    code, out, _ = run(*arguments, "--format", "json")
    assert code == 0
    assert json.loads(out)["metric"] == "accuracy"
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    assert run("demo", "--out", "precious")[0] == 2


def test_spaces_are_listed(run):
    code, out, err = run("spaces")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()[1:]] == [*shipped_spaces()]
    assert "BERT-base" in err
    code, out, err = run("spaces", "--format", "json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["name"] for row in rows] == [*shipped_spaces()]
    assert all(row["cardinality"] > 10**6 for row in rows)


def test_methods_are_listed(run, checkpoint):
    code, out, _ = run("methods")
    assert code == 0
    assert {"lora", "houlsby", "pfeiffer", "mam", "ia3"} <= {r.split()[0] for r in out.splitlines()}
    code, out, _ = run("methods", "lora")
    assert code == 0
    assert "parameters  294,912 (0.269 % of BERT-base)" in out
    assert "Hu et al." in out
    code, out, _ = run("methods", "prefix_mlp")
    assert "552,960 (0.505 % of BERT-base), 9,872,384 while training" in out
    code, out, err = run("methods", "lora", "--format", "json", "--model", checkpoint)
    row = json.loads(out)
    assert (code, err, row["name"], row["params"]) == (0, "", "lora", 1024)
    code, out, _ = run("methods", "--format", "json")
    assert len(json.loads(out)) >= 10
    code, out, err = run("methods", "loraa")
    assert (code, out) == (2, "")
    assert "did you mean `lora`?" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: autopeft {command}" in out
    assert ("--format" in out) == (command not in PAGES)


def test_help_and_version(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(command in out for command in COMMANDS)
    assert run("--version") == (0, f"{__version__}\n", "")
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: autopeft [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serch"], "No such command 'serch'."),
        (["front"], "Missing argument 'folder'."),
        (["front", ".", "--fromat", "json"], "No such option: --fromat"),
        (["front", ".", "--format", "xml"], "Invalid value for '--format'"),
        (["search", "--trials", "many"], "Invalid value for '--trials'"),
        (["search"], "without a study file, the options have to say --model and --data"),
    ],
)
def test_wrong_usage(run, arguments, told):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


def test_exit_codes(run, study_file, monkeypatch, tmp_path):
    space = """
name: diverging
description: No learning rate in here is of this world.
slots: [{name: q, form: lowrank, read: weight, write: q+v, size: [1, 2], layout: free}]
training: {learning_rate: {low: 1e30, high: 1e32}}
"""
    (tmp_path / "diverging.yaml").write_text(space, encoding="utf-8")
    text = study_file.read_text(encoding="utf-8").replace("- head\n- lora\n", "")
    study_file.write_text(text.replace("methods:", "methods: []"), encoding="utf-8")
    code, _, err = run("search", study_file, "--space", "diverging.yaml", "--out", "nan")
    assert code == 5
    assert err.endswith("error: all 3 trials failed; the records in nan say why\n")
    code, genotype, _ = run("front", "nan", "--genotype", 0)
    (tmp_path / "genotype.yaml").write_text(genotype, encoding="utf-8")
    code, _, err = run("train", "genotype.yaml", "--study", study_file)
    assert code == 5
    assert "error: training failed (nan): the loss at step " in err

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("autopeft.study.search.run_search", stop)
    code, out, err = run("search", study_file)
    assert (code, out) == (130, "")
    assert err == "error: interrupted before the study had begun; nothing was written\n"

    def full(*_, **__):
        raise OSError(28, "No space left on device", "records")

    monkeypatch.setattr("autopeft.study.search.run_search", full)
    code, out, err = run("search", study_file)
    assert (code, out) == (3, "")
    assert err == "error: [Errno 28] No space left on device: 'records'\n"


def test_what_needs_no_torch_does_not_import_it(done):
    script = f"""
import sys
from autopeft.cli.main import main
commands = ["--help", "front {done.folder}", "front {done.folder} --format json",
    "front {done.folder} --genotype 1", "spaces", "methods", "methods lora", "search --help"]
for command in commands:
    sys.argv = ["autopeft", *command.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
    heavy = {{"torch", "transformers", "optuna", "datasets", "sklearn"}} & set(sys.modules)
    assert not heavy, (command, heavy)
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_python_m(tmp_path):
    command = [sys.executable, "-m", "autopeft", "front", "nowhere"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == "error: cannot read nowhere/front.json: No such file or directory\n"


def test_what_an_encoding_lacks_is_spelled_out(done):
    command = [sys.executable, "-m", "autopeft", "front", done.folder]
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(command, capture_output=True, text=True, env=plain, check=True)
    assert r" \xb1 0." in ran.stdout


@pytest.fixture
def interruptible():
    """A shell starts background jobs with interrupts ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("by", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_interrupted_search_is_resumed(run, spec_of, tmp_path, by, workers):
    training = {"epochs": 20, "cohort": 1}  # seconds for what is left at the signal
    file = tmp_path / "study.yaml"
    spec = spec_of(trials=8, training=training, engine={"workers": workers})
    file.write_text(spec_yaml(spec), encoding="utf-8")
    arguments = ["search", str(file), "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "autopeft", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("[1/8"):
            break
    process.send_signal(by)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, [*seen, err]
    assert out == ""
    told = "error: interrupted; to continue where it stopped: autopeft resume out\n"
    assert err.endswith(told)
    assert "Traceback" not in err
    study = Study(tmp_path / "out")
    n_before = len(study.records())
    assert 1 <= n_before < 8
    code, _, err = run("resume", "out")
    assert code == 0
    assert f"continuing out: {n_before} trials are there" in err
    assert err.count("left] trial ") == 8 - n_before
    assert ledger_states(study) == ["COMPLETE"] * 8
    assert [record.trial for record in study.records()] == list(range(8))


@pytest.mark.usefixtures("interruptible")
def test_second_interrupt_ends_at_once(tmp_path):
    script = """
import time
from pathlib import Path
from autopeft.cli.signals import interruptible
with interruptible(Path("out")):
    try:
        print("running", flush=True)
        time.sleep(600)
    finally:
        print("cleaning up", flush=True)
        time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning up\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", None)
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("folder", "told"),
    [("nowhere", "nowhere holds no study: it has no manifest.json"), ("begun", "run the `search`")],
)
def test_what_has_not_begun_is_not_resumed(run, done, tmp_path, folder, told):
    shutil.copytree(done.folder, tmp_path / "begun")
    (tmp_path / "begun" / "study.yaml").unlink()
    code, out, err = run("resume", folder)
    assert (code, out) == (3, "")
    assert told in err


def test_shells_complete_commands_and_options(run, monkeypatch):
    monkeypatch.setenv("_AUTOPEFT_COMPLETE", "complete_bash")
    for words, expected in (("autopeft sea", "search"), ("autopeft search --wa", "--warm-start")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert run() == (0, f"{expected}\n", "")
