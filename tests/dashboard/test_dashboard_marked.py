"""What is selected, marked in the figures of a page in a real browser."""

from dataclasses import replace

import pytest
from synthetic_study import make_study

from autopeft.dashboard.info import study_info
from autopeft.dashboard.page import render
from autopeft.records import Objective
from autopeft.study.folder import Study

pytestmark = pytest.mark.browser

PATIENCE_SECONDS = 60
PLOT = "const plot = document.querySelector('%s .plot, %s.plot');"


@pytest.fixture
def open_page(browser, tmp_path):
    """Open the page of a study; what it returns draws a figure and runs script on its `plot`."""
    from selenium.webdriver.support.ui import WebDriverWait

    def run(selector, script):
        plot = PLOT % (selector, selector)
        wait = WebDriverWait(browser, PATIENCE_SECONDS, 0.05)
        browser.execute_script(f"{plot} plot.scrollIntoView({{behavior: 'instant'}});")
        wait.until(lambda _: browser.execute_script(f"{plot} return plot.data !== undefined;"))
        return browser.execute_script(f"{plot} {script}")

    def see(info):
        page = tmp_path / "page.html"
        page.write_text(render([info]), encoding="utf-8")
        browser.get(page.as_uri())
        return run

    return see


def test_learning_curve_is_marked_where_rungs_have_another_metric(open_page, by_likelihood):
    info = study_info(by_likelihood)
    run = open_page(info)
    x, y = run("figure.curves", "const {x, y} = plot.data.at(-1); return [x, y];")
    best = info.trial(info.front.recommended)
    by_steps = {}
    for item in best.measurements:
        by_steps.setdefault(item.steps, []).append(item.in_curve)
    assert x == sorted(by_steps)
    assert len(x) > 1
    assert y == pytest.approx([sum(by_steps[steps]) / len(by_steps[steps]) for steps in x])
    label = "return document.querySelector('#details .curve').getAttribute('aria-label');"
    assert run("figure.curves", label).startswith(f"likelihood from {y[0]:.4f} at {x[0]} steps")


def test_every_job_of_a_trial_is_marked(open_page, tmp_path):
    info = study_info(make_study(tmp_path / "made", 24))
    run = open_page(info)
    marked = run("figure.timeline", "return plot.data[0].selectedpoints;")
    own = [k for k, job in enumerate(info.jobs) if info.front.recommended in job.trials]
    assert marked == own
    assert len(own) > 1


def test_bytes_are_marked_where_their_axis_has_them(open_page, tmp_path):
    made = make_study(tmp_path / "made", 8, failing=0, rungs=1)
    memory = {"peak_memory_bytes": Objective(3.0 * 2**30, "B", None, "predicted")}
    records = [replace(record, objectives=record.objectives | memory) for record in made.records()]
    lines = "".join(record.to_json() + "\n" for record in records)
    (made.folder / "records.jsonl").write_text(lines, encoding="utf-8")
    info = study_info(Study(made.folder))
    run = open_page(info)
    number = [cost.name for cost in info.costs].index("peak_memory_bytes")
    choose = f"const cost = document.getElementById('cost'); cost.value = {number};"
    run("#front-plot", f"{choose} cost.dispatchEvent(new Event('change'));")
    assert run("#front-plot", "return plot.data.at(-1).x;") == [3]
