"""From Python: a search in one call, a genotype in anybody's model, data named in any way."""

import csv
import json
import os
import shutil

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from study_factory import ROWS, results, rows_of, save_checkpoint, tree, write_data, write_jsonl
from tiny import (
    FAMILIES,
    TASK,
    as_params,
    genotype,
    op,
    same_bits,
    state,
    tiny_batch,
    tiny_model,
    tiny_rows,
)
from torch import nn

import autopeft
from autopeft import errors
from autopeft.errors import ConfigError, DataError
from autopeft.ops.base import StackedOp
from autopeft.ops.build import FORM_CLASSES
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.study.events import Silent
from autopeft.study.spec import load_study_spec
from autopeft.tasks.guess import data_section

TRAINING = {
    "epochs": 1,
    "batch_size": 16,
    "max_length": 16,
    "precision": "fp32",
    "attention": "eager",
}
MIXED = genotype(
    op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, 2, scale=2.0),
    op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, (0, 3, 4)),
    op(Form.PREFIX, Tap.HEAD, Tap.HEAD, 2),
    op(Form.BIAS, Tap.V, Tap.V),
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def search(model_folder):
    """A search of three trials on the tiny model."""

    def run(data, out, **more):
        settings = {"max_params": "30%", "trials": 3, "training": TRAINING} | more
        engine = settings.pop("engine", {"workers": 0})  # a worker of its own takes a while
        return autopeft.search(model=model_folder, data=data, out=out, engine=engine, **settings)

    return run


@pytest.fixture(scope="module")
def by_folder(search, data_folder, tmp_path_factory):
    """A search whose data are named by their folder."""
    return search(data_folder, tmp_path_factory.mktemp("api") / "study")


def test_search_gives_a_study_with_a_front(by_folder):
    front = by_folder.front()
    assert isinstance(front, autopeft.Front)
    assert front.metric == "accuracy"
    assert front.recommended in {point.trial for point in front.points}
    records = by_folder.records()
    assert all(isinstance(record, autopeft.Record) for record in records)
    assert [record.trial for record in records] == [0, 1, 2]


def test_data_as_a_mapping_is_the_same_search(by_folder, search, data_folder, tmp_path):
    data = {name: data_folder / f"{name}.jsonl" for name in ROWS}
    assert results(search(data, str(tmp_path / "study"))) == results(by_folder)


def test_search_takes_an_engine(by_folder, search, data_folder, tmp_path):
    study = search(data_folder, tmp_path / "study", engine={"workers": 1}, seeds=0, rungs=1)
    assert [r["metrics"] for r in results(study)] == [r["metrics"] for r in results(by_folder)][:3]
    spec = load_study_spec(study.spec_file)
    assert (spec.engine.workers, spec.selection.seeds, spec.rungs) == (1, 0, 1)


