"""Bad input of each kind: one clear message, the right exit code, no traceback, nothing written."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from study_factory import ROWS, rows_of, tree, write_data, write_jsonl
from transformers import AlbertConfig, AlbertModel

from autopeft.cli.study_flags import merge
from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap
from autopeft.study.search import prepare

STUDY = """\
model: model
data: {train: data/train.jsonl, validation: data/validation.jsonl, test: data/test.jsonl}
space: unified
methods: [head, lora]
budget: {max_params: 30%, trials: 2}
training: {epochs: 1, max_length: 16, precision: fp32}
engine: {workers: 0}
"""
SPACE = """\
name: mine
description: One slot.
slots:
  - {name: q, form: lowrank, read: weight, write: q, size: [1, 2], layout: free}
training: {learning_rate: {low: 1e-3, high: 1e-2}}
"""
GENOTYPE = """\
n_layers: 2
ops:
- {form: lowrank, read: attn_in, write: q, sizes: [1, 1]}
training: {learning_rate: 1e-3}
"""


@pytest.fixture
def study(checkpoint, tmp_path):
    """A folder with a good study, which a test then spoils."""
    shutil.copytree(checkpoint, tmp_path / "model")
    write_data(tmp_path / "data")
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return tmp_path / "study.yaml"


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that has to be refused with a code; returns its message."""

    def command(code, *arguments):
        before = tree(tmp_path)
        got, out, err = run(*arguments)
        assert (got, out) == (code, ""), err
        assert err.startswith("error: ")
        assert err.count("error: ") == 1
        assert "Traceback" not in err
        assert tree(tmp_path) == before, "something was written"
        return err.removeprefix("error: ").removesuffix("\n").replace(f"{tmp_path}/", "")

    return command


def spoil(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_good_study_is_not_refused(run, study):
    assert run("search", "study.yaml", "--out", "out")[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("space: unified", "space: unified\nspace: lora", "study.yaml:4: key `space` is given tw"),
        ("{max_params: 30%, trials: 2}", "&b {trials: 2}", "study.yaml:5: aliases and anchors"),
        ("space: unified", "space: !!str unified", "study.yaml:3: tags (tag:yaml.org,2002:str)"),
        ("space: unified", "spice: unified", "study.yaml:3: spice: unknown key; allowed: budget"),
        ("trials: 2", "trials: two", "study.yaml:5: budget.trials: 'two': has to be a whole num"),
        ("space: unified", "space: [a", "study.yaml:4: not YAML: while parsing a flow sequence"),
        ("space: unified", "space: unifeid", "space `unifeid`: did you mean `unified`? neither"),
        ("[head, lora]", "[head, lorra]", "study.yaml:4: methods.1: 'lorra': no method `lorra`: "),
        ("space: unified", "metric: bleu", "metric `bleu` is not for classification; allowed: ac"),
        ("space: unified", "sampler: cma", "study.yaml:3: sampler: 'cma': has to be 'tpe', 'nsga"),
        ("30%", "0%", "study.yaml:5: budget.max_params: '0%': a percentage has to be above 0%"),
        ("trials: 2", "time: 2 hours", "study.yaml:5: budget.time: '2 hours': has to be like"),
        ("max_length: 16", "max_length: 99", "max_length: 99 is more than the model reads; at mo"),
        ("model: model\n", "", "study.yaml or the options have to say --model"),
        ("train: data/train.jsonl, ", "", "study.yaml:2: data: give either `train` (a file) or"),
    ],
)
def test_bad_study_file(refused, study, old, new, told):
    spoil(study, old, new)
    assert told in refused(2, "search", "study.yaml", "--out", "out")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "study.yaml:1: is empty"),
        (b"- a list\n", "study.yaml: has to be keys and values"),
        (b"model: caf\xe9\n", "study.yaml:1: not UTF-8 (byte 0xe9)"),
        (b"model: \x00\n", "study.yaml:1: not YAML: character U+0000"),
        (b"[" * 50, "nested deeper than 20 levels"),
    ],
)
def test_file_that_is_no_study(refused, study, content, told):
    study.write_bytes(content)
    assert told in refused(2, "search", "study.yaml", "--out", "out")


