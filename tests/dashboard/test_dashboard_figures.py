"""What the figures draw and say of a study."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from synthetic_study import make_study

from autopeft.dashboard import fronts
from autopeft.dashboard.figure import log_ticks, zero_of
from autopeft.dashboard.figures import learning_curves, timeline
from autopeft.dashboard.info import Cost, Job, study_info
from autopeft.dashboard.ops import part_of
from autopeft.dashboard.page import payload
from autopeft.dashboard.pareto import pareto
from autopeft.front import front_of
from autopeft.front_file import write_front
from autopeft.records import UNSEEN
from autopeft.space.taps import Tap
from autopeft.study.folder import Study

REFERENCES = Path(__file__).parents[2] / "trials"
MIB, GIB = 2**20, 2**30
OFF_THE_LINE = "off the line are there for another cost"


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    return study_info(make_study(tmp_path_factory.mktemp("made") / "sixty", 60))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A study that optimises latency, too."""
    study = make_study(tmp_path_factory.mktemp("made") / "three", 120, seed=3)
    max_params = study_info(study).max_params
    costs = {"trainable_params": None, "latency_ms": None}
    found = front_of(study.records(), "accuracy", "maximize", max_params, lambda _: "-", costs)
    write_front(study.folder, found)
    return study_info(study)


def line_of(figure):
    """Points of the front's step line, the way to the budget not counted."""
    trace = next(trace for trace in figure.plot["data"] if trace["mode"] == "lines")
    return list(zip(trace["x"], trace["y"], strict=True))[:-1]


def test_line_of_a_front_with_a_third_objective_never_goes_down(three):
    cost = three.costs[0]
    figure = pareto(three, cost)
    line = line_of(figure)
    assert len(line) < len(three.front.trials)
    assert line == sorted(line)
    assert [y for _, y in line] == sorted({y for _, y in line})
    front = next(trace for trace in figure.plot["data"] if trace.get("name") == "front")
    assert len(front["x"]) == len(three.front.trials)
    assert OFF_THE_LINE in figure.description
    beaten = [
        (line_trial, trial)
        for line_trial in map(three.trial, cost.front)
        for trial in three.trials
        if trial.quality is not None
        and trial.state != "over budget"
        and trial.params <= line_trial.params
        and trial.quality > line_trial.quality
    ]
    assert not beaten


def test_front_of_two_objectives_is_all_on_the_line(info):
    figure = pareto(info, info.costs[0])
    assert info.costs[0].front == info.front.trials
    assert OFF_THE_LINE not in figure.description
    assert OFF_THE_LINE in pareto(info, info.costs[-1]).description


def test_compared_fronts_go_up_whatever_else_they_optimise(info, three):
    figure = fronts.fronts([info, three])
    for trace in figure.plot["data"]:
        assert trace["y"] == sorted(set(trace["y"]))
    assert [row[1] for row in figure.rows if row[0] == "three"] == list(three.costs[0].front)
    assert "for another cost are left out" in figure.description
    again = replace(info, name="again")
    assert "left out" not in fronts.fronts([info, again]).description


def test_attention_to_the_encoder_is_attention():
    info = study_info(Study(REFERENCES / "reference-e2e"))
    lora = info.trial(1)
    assert lora.method == "lora"
    assert {op.write for op in lora.ops} == {"q", "v", "cross_q", "cross_v"}
    assert lora.attention_share == 1
    parts = {tap: part_of(Tap(tap)) for tap in info.taps}
    told = {"v": "attention", "cross_v": "cross-attention", "ffn_out": "feed-forward"}
    assert {name: parts[name] for name in told} == told
    assert list(dict.fromkeys(parts.values())) == ["attention", "cross-attention", "feed-forward"]
    assert part_of(Tap.EMBED) == "embeddings"


def test_heights_on_other_data_are_not_compared():
    sst2, trec = (study_info(Study(REFERENCES / f"reference-{name}")) for name in ("sst2", "trec"))
    figure = fronts.fronts([sst2, trec])
    assert "The data differ: do not compare heights." in figure.description
    assert figure.plot["layout"]["yaxis"]["title"]["text"] == "accuracy"


def test_repetitions_that_draw_other_rows_to_train_on_are_compared(tmp_path, info):
    again = make_study(tmp_path / "again", 30, seed=1)
    manifest = json.loads(again.manifest_file.read_text(encoding="utf-8"))
    manifest["data"]["sha256"] = "1" * 64
    again.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    assert len(payload([info, study_info(again)])["compare"]) == 2
    manifest["data"]["labels"] = ["1", "2", "3"]
    again.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    assert len(payload([info, study_info(again)])["compare"]) == 1


