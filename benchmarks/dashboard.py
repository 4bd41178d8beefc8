"""How large a page is, how long it takes to build and to open, beside optuna-dashboard.

A study is made up (`tests/synthetic_study.py`), written as autopeft's folder and as an Optuna study
of the same trials: number, values, genotype as user attribute. Ours is built by the command line in
a fresh process and opened from disk; theirs is a server on an in-memory storage, which asks no
database, opened at its page of the study. Both are opened in one Chromium, each with a fresh
profile, in turn (A B, A B, ...). `shown` is when the quality against the cost of the trials is
drawn; hovering is timed frame by frame while the pointer crosses the plot.
"""

import argparse
import contextlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from common import Measured, print_table, summary, versions, write_result

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
LONGEST_WAIT_SECONDS = 300
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
)
OURS_SHOWN = "document.querySelector('#front-plot .scatterlayer .point')"
THEIRS_SHOWN = (
    "[...document.querySelectorAll('.js-plotly-plot')].some((plot) => plot.data && "
    "plot.data.some((t) => t.mode === 'markers' && t.x && t.x.length > 1) && "
    "plot.querySelector('.main-svg'))"
)
HOVER = """
const done = arguments[arguments.length - 1];
const plot = document.querySelector("#front-plot .nsewdrag");
const box = plot.getBoundingClientRect();
const times = [];
let last = performance.now(), step = 0;
const move = () => {
  const now = performance.now();
  times.push(now - last);
  last = now;
  if (step++ === 90) return done(times.slice(1));
  plot.dispatchEvent(new MouseEvent("mousemove", { bubbles: true,
    clientX: box.left + (box.width * step) / 91, clientY: box.top + box.height * (0.3 + 0.004 * step) }));
  requestAnimationFrame(move);
};
document.getElementById("front-plot").scrollIntoView({ block: "center", behavior: "instant" });
requestAnimationFrame(move);
"""  # noqa: E501