def test_study_file_that_is_not_there(refused, study):
    message = refused(2, "search", "none.yaml")
    assert message == "none.yaml: cannot be read: No such file or directory"
    assert "Is a directory" in refused(2, "search", "data")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("write: q", "write: qq", "no tap `qq`; allowed: embed, attn_in, q, k, v"),
        ("form: lowrank", "form: lora", "mine.yaml:4: slots.0.form"),
        ("slots:", "slot:", "mine.yaml:3: slot: unknown key; allowed: "),
        ("low: 1e-3", "low: 1", "low 1.0 is above high 0.01"),
        ("low: 1e-3", "low: 1e-3, low: 1", "mine.yaml:5: key `low` is given twice"),
    ],
)
def test_bad_space_file(refused, study, old, new, told):
    (study.parent / "mine.yaml").write_text(SPACE.replace(old, new), encoding="utf-8")
    message = refused(2, "search", "study.yaml", "--out", "out", "--space", "mine.yaml")
    assert told in message


def test_model_that_is_not_there(refused, study):
    shutil.rmtree(study.parent / "model")
    message = refused(3, "search", "study.yaml", "--model", "/no/such/model", "--out", "out")
    assert message.startswith("model `/no/such/model` cannot be loaded: there is no such folder")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_damaged_model(refused, study, name):
    (study.parent / "model" / name).write_bytes(b"\0" * 20)
    assert refused(3, "search", "study.yaml", "--out", "out").startswith("model `model` ")


