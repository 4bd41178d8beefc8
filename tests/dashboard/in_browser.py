"""What tests say to a page that is open in a browser."""

PATIENCE_SECONDS = 90
SHORT = """
const all = (selector) => [...document.querySelectorAll(selector)];
const one = (selector) => document.querySelector(selector);
"""


def until(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE_SECONDS, 0.05).until(
        lambda _: browser.execute_script(f"{SHORT} return !!({condition})")
    )


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def see_everything(browser, run):
    """Scroll through the page, so that every figure is drawn."""
    for node in run("return all('.plot').map((_, i) => i)"):
        run("all('.plot')[arguments[0]].scrollIntoView()", node)
        until(browser, f"all('.plot')[{node}].querySelector('.main-svg')")


def selected(run):
    """What each part of the page says is selected."""
    return run(
        """
        const row = one('#table tr[aria-selected="true"] td');
        return {
          hash: location.hash,
          table: row && row.textContent,
          details: one("#details-title").textContent,
          heat: one("#heat .toggle button").textContent,
          plot: one("#front-plot").data.at(-1).x[0],
        };
        """
    )


def keys(browser, *names):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(browser).send_keys(*(getattr(Keys, name) for name in names)).perform()
