"""How the page looks on paper."""

import pytest
from in_browser import until

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