def test_model_of_an_unknown_family(refused, study):
    config = AlbertConfig(
        vocab_size=19,
        embedding_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    AlbertModel(config).save_pretrained(study.parent / "model")
    message = refused(3, "search", "study.yaml", "--out", "out")
    assert message.startswith("models of type `albert` are not known, and ")


def test_space_that_needs_a_tap_that_the_model_lacks(refused, study, monkeypatch):
    whole = Anatomy.shape

    def shape(self):
        found = whole(self)
        widths = {tap: width for tap, width in found.widths.items() if tap is not Tap.HEAD}
        return ModelShape(found.n_layers, widths, found.backbone_params)

    monkeypatch.setattr(Anatomy, "shape", shape)
    (study.parent / "prefixes.yaml").write_text(
        "name: prefixes\n"
        "description: prefixes alone\n"
        "slots:\n"
        "  - {name: prefix, form: prefix, read: same, write: head, size: [1, 2]}\n"
        "training: {learning_rate: 1e-3}\n"
    )
    message = refused(2, "search", "study.yaml", "--space", "prefixes.yaml", "--out", "out")
    told = "nothing of space prefixes can stand in the model: slot prefix is left out: "
    assert message.startswith(f"{told}the model has no tap head; it has: embed, attn_in")


def row(text="good film", label="good"):
    return json.dumps({"text": text, "label": label}).encode() + b"\n"


GOOD = b"".join(row(**r) for r in rows_of(99, 0))


@pytest.mark.parametrize(
    ("split", "content", "told"),
    [
        ("train", GOOD + row(text=" "), "data/train.jsonl:100: column 'text' is empty"),
        ("train", GOOD + row(text=7), "train.jsonl:100: column 'text' is of type int, not a str"),
        ("train", GOOD + row(label=None), "data/train.jsonl:100: column 'label' is null"),
        ("train", GOOD + b'{"label": 1}\n', "train.jsonl:100: no column 'text'; it has: 'label'"),
        ("train", GOOD + b"{oops\n", "data/train.jsonl:100: broken JSON: "),
        ("train", GOOD + b'{"text": "caf\xe9"}\n', "train.jsonl:100: is not UTF-8: byte 0xe9"),
        ("validation", row() + row(label="meh"), "data/validation.jsonl:2: "),
        ("validation", row() + row(label=1), "data/validation.jsonl:2: "),
        ("test", row(text=""), "data/test.jsonl:1: column 'text' is empty"),
        ("train", b"", "data/train.jsonl: "),
    ],
)
def test_bad_rows(refused, study, split, content, told):
    (study.parent / "data" / f"{split}.jsonl").write_bytes(content)
    assert told in refused(3, "search", "study.yaml", "--out", "out")


def test_several_bad_rows_are_one_error(refused, study):
    (study.parent / "data" / "train.jsonl").write_bytes(row(text="") * 9)
    message = refused(3, "search", "study.yaml", "--out", "out")
    assert message.startswith("9 problems in the data:\n")
    assert message.endswith("and 4 more")


def test_text_labels_are_no_numbers(refused, study):
    spoil(study, "space: unified", "task: regression")
    message = refused(3, "search", "study.yaml", "--out", "out")
    assert "data/train.jsonl:1: " in message
    assert "number" in message


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--data", "none.jsonl"], 3, "none.jsonl: does not exist"),
        (["--data", "none.csv"], 3, "none.csv: does not exist"),
        (["--data", "model"], 3, "model has no train file (train.jsonl, train.csv, train.parq"),
        (["--data", "study.yaml"], 3, "study.yaml: suffix '.yaml' is not known; allowed: .csv, "),
        (["--text", "body"], 3, "data/train.jsonl:1: no column 'body'; it has: 'text', 'label'"),
        (["--label", "class"], 3, "data/train.jsonl:1: no column 'class'; it has: 'text', 'label'"),
        (["--label", "text", "--text", "text"], 2, "column `text` is named twice"),
        (["--text", "a,b,c"], 2, "data.text"),
        (["--max-params", "1"], 4, "nothing in space unified fits 1 parameters; its smallest"),
        (["--max-params", "200k"], 2, "budget.max_params: '200k': has to be a number of param"),
        (["--time", "1us"], 2, "budget.time: '1us': has to be like 90s"),
        (["--time", "0.000001"], 4, "the time budget of 1e-06 s is less than the"),
        (["--space", "none.yaml"], 2, "space `none.yaml`: neither a file nor a shipped space"),
        (["--metric", "bleu"], 2, "metric `bleu` is not for classification"),
        (["--task", "ranking"], 2, "task: 'ranking': has to be 'classification', 'multi_label_cl"),
        (["--rung-metric", "bleu"], 2, "rung_metric: 'bleu': has to be 'likelihood'"),
        (["--rung-metric", "likelihood"], 2, "`rung_metric` is for causal and seq2seq alone"),
        (["--sampler", "cma"], 2, "sampler: 'cma': has to be 'tpe', 'nsga2', 'gp' or 'random'"),
        (["--precision", "fp16"], 2, "training.precision: 'fp16': has to be 'auto', 'fp32' or"),
        (["--trials", "0"], 2, "budget.trials: 0: has to be greater than or equal to 1"),
        (["--seed", "-1"], 2, "seed: -1: has to be greater than or equal to 0"),
        (["--max-length", "3"], 2, "training.max_length: 3: has to be greater than or equal to 4"),
        (["--train-rows", "1"], 2, "data.train_rows: 1: has to be greater than or equal to 2"),
    ],
)
def test_bad_flags(refused, study, flags, code, told):
    assert told in refused(code, "search", "study.yaml", "--out", "out", *flags)


