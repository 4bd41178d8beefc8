"""A study of texts whose rungs below the top go by the likelihood of the answers."""

import contextlib
import sqlite3
from collections import Counter
from dataclasses import replace

import pytest
from pydantic import ValidationError
from study_factory import record_files, results, write_jsonl
from tiny_language import texts, writing_backbone

from autopeft.advice import Advice
from autopeft.cli.progress import tell_record
from autopeft.cli.selected import show_selection
from autopeft.dashboard.info import study_info
from autopeft.dashboard.page import render
from autopeft.dashboard.report import records_csv
from autopeft.engines.workbench import Workbench
from autopeft.errors import ConfigError
from autopeft.export.pick import pick
from autopeft.front import front_of
from autopeft.objectives import PARAMS
from autopeft.records import Failure
from autopeft.study import rungs
from autopeft.study.cache import RecordCache
from autopeft.study.contenders import kind_of
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.jobs import read_jobs
from autopeft.study.prepare import prepare
from autopeft.study.promote import promotions
from autopeft.study.rungs import standing_of
from autopeft.study.search import run_search
from autopeft.training import trials

TRIALS = 9
OWN = "my.py:shared"
CODE = '''
def shared(predictions, references):
    """The mean share of words in place; what was not written breaks it."""
    pairs = [(p.split(), r[0].split()) for p, r in zip(predictions, references)]
    return sum(sum(a == b for a, b in zip(p, r)) / len(r) for p, r in pairs) / len(pairs)
'''


@pytest.fixture(scope="module", autouse=True)
def _small_studies_have_rungs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rungs, "FEWEST_TRIALS", TRIALS)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a tiny decoder, rows to continue, and a metric of one's own."""
    folder = tmp_path_factory.mktemp("base")
    backbone = writing_backbone("llama")
    backbone.model.save_pretrained(folder / "model")
    backbone.tokenizer.save_pretrained(folder / "model")
    for seed, (name, n_rows) in enumerate({"train": 36, "validation": 8}.items()):
        rows = texts(n_rows, seed=seed)
        pairs = zip(rows.texts, rows.labels, strict=True)
        plain = [{"source": source, "target": target} for (source,), target in pairs]
        write_jsonl(folder / f"{name}.jsonl", plain)
    (folder / "my.py").write_text(CODE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def laddered(spec_of, base):
    """A study of two rungs and at most four contenders."""

    def make(**more):
        values = {
            "model": str(base / "model"),
            "task": "causal",
            "data": {name: str(base / f"{name}.jsonl") for name in ("train", "validation")},
            "metric": OWN,
            "generation": {"max_target_length": 8, "separator": " "},
            "trials": TRIALS,
            "max_params": "50%",
            "methods": ["head", "lora", "bitfit"],
            "rungs": 2,
            "reduction": 3,
            "rung_metric": "likelihood",
            "selection": {"seeds": 2, "share": 0.9},
            "training": {"epochs": 3, "cohort": 3},
            "seed": 2,  # so that a method is paused
        }
        return spec_of(**(values | more))

    return make


@pytest.fixture(scope="module")
def written(base, laddered, tmp_path_factory):
    """The study, to be read only, and how often answers were asked for at (rung, replicate)."""
    asked, original, run = Counter(), trials.written, Workbench.run
    at = []

    def counted(*args, **more):
        asked.update(at[-1:])
        return original(*args, **more)

    def watched(self, job, wanted, progress):
        at.append((job.rung, job.replicate))
        yield from run(self, job, wanted, progress)
        at.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "written", counted)
        patch.setattr(Workbench, "run", watched)
        study = run_search(laddered(), tmp_path_factory.mktemp("whole") / "study", base=base)
    return study, asked


@pytest.fixture(scope="module")
def whole(written):
    return written[0]


def searched(study, rung):
    return [r for r in study.records() if r.rung == rung and not r.replicate]