def test_search_is_quiet(search, data_folder, tmp_path, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    search(data_folder, tmp_path / "study", trials=1)
    assert capfd.readouterr() == ("", "")


def test_search_continues(by_folder, search, data_folder, tmp_path):
    folder = shutil.copytree(by_folder.folder, tmp_path / "study")
    study = search(data_folder, folder, trials=4)
    assert results(study)[:3] == results(by_folder)
    assert len(results(study)) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sampler": "cma"}, "arguments: sampler: 'cma': has to be"),
        ({"max_params": "0%"}, "arguments: budget.max_params: '0%': a percentage has to be"),
        ({"time": float("inf")}, "arguments: budget.time"),
        ({"time": "soon"}, "arguments: budget.time: 'soon': has to be like 90s"),
        ({"training": {"epoch": 1}}, "arguments: training.epoch: unknown key; allowed: "),
        ({"task": "ranking"}, "arguments: task: 'ranking': has to be"),
        ({"space": "none"}, "space `none`: "),
        ({"engine": "slurm"}, "arguments: engine.kind: 'slurm': has to be"),
        ({"engine": {"kind": "ray", "workers": 0}}, "arguments: engine: `workers: 0` is the driv"),
        ({"engine": {"adress": "auto"}}, "arguments: engine.adress: unknown key; allowed: "),
        ({"storage": "sqlite:///x.db"}, "arguments: storage: "),
        ({"rungs": 0}, "arguments: rungs: 0: has to be"),
        ({"seeds": -1}, "arguments: selection.seeds: -1: has to be"),
        ({"generation": {}}, "`generation` is for causal and seq2seq alone"),
        ({"positive": "good"}, "`positive` is the class that `metric: f1` of"),
        ({"rung_metric": "bleu"}, "arguments: rung_metric: 'bleu': has to be"),
        ({"full_finetune": True, "seeds": 0}, "`full_finetune` is of the final selection"),
        ({"data": {"train": "t.jsonl", "valid": "v.jsonl"}}, "arguments: data.valid: unknown key"),
        ({"data": pa.table({"text": ["a"]})}, "data is a Table, allowed: a folder, a file, a Hub"),
        ({"data": None}, "data is None, allowed: a folder, a file, a Hub name, or"),
        ({"data": {"train": pa.table({"text": ["a"]})}}, "arguments: data.train"),
        ({"out": None}, "out is None, allowed: a path"),
        ({"out": "a\0b"}, "out is 'a\\x00b', allowed: a path"),
        ({"training": "fast"}, "training is 'fast', allowed: a mapping, as in a study file"),
        ({"training": [1]}, "training is a list, allowed: a mapping, as in a study file"),
        ({"generation": 3}, "generation is 3, allowed: a mapping, as in a study file"),
        ({"engine": None}, "engine is None, allowed: a mapping, as in a study file"),
        ({"objectives": None}, "objectives is None, allowed: a list of names"),
    ],
)
def test_wrong_arguments_are_refused(model_folder, data_folder, tmp_path, change, told):
    arguments = {"model": model_folder, "data": data_folder, "out": tmp_path / "out"} | change
    with pytest.raises(ConfigError) as refusal:
        autopeft.search(**arguments)
    assert told in str(refusal.value)
    assert not tree(tmp_path)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: autopeft.load_genotype(None), "path is None, allowed: a path"),
        (lambda: autopeft.load("a\0b"), r"folder is .*, allowed: a path"),
        (lambda: autopeft.load("x", device="cuda:99"), "device 'cuda:99' cannot be used: "),
        (lambda: autopeft.load("x", device="foo"), "device 'foo' cannot be used: "),
        (lambda: autopeft.load("x", dtype="bfloat16"), "dtype is 'bfloat16', allowed: such as"),
        (lambda: autopeft.load("x", dtype=torch.int8), "dtype is torch.int8, allowed: such as"),
        (lambda: autopeft.method(["lora"]), r"no method `\['lora'\]`: .*allowed: head, lora"),
        (lambda: autopeft.AdapterBank(["x"]), "a bank needs an adapter, each by a name"),
        (lambda: autopeft.Study(3), "folder is 3, allowed: a path"),
        (lambda: autopeft.attach(tiny_model("bert"), "g.yaml", seed=0), "genotype is 'g.yaml', al"),
        (lambda: autopeft.attach(nn.Linear(2, 2), MIXED, seed=0), "model is a Linear, allowed"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, told):
    with pytest.raises((ConfigError, DataError), match=told):
        call()


class Wanderer(Silent):
    """Changes the working folder once the search is planned."""

    def planned(self, plan):
        os.chdir("elsewhere")


