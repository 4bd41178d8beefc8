"""A type checker knows the public names, and no others."""

import subprocess
import sys
from pathlib import Path

import autopeft

ROOT = Path(__file__).resolve().parents[2]


def checked(script: Path, text: str) -> str:
    """What mypy says of a script that uses the package."""
    script.write_text(f"import autopeft\n{text}\n", encoding="utf-8")
    # What the package imports is left out: names are in question, and torch takes a minute.
    only = ["--follow-imports", "skip", "--config-file", "", "--cache-dir", str(script.parent)]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *only, str(ROOT / "autopeft" / "__init__.py"), str(script)],
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout + ran.stderr


def test_public_names_are_typed(tmp_path):
    names = "\n".join(f"autopeft.{name}" for name in (*autopeft.__all__, "__version__"))

    assert "Success" in checked(tmp_path / "user.py", names)


def test_others_are_refused(tmp_path):
    assert 'Module has no attribute "serch"' in checked(tmp_path / "user.py", "autopeft.serch()")