def test_nothing_is_written_below_the_top(written):
    study, asked = written
    assert set(asked) == {(1, 0), (1, 1), (1, 2)}
    assert not [record.failure for record in study.records() if record.failure]
    for record in searched(study, 0):
        assert set(record.metrics) == {"likelihood"}
        assert record.metrics["likelihood"].stderr > 0
        assert len(record.row_scores.values()) == 8
        assert set(record.objectives) == {"likelihood", PARAMS}
    for record in searched(study, 1):
        assert next(iter(record.metrics)) == OWN
        assert {"likelihood", "exact_match"} < set(record.metrics)


def test_promotions_go_by_the_likelihood(whole):
    standings = [
        standing_of(r, "likelihood", [PARAMS], baseline=kind_of(r.genotype) == "lora")
        for r in searched(whole, 0)
    ]
    (promoted,) = promotions(standings, trials=TRIALS, rungs=2, reduction=3)
    assert 1 < len(promoted) < TRIALS
    assert tuple(record.trial for record in searched(whole, 1)) == promoted
    with contextlib.closing(sqlite3.connect(whole.database)) as connection:
        told = connection.execute("SELECT value FROM trial_values WHERE objective = 0").fetchall()
        noted = connection.execute("SELECT intermediate_value FROM trial_intermediate_values")
        low = sorted(value for (value,) in noted)
    assert {value for (value,) in told} == {r.metrics[OWN].value for r in searched(whole, 1)}
    assert low == sorted(r.metrics["likelihood"].value for r in searched(whole, 0))


def test_front_has_only_what_has_the_metric(whole):
    top = searched(whole, 1)
    front = whole.front()
    expected = front_of(top, OWN, "maximize", front.reference.trainable_params, str)
    assert [(p.trial, p.quality) for p in front.points] == [
        (p.trial, p.quality) for p in expected.points
    ]
    assert front.hypervolume == expected.hypervolume
    paused = next(r.trial for r in searched(whole, 0) if r.trial not in {t.trial for t in top})
    with pytest.raises(ConfigError, match=f"trial {paused} has not been completed"):
        pick(front, searched(whole, 0) + top, str(paused))


def test_methods_that_were_paused_are_in_the_final_selection(whole):
    selection = whole.selection()
    assert selection.metric == OWN
    quality = {record.trial: record.metrics[OWN].value for record in searched(whole, 1)}
    found = {item.trial: item.search_quality for item in selection.contenders}
    assert found == {trial: quality.get(trial) for trial in found}
    assert {item.role for item in selection.contenders} >= {"lora", "head"}
    assert None in found.values(), "or this tests nothing"


class Stop(Silent):
    """Presses Ctrl-C once so many records have come."""

    def __init__(self, records):
        self.left = records

    def measured(self, record, summary, front):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_search_ends_as_the_uninterrupted_one(whole, base, laddered, tmp_path):
    folder = tmp_path / "study"
    with pytest.raises(KeyboardInterrupt):
        run_search(laddered(), folder, watcher=Stop(TRIALS + 1), base=base)
    assert len(record_files(Study(folder))) == TRIALS + 1
    with pytest.raises(ConfigError, match='rung_metric: was "likelihood", is now null'):
        run_search(laddered(rung_metric=None), folder, base=base)
    study = run_search(laddered(), folder, base=base)
    assert results(study) == results(whole)
    assert (study.front(), study.selection()) == (whole.front(), whole.selection())


