"""A study, its page, and a browser to see it in.

Where there is no browser the tests fail: they are run by name, so somebody wants them.
"""

import shutil
from dataclasses import replace

import pytest
from in_browser import SHORT, until
from synthetic_study import front_for, make_study

from autopeft.dashboard.info import study_info
from autopeft.front_file import write_front
from autopeft.handle import Study
from autopeft.records import Metric

BY_LIKELIHOOD = """\
model: tiny
task: seq2seq
data: {train: texts/train.jsonl}
metric: bleu
rung_metric: likelihood
space: unified
budget: {max_params: 1%, trials: 40}
rungs: 3
"""


@pytest.fixture(scope="module")
def by_likelihood(tmp_path_factory) -> Study:
    """A study whose rungs below the top have measured another metric than its own."""
    folder = tmp_path_factory.mktemp("made") / "texts"
    records = [
        replace(record, metrics={"bleu": Metric(score.value / 3, 0.01)} | record.metrics)
        if (score := record.metrics.get("likelihood")) and record.rung == 2
        else record
        for record in make_study(folder, 40, seed=3, metric="likelihood").records()
    ]
    lines = "".join(record.to_json() + "\n" for record in records)
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    write_front(folder, front_for([r for r in records if "bleu" in r.metrics], "bleu"))
    (folder / "study.yaml").write_text(BY_LIKELIHOOD, encoding="utf-8")
    return Study(folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(make_study(tmp_path_factory.mktemp("made") / "sixty", 60).folder)


@pytest.fixture(scope="module")
def info(study):
    return study_info(study)


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    return study.report().save(tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's Chromium, which finds no host but this one."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    assert all(paths), "chromium and chromedriver are missing: apt-get install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(paths[1]))
    driver.set_page_load_timeout(120)
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture
def view(browser):
    """Open a page at a width, in a scheme; what it returns runs script in the page."""

    def see(url, *, width=1400, height=1000, scheme="light"):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get("about:blank")  # the same page with another hash would not be loaded again
        browser.get_log("browser")
        browser.get(url if isinstance(url, str) else url.as_uri())
        until(browser, "document.documentElement.dataset.ready === 'yes'")
        return lambda script, *given: browser.execute_script(SHORT + script, *given)

    return see
