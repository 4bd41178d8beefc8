"""The file: whole, sealed, small; whatever a name holds, it stays a text."""

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hostile import PAYLOADS, hostile_study
from synthetic_study import make_study

from autopeft.dashboard import pareto
from autopeft.dashboard.compare import told_apart
from autopeft.dashboard.figure import script
from autopeft.dashboard.info import study_info
from autopeft.dashboard.page import payload, payload_json, policy, render
from autopeft.dashboard.report import records_csv, report
from autopeft.errors import ConfigError
from autopeft.records import Metric
from autopeft.selection import Contender, Selection
from autopeft.study.folder import Study


class Page(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts = [], []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "script"

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def html(info):
    return render([info])


def test_nothing_is_loaded_from_elsewhere(html):
    for tag, attributes in Page(html).tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "action", "srcset"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), (tag, value)
        assert not [name for name in attributes if name.startswith("on")]


def test_policy_admits_these_scripts_and_no_network(html):
    page = Page(html)
    (meta,) = (a for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert meta["content"] == policy(live=False)
    assert "default-src 'none'" in meta["content"]
    assert "connect-src 'none'" in meta["content"]
    assert "unsafe-eval" not in meta["content"]
    scripts = re.search(r"script-src ([^;]*)", meta["content"]).group(1).split()
    data, *run = page.scripts
    assert scripts == [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in run
    ]
    assert json.loads(data)["studies"][0]["name"] == "sixty"


def test_plotly_is_embedded_once(html):
    assert html.count(script()) == 1
    assert "Made by autopeft " in html


def test_answer_and_front_need_no_script(html, info):
    assert f'<h1 id="headline">{info.verdict.headline}</h1>' in html
    _, static = re.findall(r"<noscript>(.*?)</noscript>", html, re.DOTALL)
    shown = re.findall(r"<tr><td>(\d+)</td>.*?<td>([\d,]+)</td>", static)
    numbers, params = zip(*shown, strict=True)
    assert [int(number) for number in numbers] == list(info.front.trials)
    sizes = [int(text.replace(",", "")) for text in params]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("text", PAYLOADS[::7])
def test_hostile_names_make_no_tag(tmp_path, text, html):
    hostile = render([hostile_study(tmp_path / "study", text)])
    page, plain = Page(hostile), Page(html)
    known = {tag for tag, _ in plain.tags} | {"details", "summary"}  # of what is long
    assert {tag for tag, _ in page.tags} <= known
    assert len(page.scripts) == len(plain.scripts) == 3
    assert json.loads(page.scripts[0])["studies"][0]["name"] == text
    assert text not in hostile
    assert not [a for _, a in page.tags for name in a if name.startswith("on")]


def test_plotly_gets_no_markup(tmp_path):
    """It reads tags in every text of a figure; those of data are escaped."""
    data = payload([hostile_study(tmp_path / "study", "<a href='https://example.org'>")] * 2)
    plots = [cost["figure"]["plot"] for study in data["studies"] for cost in study["costs"]]
    plots += [figure["plot"] for study in data["studies"] for figure in study["figures"]]
    plots += [figure["plot"] for figure in data["compare"]]
    told = json.dumps(plots)
    assert "<a" not in told
    assert "&lt;a" in told


def test_json_of_the_page_is_that_of_the_server(info, html):
    assert json.loads(Page(html).scripts[0]) == json.loads(payload_json([info]))


def test_columns_hold_the_trials(info):
    columns = payload([info])["studies"][0]["columns"]
    assert {len(values) for values in columns.values()} == {len(info.trials)}
    assert columns["quality"] == [trial.quality for trial in info.trials]
    kinds = payload([info])["studies"][0]["kinds"]
    for trial, ops in zip(info.trials, columns["ops"], strict=True):
        told = [(*kinds[kind], tuple(sizes), tuple(params)) for kind, sizes, params, _ in ops]
        assert told == [(op.name, op.read, op.write, op.sizes, op.params) for op in trial.ops]


def test_every_scored_trial_is_a_point_of_the_plot(info):
    (cost, *_) = info.costs
    figure = pareto.pareto(info, cost)
    drawn = {
        i: (x, y)
        for trace in figure.plot["data"]
        if trace.get("name") in pareto.SYMBOLS
        for i, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True)
    }
    assert sorted(drawn) == list(range(len(info.trials)))
    for i, trial in enumerate(info.trials):
        if trial.quality is not None:
            assert drawn[i][1] == pytest.approx(trial.quality, rel=1e-5)
        assert drawn[i][0] == pytest.approx(trial.params or 10.0, rel=1e-5)
    assert len(figure.rows) == len(info.trials)