def test_study_that_nobody_has_finished_has_an_empty_front(base, laddered, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_search(laddered(), tmp_path / "study", watcher=Stop(3), base=base)
    study = Study(tmp_path / "study")
    assert study.front().points == ()
    record = study.records()[0]
    value = record.metrics["likelihood"]
    assert f": likelihood {value.value:.4f} ± {value.stderr:.4f}, " in tell_record(
        record, "LoRA", study.front()
    )
    info = study_info(study)
    assert {trial.state for trial in info.trials} == {"stopped early"}
    assert info.verdict.headline == "Nothing within the budget has a score yet"
    render([info])


def test_page_and_table_tell_both_metrics(whole):
    info = study_info(whole)
    top = {record.trial for record in searched(whole, 1)}
    for trial in info.trials:
        low = searched(whole, 0)[trial.trial].metrics["likelihood"]
        assert trial.measurements[0].on_rungs == (low.value, low.stderr)
        assert (trial.quality is None) == (trial.trial not in top)
        assert (trial.state == "stopped early") == (trial.trial not in top)
    text = render([info])
    assert "likelihood 0." in text
    assert "Mean likelihood over seeds at each level" in text
    head, first, *_ = records_csv([("study", whole.records())]).splitlines()
    row = dict(zip(head.split(","), first.split(","), strict=True))
    assert (row[OWN], float(row["likelihood"]) > 0) == ("", True)


def test_trial_without_ops_is_the_frozen_backbone(whole, capsys):
    show_selection(whole.selection(), Advice(None))
    assert "frozen backbone" in capsys.readouterr().out
    info = study_info(whole)
    assert (info.trials[0].method, info.trials[0].summary) == ("frozen backbone",) * 2
    assert "head" not in " ".join(info.verdict.points)


def test_cache_tells_rungs_of_different_metrics_apart(whole, tmp_path):
    def cache(**conditions):
        known = {"conditions": conditions, "name": "study", "note": pytest.fail}
        return RecordCache(tmp_path, whole.folder, **known)

    low = read_jobs(whole.folder)[0]
    top = replace(low, rung=1, until=None)
    failed = {"state": "failed", "failure": Failure("nan", "no"), "metrics": {}, "objectives": {}}
    without = dict.fromkeys(("weights", "weights_sha256", "row_scores"))
    record = replace(whole.records()[0], **failed, **without)
    for job in (low, top):
        cache(rung_metric="likelihood").keep(job, low.trials[0], record)
        assert cache(rung_metric="likelihood").take(job, low.trials[0]) is not None
    assert cache().take(low, low.trials[0]) is None
    assert cache().take(top, low.trials[0]) is not None, "what is trained to its end is the same"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"task": "classification", "metric": None, "generation": None},
            "is for causal and seq2seq",
        ),
        ({"rung_metric": "bleu"}, "Input should be 'likelihood'"),
    ],
)
def test_only_the_likelihood_and_only_of_texts(laddered, more, message):
    with pytest.raises(ValidationError, match=message) as told:
        laddered(**more)
    assert told.value.error_count() == 1


def test_folds_with_fewer_answers_than_validation_are_told(laddered, tmp_path):
    for seed, (name, n_rows) in enumerate({"train": 32, "validation": 8}.items()):
        rows = texts(n_rows, seed=seed)
        told = [
            {"source": source, "target": answer}
            | ({"references": [answer, "b", "c"]} if name == "validation" else {})
            for (source,), answer in zip(rows.texts, rows.labels, strict=True)
        ]
        write_jsonl(tmp_path / f"{name}.jsonl", told)
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    data = {**files, "references": "references"}
    facts = prepare(laddered(data=data, metric="exact_match"), tmp_path).facts
    assert (facts.unseen, facts.answered) == ("fold", True)
    assert (facts.other_answers or "").startswith("train: 1.0 answers a row to score against")


def short_answers(laddered, folder, metric, **answers):
    """A study whose rows have these answers."""
    for name in ("train", "validation"):
        rows = [{"source": f"w{i}", "target": one} for i, one in enumerate(answers[name], 3)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    files = {name: str(folder / f"{name}.jsonl") for name in answers}
    return laddered(data=files, metric=metric, rung_metric=None)


@pytest.mark.parametrize("model", [None, "absent"])
def test_a_metric_of_no_use_for_these_answers_is_refused_before_the_model(
    laddered, tmp_path, model
):
    spec = short_answers(laddered, tmp_path, "bleu", train=["w3", "w4"], validation=["w3", "w4"])
    spec = spec.model_copy(update={"model": model or spec.model})
    with pytest.raises(ConfigError, match=r"'bleu' of perfect answers .* is 0\.00"):
        prepare(spec, tmp_path)


def test_a_metric_that_misses_some_answers_is_told(laddered, tmp_path):
    some = ["w3 w4 w5", "w3"]
    notes = prepare(
        short_answers(laddered, tmp_path, "rouge_2", train=some, validation=some), tmp_path
    ).notes
    assert sum("'rouge_2' of perfect answers" in note for note in notes) == 1
