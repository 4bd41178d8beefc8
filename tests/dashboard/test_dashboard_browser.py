"""The page in a real browser, from a file and from the server."""

import csv
import io
import re
import threading
from dataclasses import replace

import pytest
from hostile import PAYLOADS, hostile_study
from in_browser import SHORT, errors, keys, see_everything, selected, until
from synthetic_study import make_study

from autopeft.dashboard.info import study_info
from autopeft.dashboard.page import render
from autopeft.handle import Study
from autopeft.objectives import PARAMS

pytestmark = pytest.mark.browser


def test_file_opens_without_a_network_or_an_error(browser, view, page, info):
    run = view(page)
    see_everything(browser, run)
    assert errors(browser) == []
    assert run("return performance.getEntriesByType('resource').map((r) => r.name)") == []
    assert run("return one('h1').textContent") == info.verdict.headline
    titles = run("return all('h2').map((h) => h.textContent)")
    for title in ("Where the parameters sit", "Trials", "Trials side by side", "Workers over time"):
        assert title in titles
    assert run("return all('.plot').every((p) => p.querySelector('svg'))")


def test_policy_keeps_the_page_from_reaching_out(browser, view, page):
    run = view(page)
    blocked = run(
        """
        const done = fetch("http://127.0.0.1:9/").then(() => "reached", () => "refused");
        const image = new Image();
        image.src = "http://127.0.0.1:9/x.png";
        const script = document.createElement("script");
        script.textContent = "window.pwned = 1";
        document.body.append(script);
        return done;
        """
    )
    assert blocked == "refused"
    assert run("return window.pwned === undefined")
    told = " ".join(entry["message"] for entry in errors(browser))
    assert all(f"{kind}-src" in told for kind in ("connect", "img", "script"))


