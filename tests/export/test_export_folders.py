"""Where an export comes to lie, what is said where it cannot, and names of folders in it."""

import subprocess
import sys

import pytest
from study_factory import tree
from tiny import lora
from winners import LORA, make_winner

import autopeft
from autopeft.errors import ConfigError
from autopeft.export.adapter import Description
from autopeft.export.run import TARGETS, export
from autopeft.space.taps import Tap

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
from autopeft.cli.main import main
sys.argv[0] = "autopeft"
main()
"""


def here(_):
    return "."


def linked(folder):
    (folder / "real").mkdir()
    (folder / "link").symlink_to(folder / "real")
    return "link"


def dangling(folder):
    (folder / "link").symlink_to(folder / "nowhere")
    return "link"


def after_a_crash(folder):
    (folder / "out").mkdir()
    (folder / "out" / ".out.x.tmp").touch()
    return "out"


@pytest.mark.parametrize("place", [here, linked, dangling, after_a_crash])
def test_an_empty_folder_is_filled(done, run, tmp_path, monkeypatch, place):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    name = place(tmp_path / "work")
    code, out, err = run("export", done.folder, "--pick", "best", "--to", "yaml", "-o", name)
    assert code == 0, err
    assert out.endswith(f" -> {name} (yaml)\n")
    found = (tmp_path / "work" / name).resolve()
    assert {"README.md", "genotype.yaml", "study.yaml"} < {path.name for path in found.iterdir()}
    assert not any(path.is_dir() for path in found.iterdir())
    assert f"# {found.name}\n" in (found / "README.md").read_text(encoding="utf-8")
    code, _, err = run("export", done.folder, "--pick", "best", "--to", "yaml", "-o", name)
    assert (code, "is not an empty folder" in err) == (2, True)


def test_what_came_meanwhile_is_left_alone(done, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()

    def write(winner, folder):
        (tmp_path / "out" / "README.md").write_text("mine", encoding="utf-8")
        return TARGETS["yaml"](winner, folder)

    monkeypatch.setattr("autopeft.export.run.TARGETS", {"yaml": write})
    with pytest.raises(ConfigError, match="is not an empty folder"):
        export(done, how="best", target="yaml", out=tmp_path / "out", command="")
    assert tree(tmp_path) == {"out": None, "out/README.md": b"mine"}


@pytest.mark.parametrize("target", [pytest.param("native", marks=pytest.mark.slow), "merged"])
def test_a_full_disk_is_told(done, tmp_path, target):
    """A limit of files stands for it: here that of the tokenizer, or the weights."""
    command = ["export", str(done.folder), "--pick", "0", "--to", target, "-o", "out"]
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 3, told.stderr
    assert "File too large" in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["me@corp.com", "v1..2", "..hidden"])
def test_names_of_folders_may_have_what_those_of_the_hub_have_not(tmp_path, name):
    home = tmp_path / name
    home.mkdir()
    winner = make_winner(home, "bert", *LORA)
    (home / "out").mkdir()
    TARGETS["native"](winner, home / "out")
    assert autopeft.load(home / "out")[0] is not None


@pytest.mark.parametrize("name", ["/a/../b", "/..", "/a/..", "a@b", "a..b/c", "/a\n"])
def test_names_that_leave_their_folder_are_refused(tmp_path, name):
    winner = make_winner(tmp_path, "bert", lora(Tap.Q, 2))
    told = winner.description.to_dict("0" * 64, "1")
    told["backbone"]["name"] = name
    with pytest.raises(ConfigError, match=r"backbone\.name"):
        Description.from_dict(told, "file")