def test_many_points_are_thinned_to_distinct_places(monkeypatch, info):
    monkeypatch.setattr(pareto, "MOST_DRAWN", 10)
    figure = pareto.pareto(info, info.costs[0])
    sizes = {t["name"]: len(t["customdata"]) for t in figure.plot["data"] if "customdata" in t}
    states = [trial.state for trial in info.trials]
    assert 1 < sizes["dominated"] <= states.count("dominated")
    assert len(figure.rows) == len(info.trials)


@pytest.mark.parametrize("n_trials", [0, 1])
def test_small_studies_have_a_page(tmp_path, n_trials):
    html = render([study_info(make_study(tmp_path / "small", n_trials))])
    assert "</html>" in html


def test_study_of_failures_has_a_page(tmp_path):
    info = study_info(make_study(tmp_path / "failed", 5, failing=1.0, rungs=1))
    data = payload([info])["studies"][0]
    assert [figure["title"] for figure in data["figures"]][-1] == "Failures by cause"
    assert "All 5 trials failed" in render([info])


def test_final_selection_is_drawn_with_its_intervals(info):
    contenders = tuple(
        Contender(trial, role, 10, 0.1, "words", 0.9, 0.8 + trial / 100, 0.01, 0.7, 0.95, 3)
        for trial, role in ((3, "recommended"), (1, "lora"))
    )
    selection = Selection("accuracy", 900, contenders, (), 3)
    data = payload([replace(info, selection=selection)])["studies"][0]
    (figure,) = [item for item in data["figures"] if item["kind"] == "selected"]
    fresh, searched = figure["plot"]["data"]
    assert fresh["y"] == ["1: tuned LoRA", "3: search's choice"]
    assert fresh["x"] == [0.81, 0.83]
    assert fresh["error_x"]["array"] == pytest.approx([0.14, 0.12])
    assert fresh["error_x"]["arrayminus"] == pytest.approx([0.11, 0.13])
    assert searched["x"] == [0.9, 0.9]
    numbers = [data["columns"]["trial"][row] for row in fresh["customdata"]]
    assert numbers == [1, 3]


def test_studies_of_one_name_are_told_apart_by_their_paths(tmp_path):
    folders = [tmp_path / name for name in ("a/run", "b/run", "c/other")]
    infos = [study_info(make_study(folder, 1)) for folder in folders]
    names = [info.name for info in told_apart([*infos, infos[2]])]
    assert names == ["a/run", "b/run", "other", "other"]
    html = report([Study(folder) for folder in folders]).html
    assert '"name":"a/run"' in html


def test_several_studies_are_compared(tmp_path, info):
    other = study_info(make_study(tmp_path / "other", 30, seed=1))
    titles = [figure["title"] for figure in payload([info, other])["compare"]]
    assert titles == ["Fronts of all studies", "What 2 studies attain"]
    assert payload([info])["compare"] == []
    third = study_info(make_study(tmp_path / "third", 30, metric="f1"))
    (fronts,) = payload([info, third])["compare"]
    assert "The metrics differ: do not compare heights." in fronts["description"]


def test_csv_is_the_records(study):
    records = study.records()
    rows = list(csv.DictReader(io.StringIO(records_csv([("sixty", records)]))))
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert row["study"] == "sixty"
        for name in ("trial", "rung", "replicate", "seed", "trainable_params", "steps"):
            assert int(row[name]) == getattr(record, name)
        for name in ("fraction", "seconds"):
            assert float(row[name]) == getattr(record, name)
        for name in ("state", "hash", "started", "worker", "precision", "split"):
            assert row[name] == getattr(record, name)
        score = record.metrics.get("accuracy")
        assert (row["accuracy"], row["accuracy stderr"]) == (
            (repr(score.value), repr(score.stderr)) if score else ("", "")
        )
        latency = record.objectives.get("latency_ms")
        assert row["objective latency_ms"] == (repr(latency.value) if latency else "")
        assert (row["failure"], row["message"]) == (
            (record.failure.kind, record.failure.message) if record.failure else ("", "")
        )


def test_csv_holds_no_formula(study):
    text = records_csv([("=HYPERLINK(1)", study.records()[:1])])
    assert text.splitlines()[1].startswith("'=HYPERLINK(1),0,0,0,")
    record = replace(study.records()[0], metrics={"=1+1": Metric(0.5, 0.1)})
    assert ",'=1+1,'=1+1 stderr," in records_csv([("study", [record])]).splitlines()[0]


def test_report_is_saved_and_shown_inline(study, tmp_path):
    shown = study.report()
    assert shown.save(tmp_path / "r.html").read_text(encoding="utf-8") == shown.html
    inline = shown._repr_html_()
    assert inline.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert 'sandbox="allow-scripts allow-downloads"' in inline
    frame = Page(inline)
    assert [tag for tag, _ in frame.tags] == ["iframe"]
    assert frame.tags[0][1]["srcdoc"] == shown.html


def test_report_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        report([])
