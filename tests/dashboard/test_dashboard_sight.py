"""What a reader has in sight: the answer at once, nothing cut off, nothing covered."""

from dataclasses import replace

import pytest
from in_browser import see_everything, until
from synthetic_study import make_study

from autopeft.dashboard.page import render
from autopeft.handle import Study

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tone": "tie"}, "Nothing beats LoRA at its size beyond noise"),
        (
            {"tone": "tie", "scored_on": "9 rows"},
            "Nothing beats tuned LoRA at its size beyond noise",
        ),
        ({"tone": "gain", "winners": (3,)}, "Trial 3 beats LoRA at its size beyond noise"),
        ({"tone": "gain", "winners": (3, 7)}, "Trials 3, 7 beat LoRA at its size beyond noise"),
        ({"tone": "gain", "winners": (1, 2, 3, 7)}, "4 trials beat LoRA at its size beyond noise"),
        ({"tone": "none"}, "Not compared with LoRA at its size"),
    ],
)
def test_whether_lora_is_beaten_stands_beside_quality_and_size(view, info, tmp_path, changes, said):
    changed = replace(info, verdict=replace(info.verdict, **{"winners": (), **changes}))
    (tmp_path / "r.html").write_text(render([changed]), encoding="utf-8")
    run = view(tmp_path / "r.html")
    merits = run("return all('#merits > div').map((div) => div.innerText)")
    labels = [text.split("\n")[-1] for text in merits[:2]]
    rows = " on 9 rows" if "scored_on" in changes else ""
    assert labels == [f"{info.metric}{rows}", "parameters (of the backbone)"]
    assert merits[2].replace("\n", " ") == said


def test_lora_and_letters_are_explained(view, page, info):
    run = view(page)
    (lora,) = info.verdict.loras
    run("location.hash = arguments[0]", f"#trial={lora}")
    tags = "all('#details .tag, #table tr[aria-selected=true] .tag').map((tag) => tag.textContent)"
    shown = run(f"return new Promise((done) => setTimeout(() => done({tags}), 200))")
    assert shown.count("best LoRA") == 2
    told = run("return one('#details .said').textContent")
    assert "r: rank or width" in told
    assert ("layers count from 0" in told) == ("in layer" in info.trial(lora).summary)


def test_quality_size_and_lora_stand_in_one_line(view, info, tmp_path):
    fresh = replace(info, verdict=replace(info.verdict, scored_on="1,382 rows"))
    (tmp_path / "r.html").write_text(render([fresh]), encoding="utf-8")
    run = view(tmp_path / "r.html", width=1280)
    tops = run("return all('#merits > div').map((div) => div.getBoundingClientRect().top)")
    assert len(tops) == 3
    assert len(set(tops)) == 1


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_tables_of_trials_and_measurements_are_not_cut_off(view, page, width):
    run = view(page, width=width)
    boxes = "['table.trials', 'table.measured', 'table.ops'].map((name) => one(name).parentElement)"
    assert run(f"return {boxes}.map((box) => box.scrollWidth - box.clientWidth)") == [0, 0, 0]


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_buttons_of_a_plot_cover_no_legend_and_no_title(browser, view, study, tmp_path, width):
    names = [f"a-name-with-every-setting-of-a-search-seed-{seed}" for seed in range(6)]
    studies = [make_study(tmp_path / name, 12, seed=k).folder for k, name in enumerate(names)]
    run = view(study.report(*map(Study, studies)).save(tmp_path / "r.html"), width=width)
    see_everything(browser, run)
    covered = """
      const box = (node) => node?.getBoundingClientRect();
      const meet = (a, b) => a && b && a.left < b.right && b.left < a.right && a.top < b.bottom
        && b.top < a.bottom;
      return all(".plot").map((plot) => [".legend", ".xtitle"].filter((name) =>
        meet(box(plot.querySelector(".modebar")), box(plot.querySelector(name)))));
    """
    assert set(map(tuple, run(covered))) == {()}
    inner = "return box('#compare .nsewdrag').height / box('#compare .plot').height"
    assert run(f"const box = (name) => one(name).getBoundingClientRect(); {inner}") > 0.3


def hover(browser, selector):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    until(browser, f"one('{selector} .point')")
    where = "{block: 'end', behavior: 'instant'}"  # a point that moves is missed
    browser.execute_script(f"document.querySelector('{selector}').scrollIntoView({where})")
    points = browser.find_elements(By.CSS_SELECTOR, f"{selector} .scatterlayer .point")
    ActionChains(browser).move_by_offset(1, 1).move_to_element(points[0]).perform()
    until(browser, "!one('#tip').hidden")
    return browser.execute_script("return document.querySelector('#tip').innerText")


def test_hover_tells_the_cost_of_the_axis_and_the_study(browser, view, study, tmp_path):
    other = Study(make_study(tmp_path / "other", 12, seed=1).folder)
    run = view(study.report(other).save(tmp_path / "r.html"), height=1600)
    assert hover(browser, "#compare .plot").split("\n")[0] in {"sixty", "other"}
    assert "latency" not in hover(browser, "#front-plot")
    run("const c = one('#cost'); c.value = 2; c.dispatchEvent(new Event('change'))")
    until(browser, "one('#front-plot .xtitle').textContent.includes('latency')")
    run("one('#tip').hidden = true")
    assert " ms" in hover(browser, "#front-plot")


def test_nothing_is_to_be_chosen_before_the_first_trial(view, tmp_path):
    run = view(Study(make_study(tmp_path / "s", 0).folder).report().save(tmp_path / "r.html"))
    assert run("return one('#details h2').textContent") == "No trial yet"
    assert "Choose" not in run("return one('#details').textContent")