def test_point_selects_row_details_and_heat_map(browser, view, page, info):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    run = view(page)
    until(browser, "one('#front-plot .point')")
    before = selected(run)
    assert before["details"] == f"Trial {info.front.recommended}"
    run("one('#front-plot').scrollIntoView({block: 'center', behavior: 'instant'})")
    trace = run("return one('#front-plot').data.findIndex((t) => t.name === 'front')")
    rows = run("return one('#front-plot').data[arguments[0]].customdata", trace)
    points = browser.find_elements(By.CSS_SELECTOR, "#front-plot .scatterlayer .trace")[trace]
    points = points.find_elements(By.CSS_SELECTOR, ".point")
    assert len(points) == len(rows) == len(info.front.trials)
    for place in (1, len(points) // 2):
        trial = info.trials[rows[place]]
        ActionChains(browser).move_to_element(points[place]).perform()
        until(browser, "!one('#tip').hidden")
        assert f"Trial {trial.trial} " in run("return one('#tip').textContent")
        ActionChains(browser).click().perform()
        until(browser, f"location.hash === '#trial={trial.trial}'")
        until(
            browser,
            f"one('#details-title').textContent === 'Trial {trial.trial}'",
        )
        now = selected(run)
        assert now["table"] == f"{trial.trial}"
        assert now["heat"] == f"trial {trial.trial}"
    cells = run("return all('#heat .cell:not(.none)').length")
    assert cells == len(
        {(layer, op.write) for op in trial.ops for layer, n in enumerate(op.sizes) if n}
    )


def test_row_selects_the_point(browser, view, page, info):
    run = view(page)
    until(browser, "one('#front-plot .point')")
    run("all('#table tbody tr')[7].click()")
    trial = int(selected(run)["table"])
    params = info.trial(trial).params
    until(browser, f"one('#front-plot').data.at(-1).x[0] === {params}")


def test_address_selects(browser, view, page, info):
    trial = next(t.trial for t in reversed(info.trials) if t.quality is not None)
    run = view(f"{page.as_uri()}#trial={trial}")
    assert selected(run)["details"] == f"Trial {trial}"
    assert selected(run)["table"] == f"{trial}"
    run("location.hash = '#trial=0'")
    until(browser, "one('#details-title').textContent === 'Trial 0'")
    run = view(f"{page.as_uri()}#trial=4000&study=%3Cb%3E")
    assert selected(run)["details"] == f"Trial {info.front.recommended}"


def test_address_turns_to_a_study_with_fewer_costs(browser, view, info, tmp_path):
    fewer = replace(info, name="fewer", costs=info.costs[:1], trials=tuple(
        replace(trial, costs={PARAMS: trial.params}) for trial in info.trials))  # fmt: skip
    page = tmp_path / "r.html"
    page.write_text(render([info, fewer]), encoding="utf-8")
    run = view(page)
    until(browser, "one('#front-plot .point')")
    run("const c = one('#cost'); c.value = '2'; c.dispatchEvent(new Event('change'))")
    until(browser, "one('#front-title').textContent.endsWith('inference latency')")
    run("location.hash = '#study=1&trial=2'")
    until(browser, "one('#study-name').textContent === 'fewer'")
    assert run("return one('#front-title').textContent").endswith(info.costs[0].label)
    until(browser, f"one('#front-plot').data.at(-1).x[0] === {info.trial(2).params}")
    assert selected(run)["details"] == "Trial 2"
    assert errors(browser) == []


def test_keyboard_alone_reaches_every_trial(browser, view, page, info):
    run = view(page)
    for _ in range(60):
        keys(browser, "TAB")
        if run("return document.activeElement.tagName") == "TR":
            break
    assert run("return document.activeElement.tagName") == "TR"
    keys(browser, "HOME")
    seen = [selected(run)["hash"]]
    for _ in range(len(info.trials) - 1):
        keys(browser, "ARROW_DOWN")
        seen.append(selected(run)["hash"])
    assert sorted(seen) == sorted(f"#trial={trial.trial}" for trial in info.trials)
    assert run("return document.activeElement.getAttribute('aria-selected')") == "true"
    keys(browser, "ARROW_DOWN")
    assert selected(run)["hash"] == seen[-1]
    keys(browser, "HOME")
    assert selected(run)["hash"] == seen[0]
    keys(browser, "END")
    assert selected(run)["hash"] == seen[-1]
    keys(browser, "PAGE_UP")
    assert selected(run)["hash"] == seen[-26]
    assert errors(browser) == []


def accessible(browser, selector):
    """What a screen reader is told of a node."""
    root = browser.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
    query = {"nodeId": root, "selector": selector}
    node = browser.execute_cdp_cmd("DOM.querySelector", query)
    told = browser.execute_cdp_cmd(
        "Accessibility.getPartialAXTree", {"nodeId": node["nodeId"], "fetchRelatives": False}
    )["nodes"][0]
    return told["role"]["value"], told["name"]["value"], {
        item["name"]: item["value"].get("value") for item in told["properties"]
    }  # fmt: skip


def test_screen_reader_is_told_the_selection(browser, view, page, info):
    view(page)
    best = info.trial(info.front.recommended)
    role, name, properties = accessible(browser, "#table tr[aria-selected=true]")
    assert (role, properties["selected"]) == ("row", True)
    assert name.startswith(f"Trial {best.trial}, front, accuracy {best.quality:.4f}, ")
    assert accessible(browser, "#table")[:2] == ("grid", "Trials of sixty")
    assert accessible(browser, "#table tbody td")[0] == "gridcell"
    assert accessible(browser, "#front-plot")[0] == "group"


def test_table_sorts_and_filters(view, page, info):
    run = view(page)
    column = "return all('#table tbody td:nth-child(%d)').map((c) => c.textContent)"
    run("one('#table button[data-key=params]').click()")
    shown = [int(text.replace(",", "")) for text in run(column % 4)]
    assert shown == sorted(trial.params for trial in info.trials)[:25]
    assert run("return all('#table th[aria-sort=ascending]').length") == 1
    run("one('#table button[data-key=params]').click()")
    shown = [int(text.replace(",", "")) for text in run(column % 4)]
    assert shown == sorted((trial.params for trial in info.trials), reverse=True)[:25]
    run("const f = one('#filter'); f.value = 'prefix lora';"
        "f.dispatchEvent(new Event('input'))")  # fmt: skip
    wanted = [t for t in info.trials if "prefix" in t.summary and "LoRA" in t.summary]
    assert f"of {len(wanted)}" in run("return one('#pager').textContent")
    run("one('.check input[value=front]').click()")
    left = [trial for trial in wanted if trial.state != "front"]
    assert f"of {len(left)}" in run("return one('#pager').textContent")


def test_cost_can_be_chosen(browser, view, page, info):
    run = view(page)
    until(browser, "one('#front-plot .point')")
    labels = run("return all('#cost option').map((o) => o.textContent)")
    assert labels == [cost.label for cost in info.costs]
    assert run("return one('#cost').value") == "0"
    run("const c = one('#cost'); c.value = '2'; c.dispatchEvent(new Event('change'))")
    until(browser, "one('#front-title').textContent.endsWith('inference latency')")
    best = info.trial(info.front.recommended)
    until(
        browser,
        f"one('#front-plot').data.at(-1).x[0] === {best.costs['latency_ms']}",
    )


@pytest.mark.parametrize(("scheme", "theme"), [("light", "dark"), ("dark", "light")])
def test_light_and_dark(browser, view, page, scheme, theme):
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    ink = "return one('#front-plot .legendtext').style.fill"
    run = view(page, scheme=scheme)
    until(browser, "one('#front-plot .legendtext')")
    first = run(background), run(ink)
    while run("return document.documentElement.dataset.theme") != theme:
        run("one('#theme').click()")
    until(browser, f"one('#front-plot .legendtext').style.fill !== '{first[1]}'")
    second = run(background), run(ink)
    brightness = [sum(map(int, re.findall(r"\d+", colour))) for colour in (*first, *second)]
    assert [value > 380 for value in brightness] == (
        [True, False, False, True] if scheme == "light" else [False, True, True, False]
    )
    run("localStorage.clear()")


@pytest.mark.parametrize("width", [320, 390])
def test_narrow_screen_and_400_percent_zoom(browser, view, page, info, width):
    """1280 pixels at 400 % are 320: nothing but tables may be wider than the screen."""
    run = view(page, width=width, height=800)
    see_everything(browser, run)
    assert run("return document.documentElement.scrollWidth <= innerWidth")
    assert run("return innerWidth") == width
    axis = "one('#front-plot .yaxislayer-above, #front-plot .yaxislayer')"
    assert run(f"return {axis}.getBBox().height") > 200
    cells = run(
        """
        const edge = one("#trials .scroll").getBoundingClientRect().right + 1;
        return [...one("#table tbody tr").children].filter((cell) => cell.checkVisibility())
          .map((cell) => [cell.getBoundingClientRect().right <= edge, cell.textContent]);
        """
    )
    assert all(inside for inside, _ in cells)
    assert cells[-1][1].startswith(info.trial(int(cells[0][1])).summary)


def test_every_figure_has_title_description_and_data(browser, view, page):
    run = view(page)
    assert run("return all('figure .plot').length") >= 6
    figures = run(
        """
        return all(".plot").map((plot) => ["labelledby", "describedby"].map(
          (name) => document.getElementById(plot.getAttribute(`aria-${name}`)).textContent));
        """
    )
    assert all(title and said for title, said in figures)
    run("for (const d of all('figure details')) d.open = true")
    until(browser, "all('figure details table').length === "
          "all('figure details').length")  # fmt: skip
    assert run("return all('figure details').every((d) => d.querySelector('tbody tr'))")


def test_csv_of_the_page_is_the_trials(browser, view, page, info, tmp_path):
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    run = view(page)
    run("one('#csv').click()")
    target = tmp_path / "sixty.csv"
    for _ in range(600):
        if target.exists():
            break
        run("return 0")
        threading.Event().wait(0.1)
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    assert sorted(int(row["trial"]) for row in rows) == [trial.trial for trial in info.trials]
    for row in rows:
        trial = info.trial(int(row["trial"]))
        assert row["state"] == trial.state
        assert row["summary"] == trial.summary
        for name in ("quality", "stderr", "params", "seconds", "learning_rate"):
            value = getattr(trial, name)
            assert (float(row[name]) if row[name] else None) == value


@pytest.mark.parametrize(("n_trials", "failing"), [(0, 0.0), (1, 0.0), (12, 1.0)])
def test_small_and_failed_studies_look_right(browser, view, tmp_path, n_trials, failing):
    made = Study(make_study(tmp_path / "s", n_trials, failing=failing, rungs=1).folder)
    run = view(made.report().save(tmp_path / "r.html"))
    see_everything(browser, run)
    assert errors(browser) == []
    assert run("return all('#table tbody tr').length") == n_trials
    assert run("return one('h1').textContent") == study_info(made).verdict.headline


def test_studies_are_compared(browser, view, study, tmp_path):
    other = Study(make_study(tmp_path / "other", 30, seed=1).folder)
    run = view(study.report(other).save(tmp_path / "r.html"))
    see_everything(browser, run)
    assert run("return all('#compare figure').length") == 2
    run("all('#studies button')[1].click()")
    assert selected(run)["hash"] == f"#study=1&trial={other.front().recommended}"
    assert run("return one('#study-name').textContent") == "other"
    assert errors(browser) == []


def test_notebook_shows_it_inline(browser, study, tmp_path):
    outer = tmp_path / "notebook.html"
    outer.write_text(f"<!doctype html><body>{study.report()._repr_html_()}", encoding="utf-8")
    browser.get_log("browser")
    browser.get(outer.as_uri())
    from selenium.webdriver.common.by import By

    browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
    until(browser, "document.documentElement.dataset.ready === 'yes'")
    browser.execute_script(SHORT + "all('#table tbody tr')[3].click()")
    row = "all('#table tbody tr')[3].ariaSelected"
    assert browser.execute_script(SHORT + f"return {row}") == "true"
    assert errors(browser) == []
    browser.switch_to.default_content()


def test_hundred_payloads_in_every_name_run_nothing(browser, view, tmp_path):
    """Also with the policy taken away, so that escaping alone is what is tested."""
    infos = [hostile_study(tmp_path / f"{i}", text) for i, text in enumerate(PAYLOADS)]
    html = render(infos)
    bare, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert count == 1
    page = tmp_path / "bare.html"
    page.write_text(bare, encoding="utf-8")
    run = view(page)
    see_everything(browser, run)
    for i, text in enumerate(PAYLOADS):
        run(f"all('#studies button')[{i}].click()")
        assert run("return one('#study-name').textContent") == text
        run("all('#table tbody tr')[all('#table tbody tr').length - 1].click()")
        run("for (const d of all('details')) d.open = true")
        if i % 25 == 0:
            see_everything(browser, run)
        assert run("return window.pwned === undefined")
    foreign = run(
        "return all('img, iframe, object, embed, video, audio, base, form, marquee').length"
    )
    assert foreign == 0
    assert run("return all('a').every((a) => !a.href.startsWith('javascript'))")