def test_search_stays_in_its_folder_and_leaves_optuna_as_it_was(
    search, data_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere" / "study").mkdir(parents=True)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        study = search(data_folder, "study", trials=1, cache=False, watcher=Wanderer())
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
    assert len(study.records()) == 1
    assert study.folder == tmp_path / "study"
    assert not any((tmp_path / "elsewhere" / "study").iterdir())


def test_names_of_the_package():
    for name in autopeft.__all__:
        assert getattr(autopeft, name).__name__.lower() == name.lower()
    with pytest.raises(AttributeError, match="has no attribute 'sreach'"):
        _ = autopeft.sreach


def backbone_of(model):
    """The parameters that are neither of the ops nor of the head."""
    base = f"{model.base_model_prefix}."
    return {name: tensor for name, tensor in state(model).items() if name.startswith(base)}


@pytest.mark.parametrize("family", as_params(FAMILIES))
def test_attached_genotype_trains_in_a_plain_loop(family):
    model = tiny_model(family).requires_grad_(requires_grad=True)
    before, hooks = state(model), sum(len(m._forward_hooks) for m in model.modules())
    attention = model.config._attn_implementation
    injection = autopeft.attach(model, MIXED, seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    head = {name for name in before if not name.startswith(f"{model.base_model_prefix}.")}
    ops = {name for name, _ in model.named_parameters() if name.startswith("autopeft_ops.")}
    assert trained == head | ops
    assert ops

    rows = tiny_rows(24)
    batch = tiny_batch(model, 24)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(**batch).logits, rows.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        if name in ops:
            assert parameter.grad.count_nonzero(), name

    with torch.no_grad():
        changed = model(**batch).logits
    injection.remove()
    assert all(p.requires_grad for p in model.parameters())
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    assert model.config._attn_implementation == attention
    after = state(model)
    assert after.keys() == before.keys()
    assert same_bits(backbone_of(model), {k: v for k, v in before.items() if k not in head})
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, changed), "the ops did something"


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
@pytest.mark.parametrize("trained", [(), ("classifier",), ("classifier", "embeddings.")])
def test_what_was_trained_before_an_attach_is_so_after_its_removal(family, trained):
    model = tiny_model(family)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in trained))
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    autopeft.attach(model, LORA, seed=0).remove()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_ops_are_removed_once(family):
    model, sharing = tiny_model(family), genotype(op(Form.LOWRANK, Tap.ATTN_IN, Tap.K, 2))
    before = state(model)
    first = autopeft.attach(model, sharing, seed=0)
    first.remove()
    first.remove()
    assert same_bits(state(model), before)
    second = autopeft.attach(model, sharing, seed=0)
    first.remove()
    assert any(name.startswith("autopeft_ops") for name in model.state_dict()), "of the second"
    second.remove()
    assert same_bits(state(model), before)


LORA = genotype(op(Form.LOWRANK, Tap.ATTN_IN, Tap.Q, 2))


@pytest.mark.parametrize(
    ("one", "asked", "attention"),
    [
        (LORA, {}, "sdpa"),
        (MIXED, {}, "autopeft_sdpa"),
        (LORA, {"kernel": "eager"}, "autopeft_eager"),
        (MIXED, {"kernel": "eager"}, "autopeft_eager"),
    ],
)
def test_attach_leaves_attention_as_it_is_unless_an_op_acts_inside(one, asked, attention):
    model = tiny_model("llama")
    model.set_attn_implementation("sdpa")
    injection = autopeft.attach(model, one, seed=0, **asked)
    assert model.config._attn_implementation == attention
    injection.remove()
    assert model.config._attn_implementation == "sdpa"


def test_attach_depends_on_its_seed():
    tensors = []
    for seed in (0, 0, 1):
        model = tiny_model("bert")
        injection = autopeft.attach(model, MIXED, seed=seed)
        tensors.append({k: v.clone() for k, v in injection.tensors(0).items()})
    assert same_bits(tensors[0], tensors[1])
    assert not same_bits(tensors[0], tensors[2])


def test_genotype_of_another_depth_is_not_attached():
    with pytest.raises(ConfigError, match="the genotype is for 2 layers, the model has 3"):
        autopeft.attach(tiny_model("roberta"), autopeft.Genotype(2, (), 1e-3), seed=0)


CHOOSING = [Form.FISH, Form.LT_SFT, Form.DIFF_PRUNING, Form.ADALORA, Form.SPARSE_BOTTLENECK]


@pytest.mark.parametrize("form", CHOOSING)
def test_what_a_cohort_lets_choose_is_not_attached(form):
    """A plain loop would train all of it, or what chance has chosen."""
    model = tiny_model("bert")
    before, hooks = state(model), sum(len(m._forward_pre_hooks) for m in model.modules())
    ops = op(form, Tap.ATTN_IN, Tap.Q, 4), op(Form.LOWRANK, Tap.ATTN_IN, Tap.V, 4)
    with pytest.raises(ConfigError) as refusal:
        autopeft.attach(model, genotype(*ops), seed=0)
    assert str(refusal.value) == (
        f"a loop of one's own lets no op choose what to train, as these have to: {form} "
        "attn_in->q; autopeft train genotype.yaml --study study.yaml does"
    )
    assert same_bits(state(model), before)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_what_is_attached_needs_nothing_of_a_cohort():
    for form in set(Form) - set(CHOOSING):
        for name in ("begin", "watch", "choose", "settle", "penalty"):
            assert getattr(FORM_CLASSES[form], name) is getattr(StackedOp, name), (form, name)


