"""Studies on a backbone in few bits, and what is exported of them."""

import pytest

from autopeft.errors import ConfigError
from autopeft.study.manifest import read_manifest
from autopeft.study.search import run_search

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def study(spec_of, tmp_path_factory):
    """Three trials in NF4."""
    return run_search(spec_of(quantize="nf4", trials=3), tmp_path_factory.mktemp("nf4") / "study")


def test_a_study_says_how_its_backbone_is_kept(study):
    manifest = read_manifest(study.manifest_file)
    assert manifest.fingerprint["quantize"] == "nf4"
    assert any("kept in nf4" in note for note in manifest.data["notes"])
    assert "bitsandbytes" in manifest.versions
    assert {record.state for record in study.records()} == {"complete"}
    assert "quantize: nf4\n" in study.spec_file.read_text(encoding="utf-8")


def test_another_scheme_is_another_study(study, spec_of):
    for scheme, told in (("int8", '"int8"'), (None, "null")):
        with pytest.raises(ConfigError, match=f'quantize: was "nf4", is now {told}'):
            run_search(spec_of(quantize=scheme, trials=4), study.folder)
