"""Studies on a backbone in few bits, and what is exported of them."""

import pytest
from pydantic import ValidationError
from study_factory import D_MODEL, N_LAYERS

from autopeft.engines.outlined import outlined
from autopeft.errors import ConfigError
from autopeft.space.genotype import Genotype
from autopeft.study.manifest import read_manifest
from autopeft.study.search import run_search
from autopeft.study.single import train_one

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


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"quantize": "llm.int8"}, "the trials of a cohort would not be independent; allowed: nf4"),
        ({"quantize": "int2"}, "'nf4' or 'int8'"),
        (
            {"quantize": "nf4", "full_finetune": True, "selection": {"seeds": 1}},
            "`full_finetune` trains weights, and those of `quantize` stay frozen",
        ),
    ],
)
def test_what_few_bits_cannot_be_is_told(spec_of, values, told):
    with pytest.raises(ValidationError, match=told):
        spec_of(**values)


def test_a_genotype_that_trains_the_weights_is_refused(spec_of, tmp_path):
    full = Genotype(N_LAYERS, (), 1e-3, full=True)
    with pytest.raises(ConfigError, match="trains weights, and those in nf4 stay frozen"):
        train_one(spec_of(quantize="nf4"), full, tmp_path / "out")


def test_a_guess_of_memory_knows_the_scheme(spec_of):
    plain, few = (outlined(spec_of(quantize=scheme).work).costs for scheme in (None, "nf4"))
    matrices = N_LAYERS * 8 * D_MODEL**2
    assert plain.start_bytes - few.start_bytes == matrices * (4 - 0.5625)
    assert few.memory.base - plain.memory.base == 4 * 2 * D_MODEL**2