def main() -> None:
    """Make studies, measure, write the result."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--trials", type=int, nargs="+", default=[1000, 10000], help="of each study")
    add("--repeats", type=int, default=3, help="measurements of each way")
    add("--studies", type=Path, help="folder that keeps the made-up studies for another run")
    add("--note", default="", help="what else is to be said of the machine")
    add("--out", type=Path, default=HERE / "results" / "dashboard.json", help="result")
    add("--serve", type=Path, help=argparse.SUPPRESS)  # optuna-dashboard, in this process
    add("--port", type=int, default=0, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.serve:
        serve_optuna(args.serve, args.port)
        return
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for n_trials in args.trials:
            study = (args.studies or Path(folder)) / f"{n_trials}"
            measured[str(n_trials)] = compare(study, n_trials, args.repeats)
    told = {key: value["summary"] for key, value in measured.items()}
    result = {
        "benchmark": "dashboard",
        "note": args.note,
        "summary": told,
        "measurements": {key: value["measurements"] for key, value in measured.items()},
        "peer_versions": versions("optuna-dashboard", "optuna", "plotly", "selenium"),
    }
    write_result(args.out, result)
    rows = [
        [f"{trials} trials, {name}", *(f"{item[key]:.3g}" for key in ("median", "min", "max"))]
        for trials, items in told.items()
        for name, item in items.items()
        if isinstance(item, dict)
    ]
    print_table(["", "median", "min", "max"], rows)


def compare(folder: Path, n_trials: int, repeats: int) -> Measured:
    """Both ways on one study, in turn."""
    from synthetic_study import make_study  # noqa: PLC0415

    if not (folder / "front.json").exists():
        make_study(folder, n_trials)
    ours, theirs = [], []
    for repeat in range(repeats):
        ours.append(measure_ours(folder))
        theirs.append(measure_theirs(folder))
        print(f"{n_trials} trials, repeat {repeat + 1}/{repeats}", ours[-1], theirs[-1])
    total = summary([item["build_seconds"] + item["shown_seconds"] for item in ours])
    other = summary([item["start_seconds"] + item["shown_seconds"] for item in theirs])
    return {
        "measurements": {"autopeft": ours, "optuna-dashboard": theirs},
        "summary": {
            "page_mb": ours[0]["page_mb"],
            "build_seconds": summary([item["build_seconds"] for item in ours]),
            "build_cpu_seconds": summary([item["build_cpu_seconds"] for item in ours]),
            "open_seconds": summary([item["shown_seconds"] for item in ours]),
            "hover_frame_ms": summary([item["hover_median_ms"] for item in ours]),
            "hover_frame_p95_ms": summary([item["hover_p95_ms"] for item in ours]),
            "total_seconds": total,
            "optuna_dashboard_open_seconds": summary([item["shown_seconds"] for item in theirs]),
            "optuna_dashboard_total_seconds": other,
            "total_ratio": round(total["median"] / other["median"], 3),
            "open_ratio": round(
                summary([item["shown_seconds"] for item in ours])["median"]
                / summary([item["shown_seconds"] for item in theirs])["median"],
                3,
            ),
        },
    }


def measure_ours(folder: Path) -> Measured:
    """Build the page in a fresh process, open it from disk, hover over it."""
    page = folder / "report.html"
    start, spent = time.perf_counter(), _child_cpu_seconds()
    command = [sys.executable, "-m", "autopeft", "report", str(folder), "-o", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    build, cpu = time.perf_counter() - start, _child_cpu_seconds() - spent
    with browser() as driver:
        shown = open_page(driver, page.as_uri(), OURS_SHOWN)
        driver.execute_cdp_cmd("Page.bringToFront", {})
        frames = sorted(driver.execute_async_script(HOVER))
    return {
        "build_seconds": build,
        "build_cpu_seconds": cpu,
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "shown_seconds": shown,
        "hover_median_ms": frames[len(frames) // 2],
        "hover_p95_ms": frames[int(0.95 * len(frames))],
    }


def _child_cpu_seconds() -> float:
    """Processor time of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_theirs(folder: Path) -> Measured:
    """Start optuna-dashboard in a fresh process and open its page of the study."""
    port = 18_765
    command = [sys.executable, __file__, "--serve", str(folder), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        ready = json.loads(server.stdout.readline() if server.stdout else "")
        start = time.perf_counter()
        while True:
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/api/studies"):
                break
            time.sleep(0.02)
        started = time.perf_counter() - start + ready["import_seconds"]
        with browser() as driver:
            url = f"http://127.0.0.1:{port}/dashboard/studies/0"
            shown = open_page(driver, url, THEIRS_SHOWN)
    finally:
        server.kill()
        server.wait()
    return {"start_seconds": started, "shown_seconds": shown}


def serve_optuna(folder: Path, port: int) -> None:
    """The same trials in an Optuna study, shown by optuna-dashboard. Filling it is not timed."""
    start = time.perf_counter()
    import optuna  # noqa: PLC0415
    from optuna_dashboard import run_server  # noqa: PLC0415

    imported = time.perf_counter() - start
    from autopeft.record_files import read_jsonl  # noqa: PLC0415

    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(directions=["maximize", "minimize"], storage=storage)
    best: dict[int, Any] = {}
    for record in read_jsonl(folder / "records.jsonl"):
        if record.state == "complete":
            best[record.trial] = record
    for record in best.values():
        rate = record.genotype["training"]["learning_rate"]
        study.add_trial(
            optuna.create_trial(
                values=[record.metrics["accuracy"].value, float(record.trainable_params)],
                params={"learning_rate": rate, "ops": len(record.genotype["ops"])},
                distributions={
                    "learning_rate": optuna.distributions.FloatDistribution(1e-5, 1, log=True),
                    "ops": optuna.distributions.IntDistribution(0, 50),
                },
                user_attrs={"genotype": record.genotype},
            )
        )
    print(json.dumps({"import_seconds": imported}), flush=True)
    run_server(storage, host="127.0.0.1", port=port)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium with a fresh profile."""
    from selenium import webdriver  # noqa: PLC0415
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(
            options=options, service=Service(str(shutil.which("chromedriver")))
        )
        driver.set_script_timeout(LONGEST_WAIT_SECONDS)
        driver.set_page_load_timeout(LONGEST_WAIT_SECONDS)
        try:
            yield driver
        finally:
            driver.quit()


def open_page(driver: Any, url: str, shown: str) -> float:
    """Seconds from the start of loading until the condition holds and a frame is painted."""
    driver.get("about:blank")
    start = time.perf_counter()
    driver.get(url)
    while not driver.execute_script(f"return !!({shown})"):
        if time.perf_counter() - start > LONGEST_WAIT_SECONDS:
            raise SystemExit(f"{url} shows nothing after {LONGEST_WAIT_SECONDS} s")
        time.sleep(0.01)
    driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
