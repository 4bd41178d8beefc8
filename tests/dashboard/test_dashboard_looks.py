"""How the page looks: what fits, its contrast, and on paper."""

import pytest
from in_browser import until
from synthetic_study import make_study

from autopeft.handle import Study
from autopeft.selection import Contender, Selection
from autopeft.selection_file import write_selection

pytestmark = pytest.mark.browser

A4_PIXELS = 703
"""The width of A4 within the margins of the page."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_has_every_figure_in_light(browser, view, page, scheme):
    """Printed before anything was scrolled into sight."""
    run = view(page, scheme=scheme)
    until(browser, "one('#front-plot .legendtext')")
    state = (
        "({widths: all('.plot').map((plot) => plot.querySelector('.main-svg')?.clientWidth), "
        "ink: one('#front-plot .legendtext').style.fill})"
    )
    before = run(f"return {state}")
    assert None in before["widths"]
    run(f"addEventListener('beforeprint', () => {{ window.printed = {state}; }})")
    browser.execute_cdp_cmd("Page.printToPDF", {})
    printed = run("return window.printed")
    assert set(printed["widths"]) == {660}
    assert printed["ink"] == "rgb(26, 30, 35)"
    until(browser, f"one('#front-plot .legendtext').style.fill === '{before['ink']}'")
    after = run(f"return {state}")
    assert after["widths"][0] == before["widths"][0]
    assert run("return document.documentElement.dataset.theme") == "system"


def test_nothing_is_wider_than_the_paper(browser, view, page):
    run = view(page, width=A4_PIXELS)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert run("return document.documentElement.scrollWidth") <= A4_PIXELS
    wide = "return all('.scroll').filter((box) => box.scrollWidth > box.clientWidth).length"
    assert run(wide) == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


CONTRAST = """
const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const channels = (colours) => {
  pen.clearRect(0, 0, 1, 1);
  for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
  return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255);
};
const luminance = (colours) => channels(colours)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const ground = (node) => (!node ? []
  : [...ground(node.parentElement), getComputedStyle(node).backgroundColor]);
const contrast = (node, colour) => {
  const two = [luminance(ground(node)), luminance([...ground(node), colour])];
  return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
};
const written = (root) => [root, ...root.querySelectorAll("*")].filter((node) =>
  node.checkVisibility() && !node.closest("svg, script, option, .hidden, :disabled, [aria-hidden]")
  && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
const pale = (root) => written(root).map((node) => {
  const style = getComputedStyle(node), size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  const found = contrast(node, style.color) * style.opacity;
  return found < least ? `${node.className} ${node.textContent}: ${found.toFixed(2)}` : null;
}).filter(Boolean);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(view, page, scheme):
    """As WCAG 2 AA asks: 4.5 for text, 3 for large text and for the borders of controls."""
    run = view(page, scheme=scheme)
    run("const n = one('#pager select'); n.value = 100; n.dispatchEvent(new Event('change'))")
    run("one('#live').hidden = false; one('#live').textContent = 'live'")
    assert run(CONTRAST + "return pale(document.body)") == []
    every = """
      const found = [];
      for (const row of all("#table tbody tr").map((node) => node.dataset.row)) {
        one(`#table tr[data-row="${row}"]`).click();
        found.push(...pale(one(`#table tr[data-row="${row}"]`)), ...pale(one("#heat")));
      }
      return found;
    """
    assert run(CONTRAST + every) == []
    placeholder = "getComputedStyle(one('#filter'), '::placeholder').color"
    assert run(f"{CONTRAST} return contrast(one('#filter'), {placeholder})") >= 4.5
    edges = run(
        CONTRAST + "return all('button:not(thead *), select, input[type=search]')"
        ".map((node) => contrast(node.parentElement, getComputedStyle(node).borderTopColor))"
    )
    assert min(edges) >= 3


def test_nothing_leaves_a_gap(view, page, study, tmp_path):
    """Below the front, and beside the only figure of a comparison."""
    run = view(page, height=900)
    box = "const box = (selector) => one(selector).getBoundingClientRect();"
    for _ in range(3):
        run("one('#table tbody tr[aria-selected=true]').nextSibling.click()")
        gap = "return box('#front').bottom - box('#front > :last-child').bottom"
        assert run(box + gap) < 30
    other = Study(make_study(tmp_path / "other", 12, metric="f1").folder)
    run = view(study.report(other).save(tmp_path / "r.html"))
    assert run("return all('#compare figure').length") == 1
    assert run(f"{box} return box('#compare').width - box('#compare figure').width") < 1


def test_heads_break_after_underscores(view, page):
    heads = "return all('#heat thead tr:last-child th').map((head) => head.innerHTML)"
    heads = view(page)(heads)
    assert "<wbr>attn_<wbr>norm" in heads


def test_nothing_is_shown_that_needs_a_script(browser, page, info):
    from selenium.webdriver.common.by import By

    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get("about:blank")
        browser.get(page.as_uri())
        shown = browser.find_element(By.TAG_NAME, "body").text
        controls = browser.find_elements(By.CSS_SELECTOR, "button, select, input, a")
        assert not [node for node in controls if node.is_displayed()]
        empty = browser.find_elements(By.CSS_SELECTOR, ".panel")
        assert not [node for node in empty if node.is_displayed() and not node.text]
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert info.verdict.headline in shown
    assert info.trial(info.front.trials[0]).summary in shown


def test_what_is_recommended_can_be_taken_from_beside_the_front(browser, view, tmp_path):
    """The final selection keeps the weights of those that it compares."""
    study = Study(make_study(tmp_path / "study", 20, failing=0).folder)
    on_front = {point.trial for point in study.front().points}
    chosen, other = [trial for trial in range(20) if trial not in on_front][:2]
    pair = tuple(
        Contender(trial, "method", 10, 0.01, "words", 0.9, 0.9, 0.01, 0.8, 1.0, 3)
        for trial in (chosen, other)
    )
    selection = Selection("accuracy", 500, pair, (), recommended=chosen)
    write_selection(study.selection_file, selection)
    run = view(study.report().save(tmp_path / "report.html"))
    told = "return one('#details').textContent"
    assert f"autopeft export {study.folder} --pick {chosen} --to native" in run(told)
    run(f"location.hash = '#trial={other}'")
    until(browser, f"one('#details h2').textContent === 'Trial {other}'")
    assert "autopeft export" not in run(told)
