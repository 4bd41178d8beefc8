"""What is decided once for a study: cohort, frozen states, heap."""

import pytest
import torch

from autopeft.engines import decide as module
from autopeft.engines.decide import MOST_ON_CPU, cohort_size, heap_for
from autopeft.study.manifest import read_manifest
from autopeft.study.search import run_search

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory."""
    return lambda n_bytes: monkeypatch.setattr(module, "available_bytes", lambda _: n_bytes)


@pytest.mark.parametrize(
    ("n_bytes", "device", "size"),
    [
        (10**12, CPU, MOST_ON_CPU),
        (10_000, CPU, 3),  # 6,000 for trials of 1,650
        (2_900, CPU, 1),  # none with a pooled heap, one with an exact one
        (100, CPU, 1),  # a trial has to be tried
        (20_000, CUDA, 12),
        (10**12, CUDA, 32),
    ],
)
def test_cohort_is_as_large_as_is_fast_and_fits(free, n_bytes, device, size):
    free(n_bytes)
    assert cohort_size(1000, device) == size


def test_heap_is_pooled_where_there_is_memory(free):
    free(10_000)
    assert heap_for(3_600) == "pooled"
    assert heap_for(3_700) == "exact"


def test_auto_is_resolved_once(spec_of, tmp_path, free):
    auto = spec_of(trials=1, training={"cohort": "auto"})
    study = run_search(auto, tmp_path / "study")
    manifest = read_manifest(study.manifest_file)
    assert manifest.cohort == MOST_ON_CPU
    assert manifest.settings.frozen_cache
    assert manifest.trial_bytes > 1000
    free(100)
    more = spec_of(trials=6, training={"cohort": "auto"})
    records = run_search(more, study.folder).records()
    assert records[4].cohort == (4, 5)
    assert records[1].cohort == (1, 2, 3)
    assert read_manifest(study.manifest_file) == manifest


@pytest.mark.parametrize(
    ("asked", "n_bytes", "kept"), [("auto", 100, False), (False, 10**12, False), (True, 100, True)]
)
def test_frozen_states_are_kept_where_there_is_memory(
    spec_of, tmp_path, free, asked, n_bytes, kept
):
    free(n_bytes)
    spec = spec_of(trials=1, training={"frozen_cache": asked})
    study = run_search(spec, tmp_path / "study")
    assert read_manifest(study.manifest_file).settings.frozen_cache is kept
