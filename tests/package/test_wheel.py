"""What is published is what is tested: the wheel is built and used without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "-o",
        str(out),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


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