def costing(info, cost, *values):
    """The study, its first trials having these costs and all others none of it."""
    trials = tuple(
        replace(trial, costs={cost.name: value})
        for trial, value in zip(info.trials, values, strict=False)
    )
    return replace(info, trials=trials, costs=(cost,))


@pytest.mark.parametrize(
    ("values", "limit", "per", "title"),
    [
        ((2.0 * GIB, 1.5 * GIB), None, GIB, "peak training memory, predicted (GiB)"),
        ((2.0 * MIB, 1.5 * MIB), None, MIB, "peak training memory, predicted (MiB)"),
        ((2.0 * MIB, 1.5 * MIB), 3 * GIB, GIB, "peak training memory, predicted (GiB)"),
        ((0.0, 2.0), None, 1, "peak training memory, predicted (B)"),
        ((2.0**55,), None, 2**40, "peak training memory, predicted (TiB)"),
    ],
)
def test_bytes_are_drawn_in_powers_of_1024(info, values, limit, per, title):
    memory = "peak_memory_bytes"
    cost = Cost(
        memory, "peak training memory", "B", log=False, front=(1,), limit=limit, predicted=True
    )
    figure = pareto(costing(info, cost, *values), cost)
    layout = figure.plot["layout"]
    assert layout["xaxis"]["title"]["text"] == title
    assert layout["meta"]["per"] == per
    drawn = {
        row: x
        for trace in figure.plot["data"]
        for row, x in zip(trace.get("customdata") or (), trace["x"], strict=False)
    }
    assert drawn == pytest.approx({i: value / per for i, value in enumerate(values)}, rel=1e-5)
    assert [shape["x0"] for shape in layout.get("shapes", ())] == ([3] if limit else [])
    assert "at no more peak training memory." in figure.description


def test_bytes_of_several_orders_are_told_in_the_unit_of_the_least(info):
    cost = Cost("adapter_bytes", "adapter size", "B", log=True, front=(), limit=None)
    layout = pareto(costing(info, cost, 0.0, 3 * 1024.0, 9.0 * MIB), cost).plot["layout"]
    assert layout["xaxis"]["title"]["text"] == "adapter size (KiB)"
    assert layout["xaxis"]["ticktext"] == ["0", "1", "10", "100", "1k", "10k"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((20_000, 90_000), ["10k", "20k", "50k", "100k", "200k", "500k"]),
        ((768, 90_000), ["100", "1k", "10k", "100k"]),
        ((0, 20_000), ["0", "10k", "100k"]),
        ((0.02, 0.3), ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]),
        ((), ["10", "20", "50"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(values, texts):
    ticks = log_ticks(values, zero_of(values))
    assert ticks["ticktext"] == texts
    assert ticks["tickvals"] == sorted(ticks["tickvals"])


def test_page_has_what_the_learning_curves_show(by_likelihood):
    info = study_info(by_likelihood)
    (data,) = payload([info])["studies"]
    (figure,) = [item for item in data["figures"] if item["kind"] == "curves"]
    assert figure["head"] == ("trial", "steps", data["rung_metric"])
    assert (data["metric"], data["rung_metric"]) == ("bleu", "likelihood")
    curves = {}
    for number, measured in zip(
        data["columns"]["trial"], data["columns"]["measurements"], strict=True
    ):
        for _, _, steps, *_, value in measured:
            if value is not None:
                curves.setdefault((number, steps), []).append(value)
    for number, steps, value in figure["rows"]:
        assert value == pytest.approx(fmean(curves[number, steps]))
    assert {number for number, _, _ in figure["rows"]} >= {info.front.recommended}


@pytest.mark.parametrize("split", sorted(UNSEEN))
def test_no_curve_goes_over_rows_that_the_search_has_not_seen(info, split):
    measured = info.trials[1].measurements[0]
    assert measured.in_curve == measured.quality
    assert replace(measured, split=split).in_curve is None


def test_border_of_a_short_job_does_not_cover_it(info):
    start = "2026-01-31T12:00:00+00:00"
    later = "2026-01-31T12:16:40+00:00"
    jobs = (Job("one", start, 500.0, (0,)), Job("one", later, 2.0, (1,)))
    figure = timeline(replace(info, jobs=jobs))
    assert figure.plot["data"][0]["marker"]["line"]["width"] == [1, 0]
    assert figure.plot["layout"]["uniformtext"] == {"minsize": 10, "mode": "hide"}


def test_axis_of_time_says_which_time(info):
    assert timeline(info).plot["layout"]["xaxis"]["title"]["text"] == "time (UTC)"


def test_learning_curves_have_ticks_at_their_rungs(info):
    axis = learning_curves(info).plot["layout"]["xaxis"]
    assert axis["ticktext"] == ["63", "126", "189"]
    trial = next(trial for trial in info.trials if trial.rung == 2)
    first = trial.measurements[0]
    many = replace(
        trial, measurements=tuple(replace(first, steps=10 * steps) for steps in range(1, 20))
    )
    assert "tickvals" not in learning_curves(replace(info, trials=(many,))).plot["layout"]["xaxis"]


def test_lora_that_is_to_be_beaten_is_marked(info):
    (lora,) = info.verdict.loras
    assert info.trial(lora).is_lora
    (mark,) = [t for t in pareto(info, info.costs[0]).plot["data"] if t["meta"]["role"] == "lora"]
    assert [info.trials[row].trial for row in mark["customdata"]] == [lora]
    assert mark["name"] == "best LoRA"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("a" * 20 + "-" * 20 + "1", "short"), ["a" * 15 + "…" + "-" * 14 + "1", "short"]),
        (("a" * 20 + "1" + "b" * 20, "a" * 20 + "2" + "b" * 20), None),
    ],
)
def test_long_names_in_the_legend_lose_their_middle_unless_they_differ_there(info, names, shown):
    traces = fronts.fronts([replace(info, name=name) for name in names]).plot["data"]
    assert [trace["name"] for trace in traces] == (shown or list(names))


