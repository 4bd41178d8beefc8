"""What is published is what is tested: the wheel is built and used without the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_links import LINK, PAGES

import autopeft

ROOT = Path(__file__).resolve().parents[2]


def build(kind: str, out: Path) -> Path:
    """The path of what was built."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "-o", str(out)]
    built = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The unpacked source distribution."""
    out = tmp_path_factory.mktemp("source")
    with tarfile.open(build("sdist", out)) as archive:
        archive.extractall(out, filter="data")
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return folder


def test_the_wheel_carries_spaces_methods_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for space in (ROOT / "search_spaces").glob("*.yaml"):
        assert f"autopeft/search_spaces/{space.name}" in names
    assert {"autopeft/space/methods.yaml", "autopeft/py.typed"} <= names
    for part in (ROOT / "autopeft" / "dashboard" / "templates").iterdir():
        assert f"autopeft/dashboard/templates/{part.name}" in names
    assert not [name for name in names if name.startswith(("tests/", "trials/", "docs/"))]


def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    script = (
        "import autopeft, sys; from autopeft.space.shipped import spaces_folder;"
        "print(autopeft.__file__); print(spaces_folder());"
        "sys.argv = ['autopeft', 'spaces', '--format', 'json'];"
        "from autopeft.cli.main import main; main()"
    )
    ran = subprocess.run(
        # -P keeps the working folder, and with it the checkout, off the path
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    home, spaces, listing = ran.stdout.splitlines()
    assert home.startswith(str(installed))
    assert spaces.startswith(str(installed))
    assert '"unified"' in listing


def test_the_wheel_tells_its_version_and_where_it_runs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    assert f"Version: {autopeft.__version__}" in lines
    assert "License-Expression: Apache-2.0" in lines
    assert "Classifier: Operating System :: POSIX :: Linux" in lines


def test_what_is_published_as_source_can_be_read_and_tested(source):
    pages = [source / page for page in PAGES]
    assert [page for page in pages if not page.is_file()] == []
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text("utf-8"))]
    assert [pair for pair in links if not pair[0].parent.joinpath(pair[1]).exists()] == []
    for needed in (".ci/check", "pyproject.toml", "tests/conftest.py", "trials/reference-sst2"):
        assert (source / needed).exists(), needed
    assert not list(source.rglob("__pycache__"))
