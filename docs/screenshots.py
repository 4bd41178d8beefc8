"""Make the README's pictures of the dashboard from the study in `trials/reference-sst2`.

python docs/screenshots.py        # needs Debian's chromium and chromium-driver
"""

import base64
import shutil
import tempfile
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from autopeft.dashboard.report import report
from autopeft.study.folder import Study

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "images"
HEAT = "#trial=24"
"""A trial of several ops, for the picture of the heat map."""
PICTURES = {  # name: width, height, colour scheme, part of the page or None for its top
    "dashboard-light": (1280, 900, "light", None),
    "dashboard-dark": (1280, 900, "dark", None),
    "dashboard-heat": (1280, 900, "light", "#heat"),
    "dashboard-phone": (390, 1500, "light", None),
}


def main() -> None:
    """Open the page of the reference study at each size and save what is seen."""
    OUT.mkdir(exist_ok=True)
    study = Study(ROOT / "trials" / "reference-sst2")
    with tempfile.TemporaryDirectory() as folder:
        page = report([study]).save(Path(folder) / "report.html")
        driver = _browser(Path(folder) / "profile")
        try:
            for name, (width, height, scheme, part) in PICTURES.items():
                _open(driver, page, width, height, scheme, part)
                (OUT / f"{name}.png").write_bytes(_picture(driver, width, height, part))
        finally:
            driver.quit()


def _browser(profile: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))


def _open(
    driver: webdriver.Chrome, page: Path, width: int, height: int, scheme: str, part: str | None
) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get("about:blank")
    driver.get(f"{page.as_uri()}{HEAT if part else ''}")
    drawn = "return !!document.querySelector('#front-plot .scatterlayer .point')"
    WebDriverWait(driver, 60).until(lambda _: driver.execute_script(drawn))


def _picture(driver: webdriver.Chrome, width: int, height: int, part: str | None) -> bytes:
    clip: dict[str, Any] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    if part is not None:
        box = driver.execute_script(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}",
            part,
        )
        clip |= box
    shot = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip}
    )
    return base64.b64decode(shot["data"])


if __name__ == "__main__":
    main()