def test_cluster_without_ray(refused, study, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("engine", "cluster", "slot"):
        monkeypatch.delitem(sys.modules, f"autopeft.engines.ray.{name}", raising=False)
    told = refused(2, "search", study, "--engine", "ray", "--workers", 1, "--out", "out")
    assert told == (
        "engine.kind: `ray` needs Ray, which is not installed: pip install 'autopeft[ray]'"
    )


def test_server_without_psycopg(refused, study, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    flags = ("--storage", "postgresql://me@127.0.0.1:1/db", "--out", "out")
    told = refused(3, "search", study, *flags)
    assert told.startswith("storage needs psycopg (")
    assert told.endswith("): pip install 'autopeft[postgresql]'")
    assert not Path("out").exists()
    with pytest.raises(DataError, match="storage needs psycopg"):
        prepare(merge(Path(study), {("storage",): flags[1]}, None), Path("out"))


def test_workers_without_processes(refused, study, monkeypatch):
    monkeypatch.delattr("os.fork")
    monkeypatch.setattr("platform.system", lambda: "Windows")
    told = refused(2, "search", study, "--workers", "auto", "--out", "out")
    assert told == (
        "engine.workers: auto: worker processes need Linux or macOS, and this is Windows; use WSL, "
        "or --workers 0, which trains in the process itself and supervises nothing"
    )
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("out", "code", "told"),
    [
        ("data", 2, "data exists and is not an empty folder; give another --out"),
        ("study.yaml", 2, "study.yaml exists and is not an empty folder; give another --out"),
        ("study.yaml/out", 3, "study.yaml/out cannot be made: "),
        ("/dev/null/out", 3, "/dev/null/out cannot be made: /dev/null is not a folder that can"),
        ("n" * 300, 3, "cannot be made: File name too long"),
    ],
)
def test_bad_output_folder(refused, study, out, code, told):
    assert told in refused(code, "search", "study.yaml", "--out", out)
    (study.parent / "genotype.yaml").write_text(GENOTYPE, encoding="utf-8")
    arguments = ("train", "genotype.yaml", "--study", "study.yaml", "--out", out)
    assert told in refused(code, *arguments)


def test_other_study_in_the_folder(refused, run, study):
    assert run("search", "study.yaml", "--out", "out")[0] == 0
    message = refused(2, "search", "study.yaml", "--out", "out", "--seed", 1)
    assert message == (
        "out holds another study; give another --out. The differences:\n  seed: was 0, is now 1"
    )


@pytest.mark.parametrize("name", ["manifest.json", "study.db", "space.yaml"])
def test_damaged_study(refused, run, study, name):
    assert run("search", "study.yaml", "--out", "out")[0] == 0
    (study.parent / "out" / name).write_bytes(b"{}" * 99)
    message = refused(2 if name == "space.yaml" else 3, "search", "study.yaml", "--out", "out")
    assert message.startswith(f"out/{name}")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("lowrank", "lora", "genotype.yaml:3: ops.0.form: 'lora': has to be 'lowrank', "),
        ("[1, 1]", "[1]", "op lowrank attn_in->q has 1 sizes for 2 layers"),
        ("[1, 1]", "[1, -1]", "genotype.yaml:3: ops.0.sizes.1: -1: "),
        ("write: q", "write: z", "genotype.yaml:3: ops.0.write: 'z': has to be 'embed', "),
        ("1e-3", "fast", "genotype.yaml:4: training.learning_rate: 'fast': has to be a number"),
        ("n_layers: 2", "n_layers: 2\nhead: 1", "genotype.yaml:2: head: unknown key; allowed: "),
        ("[1, 1]", "[40, 40]", "the genotype has 2,560 parameters, the budget is 1,680"),
    ],
)
def test_bad_genotype(refused, study, old, new, told):
    assert GENOTYPE.count(old) == 1
    file = study.parent / "genotype.yaml"
    file.write_text(GENOTYPE.replace(old, new), encoding="utf-8")
    assert told in refused(2, "train", "genotype.yaml", "--study", "study.yaml", "--out", "out")


def test_genotype_that_is_not_there(refused, study):
    assert "cannot be read" in refused(2, "train", "none.yaml", "--study", "study.yaml")


def test_folder_without_a_study(refused, study):
    message = refused(3, "front", "nowhere")
    assert message == "cannot read nowhere/front.json: No such file or directory"
    (study.parent / "data" / "front.json").write_text('{"version": 1}', encoding="utf-8")
    assert refused(3, "front", "data").startswith("data/front.json: metric is missing; ")
    for command in (("test", "data"), ("export", "data", "-o", "out"), ("resume", "data")):
        assert refused(3, *command) == "data holds no study: it has no manifest.json"


def test_genotype_of_no_study(refused, study):
    assert refused(3, "front", "nowhere", "--genotype", 0) == "nowhere is not a folder"
    assert refused(2, "front", "data", "--genotype", 0).endswith("trial 0; it has none yet")


def test_study_without_a_test_split(refused, run, study):
    spoil(study, ", test: data/test.jsonl", "")
    assert run("search", "study.yaml", "--out", "out")[0] == 0
    assert refused(2, "test", "out") == "out: the study's data have no test split"


def test_data_that_changed_since(refused, run, study):
    assert run("search", "study.yaml", "--out", "out")[0] == 0
    write_jsonl(study.parent / "data" / "test.jsonl", rows_of(ROWS["test"] + 2, 5))
    assert refused(2, "test", "out") == "out: the data have changed since the search"
    message = refused(2, "search", "study.yaml", "--out", "out")
    assert "\n  data: was " in message