def test_refused_attach_leaves_the_model_alone():
    model = tiny_model("bert")
    before = state(model)
    model.classifier = nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, TASK.n_outputs))
    with pytest.raises(DataError, match=r"`classifier\.0` of the task head is a BatchNorm1d"):
        autopeft.attach(model, MIXED, seed=0)
    assert not any(name.startswith("autopeft_ops") for name in model.state_dict())
    assert not any(p.requires_grad for p in model.bert.parameters())
    assert same_bits(backbone_of(model), {k: before[k] for k in backbone_of(model)})
    injection = autopeft.attach(fine := tiny_model("bert"), MIXED, seed=0)
    with pytest.raises(ConfigError, match="this model has ops already; remove them first"):
        autopeft.attach(fine, MIXED, seed=0)
    injection.remove()


# What a user can mean by `data`.


def test_folder_of_files_in_any_format(tmp_path):
    rows = [{"text_a": "a", "text_b": "b", "label": 1}]
    with (tmp_path / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "validation.parquet")
    write_jsonl(tmp_path / "test.jsonl", rows)
    (tmp_path / "README.md").touch()
    assert data_section(tmp_path) == {
        "train": str(tmp_path / "train.csv"),
        "validation": str(tmp_path / "validation.parquet"),
        "test": str(tmp_path / "test.jsonl"),
        "text": ["text_a", "text_b"],
    }
    assert data_section(str(tmp_path / "validation.parquet")) == {
        "train": str(tmp_path / "validation.parquet"),
        "text": ["text_a", "text_b"],
    }


@pytest.mark.parametrize("name", ["train.CSV", "train.Jsonl", "train.jsonl"])
def test_suffix_and_blank_lines_are_read_as_the_reader_does(tmp_path, name):
    row = '{"text_a": "a", "text_b": "b", "label": 1}\n'
    content = "text_a,text_b,label\na,b,1\n" if name == "train.CSV" else f"\n \n{row}"
    (tmp_path / name).write_text(content)
    for data in (tmp_path, tmp_path / name):
        assert data_section(data) == {
            "train": str(tmp_path / name),
            "text": ["text_a", "text_b"],
        }
    assert data_section("none.CSV") == {"train": "none.CSV"}


def test_one_file_of_several_is_the_same_on_every_machine(tmp_path):
    for name in ("train.CSV", "train.csv", "train.PARQUET", "train.txt"):
        (tmp_path / name).touch()
    (tmp_path / "train.jsonl").mkdir()
    assert data_section(tmp_path) == {"train": str(tmp_path / "train.csv")}


def test_single_text_needs_no_columns(tmp_path):
    file = write_jsonl(tmp_path / "train.jsonl", rows_of(2, 0))
    assert data_section(tmp_path) == {"train": str(file)}
    assert data_section(file) == {"train": str(file)}


def test_name_that_is_no_file_is_on_the_hub():
    assert data_section("glue/sst2") == {"hub": "glue/sst2"}
    assert data_section("none.jsonl") == {"train": "none.jsonl"}


def test_mapping_is_taken_as_it_is(tmp_path):
    assert data_section({"train": tmp_path, "text": ["a", "b"]}) == {
        "train": str(tmp_path),
        "text": ["a", "b"],
    }


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", json.dumps("x").encode()])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_file_that_is_not_sound_is_left_to_the_reader(tmp_path, content, suffix):
    file = tmp_path / f"train{suffix}"
    file.write_bytes(content)
    assert data_section(file) == {"train": str(file)}


def test_folder_without_a_train_file(tmp_path):
    (tmp_path / "test.jsonl").touch()
    with pytest.raises(DataError, match=r"has no train file \(train\.jsonl, train\.csv, train\.p"):
        data_section(tmp_path)


def test_folder_of_a_study_may_be_a_text(tmp_path):
    study = autopeft.Study(str(tmp_path / "study"))
    assert study == autopeft.Study(tmp_path / "study")
    with pytest.raises(DataError, match="cannot read"):
        study.front()


def test_public_names_can_be_seen_and_used():
    assert set(autopeft.__all__) <= set(dir(autopeft))
    assert all(getattr(autopeft, name).__doc__ for name in autopeft.__all__)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert all(issubclass(kind, autopeft.AutopeftError) for kind in kinds)
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        autopeft.serch()