def test_no_two_of_many_studies_look_the_same(info):
    traces = fronts.fronts([info] * 36).plot["data"]
    looks = {
        (trace["meta"]["role"], trace["line"]["dash"], trace["marker"]["symbol"])
        for trace in traces
    }
    assert len(looks) == 36


def test_last_step_of_what_studies_attain_has_room(info):
    figure = fronts.attained([info, replace(info, name="again")])
    for trace in figure.plot["data"]:
        *_, last, end = trace["x"]
        assert 1.1 * last < end < 2 * last
        assert trace["y"][-1] == trace["y"][-2]
    assert len(figure.rows) == len(trace["x"]) - 1


def test_growth_is_drawn_from_nothing_and_only_where_there_is_any(info):
    def grown(*steps):
        data = payload([replace(info, trials=info.trials[:5], jobs=(), growth=steps)])
        title = "What more search bought"
        return [item for item in data["studies"][0]["figures"] if item["title"] == title]

    (figure,) = grown((0.0, 0.0), (10.0, 0.02855), (20.0, 0.02867), (30.0, 0.02867))
    assert figure["plot"]["layout"]["yaxis"]["rangemode"] == "tozero"
    assert "the search" in figure["plot"]["layout"]["xaxis"]["title"]["text"]
    assert grown((0.0, 0.0), (10.0, 0.02855), (10.0, 0.02855)) == []
    assert grown((0.0, 0.0), (30.0, 0.0)) == []
    assert grown() == []


def test_without_a_score_there_is_no_scale_and_trials_lie_at_the_bottom(tmp_path, info):
    for count in (0, 12):
        failed = study_info(make_study(tmp_path / f"{count}", count, failing=1, rungs=1))
        figure = pareto(failed, failed.costs[0])
        layout = figure.plot["layout"]
        assert "line" not in figure.description
        low, high = layout["yaxis"]["range"]
        assert layout["yaxis"]["showticklabels"] is False
        assert layout["xaxis"].get("showticklabels", True) == (count > 0)
        assert low < layout["meta"]["floor"] < low + 0.1 * (high - low)
    layout = pareto(info, info.costs[0]).plot["layout"]
    assert not {"range", "showticklabels"} & set(layout["yaxis"])


def test_nothing_stands_left_of_a_budget_that_is_below_all_trials(info):
    cost = Cost("trainable_params", "trainable parameters", "", log=True, front=(), limit=70)
    layout = pareto(costing(info, cost, 0.0, 5000.0), cost).plot["layout"]
    assert layout["meta"]["zero"] < layout["shapes"][0]["x0"]
    assert layout["xaxis"]["ticktext"] == ["0", "10", "100", "1k", "10k"]
