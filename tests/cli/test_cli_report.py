"""`autopeft report` and `autopeft serve`: a file, and a page on this machine."""

import csv
import os
import signal
import subprocess
import sys
from urllib.request import urlopen

import pytest

from autopeft import Study


def test_report_is_one_file(run, done, tmp_path):
    code, out, err = run("report", done.folder, "-o", tmp_path / "page.html")
    assert (code, out, err) == (0, f"{tmp_path / 'page.html'}\n", "")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html == Study(done.folder).report().html
    assert "Nothing has been learnt yet" in html, "of eighty rows by a model of random weights"


def test_csv_beside_the_report(run, done, tmp_path):
    code, out, _ = run("report", done.folder, "--csv")
    assert (code, out.split()) == (0, ["report.html", "report.csv"])
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [record.trial for record in done.records()]


def test_studies_are_compared(run, done, tmp_path):
    code, _, _ = run("report", done.folder, done.folder)
    assert code == 0
    assert "Fronts of all studies" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing"], 3, "missing is not a folder"),
        (["."], 3, "is not the folder of a study"),
        ([], 2, "Missing argument"),
        (["STUDY", "-o", "."], 2, "is a folder"),
        (["STUDY", "-o", "x.csv", "--csv"], 2, "end it in .html"),
        (["STUDY", "-o", "no/such/x.html"], 3, "cannot write"),
    ],
)
def test_what_report_refuses(run, done, tmp_path, arguments, code, message):
    given = [done.folder if word == "STUDY" else word for word in arguments]
    got, out, err = run("report", *given)
    assert (got, out) == (code, "")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_commands_that_the_page_offers_are_there(run):
    for command, options in (("export", ("--pick", "--to", "native", "merged", "-o")),
                             ("front", ("--genotype",))):  # fmt: skip
        code, out, _ = run(command, "--help")
        assert code == 0
        assert all(option in out for option in options)


def test_serve_refuses_other_addresses(run, done):
    code, _, err = run("serve", done.folder, "--host", "0.0.0.0")
    assert code == 2
    assert "--token" in err


def test_serve_until_it_is_interrupted(done, tmp_path):
    command = [sys.executable, "-m", "autopeft", "serve", str(done.folder), "--port", "0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with urlopen(url) as answer:
            assert b"autopeft" in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.communicate()
