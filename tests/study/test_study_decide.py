"""What is decided once for a study: cohort, frozen states, heap."""

import pytest
import torch
from study_factory import N_LAYERS

from autopeft.engines import decide as module
from autopeft.engines.decide import MOST_ON_CPU, cohort_size, heap_for
from autopeft.engines.ground import load_ground
from autopeft.engines.workbench import Workbench
from autopeft.space.genotype import Genotype
from autopeft.study.manifest import read_manifest
from autopeft.study.search import run_search
from autopeft.training.frozen import cache_bytes
from autopeft.training.memory import OVERHEAD, resident_bytes, unshared_bytes

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


def test_memory_of_workers_that_are_yet_to_start_is_not_free(free):
    free(10_000)
    assert cohort_size(1000, CPU, coming=4_000) == 2
    assert cohort_size(1000, CUDA, coming=4_000) == 3
    assert cohort_size(1000, CPU, coming=20_000) == 1


def test_what_a_worker_holds_beside_files_is_not_shared():
    before = unshared_bytes()
    taken = torch.ones(2**24)
    assert 0.9 * taken.nbytes < unshared_bytes() - before < 1.1 * taken.nbytes
    assert unshared_bytes() < resident_bytes()


def test_each_worker_that_is_yet_to_start_will_hold_as_much_as_the_first(monkeypatch):
    monkeypatch.setattr(module, "unshared_bytes", lambda: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 70)
    assert [module._coming_bytes(CPU, n) for n in (1, 3)] == [0, 1000]
    assert [module._coming_bytes(CUDA, n) for n in (1, 3)] == [0, 140]


@pytest.mark.parametrize(
    ("sharing", "held", "times", "kept"),
    [
        (1, 10**6, 8, True),  # an eighth of the memory
        (1, 10**6, 7, False),
        (4, 0, 32, True),  # an eighth for all of them
        (4, 0, 31, False),
        (4, 10**6, 32, False),  # three others are yet to load model and rows
    ],
)
def test_workers_share_the_memory_for_frozen_states(spec_of, free, sharing, held, times, kept):
    ground = load_ground(spec_of().work)
    size = cache_bytes(ground.backbone.shape, (ground.train, *ground.scored), "fp32")
    free(times * size + size // 2)
    assert module._keeps_states(ground, "fp32", sharing, (sharing - 1) * held) is kept


def test_four_workers_plan_for_four(spec_of, free, monkeypatch):
    spec = spec_of(training={"precision": "fp32"})
    genotypes = [Genotype(N_LAYERS, (), learning_rate=1e-3)]
    each = Workbench(spec.work).decide(genotypes, 1).trial_bytes
    monkeypatch.setattr(module, "unshared_bytes", lambda: 100 * each)
    for_ten = int(10.5 * OVERHEAD["pooled"] * each / module.MEMORY_SHARE)
    free(for_ten)
    assert Workbench(spec.work).decide(genotypes, "auto").cohort == MOST_ON_CPU
    assert Workbench(spec.work, sharing=4).decide(genotypes, "auto").cohort == 1
    free(for_ten + 300 * each)
    assert Workbench(spec.work, sharing=4).decide(genotypes, "auto").cohort == 2


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
