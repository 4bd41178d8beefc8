"""What a trial takes of memory, and what is done to stay with it."""

import os
import subprocess
import sys

import psutil
import pytest
import torch
from tiny import (
    LORA,
    MAM,
    TASK,
    assert_same_training,
    genotype,
    op,
    tiny_backbone,
    tiny_rows,
    train,
)

from autopeft.model.backbone import cast
from autopeft.space.forms import Form
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.training import cohort, memory
from autopeft.training.footprint import trial_bytes
from autopeft.training.memory import available_bytes, resident_bytes
from autopeft.training.settings import TrainingSettings

CPU = torch.device("cpu")


def bytes_of(*genotypes, precision="fp32", batch_size=64):
    settings = TrainingSettings(precision=precision, batch_size=batch_size)
    backbone = cast(tiny_backbone("bert"), precision)
    return trial_bytes(backbone, genotypes, task=TASK, settings=settings, rows=tiny_rows())


def test_it_grows_with_the_batch_and_shrinks_with_the_precision():
    small, large = bytes_of(MAM, batch_size=256), bytes_of(MAM, batch_size=512)
    assert 1.9 < large / small <= 2
    assert 0.4 < bytes_of(MAM, precision="bf16", batch_size=512) / large < 0.65


def test_it_is_the_average_of_typical_trials():
    one, other = bytes_of(LORA), bytes_of(MAM)
    assert bytes_of(LORA, MAM) == pytest.approx((one + other) / 2, rel=0.1)
    assert bytes_of(LORA, LORA, LORA) == pytest.approx(one, rel=0.1)


def test_what_does_not_grow_with_the_batch_is_counted_once():
    """A delta and a gate for every entry of two weights, and what is made of them in a step."""
    taps = (Tap.Q, Tap.FFN_UP)
    pruned = genotype(*(op(Form.DIFF_PRUNING, LINEAR_INPUT[tap], tap, 9) for tap in taps))
    one, two = (bytes_of(pruned, batch_size=size) for size in (256, 512))
    floats, entries = (2 * one - two) / 4, 3 * (32 * 32 + 32 * 48)
    assert 2 * 9 * entries < floats < 2 * 14 * entries


def test_what_a_step_keeps_is_counted():
    """Against what autograd holds, tensor by tensor, with the graph at hand."""
    found = bytes_of(LORA, batch_size=4)
    assert found > 2 * 4 * 12 * 32 * 4 * 3, "at least the states that three layers of norms keep"


def test_memory_above_the_expected_is_released_and_changes_nothing(monkeypatch):
    released = []
    monkeypatch.setattr(cohort, "release_memory", lambda: released.append(1) or 0)
    backbone = tiny_backbone("bert")
    (plain,) = train(backbone, [LORA])
    assert not released
    (held,) = train(backbone, [LORA], trial_bytes=-(2**40))
    assert len(released) == len(held.losses)
    assert_same_training(plain, held)


def test_what_a_process_holds_at_rest_counts_and_memory_that_stays_is_not_released_again(
    monkeypatch,
):
    released = []
    monkeypatch.setattr(cohort, "release_memory", lambda: released.append(1) or resident_bytes())
    backbone, growth = tiny_backbone("bert"), 2**30
    train(backbone, [LORA], trial_bytes=growth, rest_bytes=resident_bytes())
    assert not released
    (trained,) = train(backbone, [LORA], trial_bytes=growth, rest_bytes=1 - 2**40)
    assert len(trained.losses) > 1 == len(released)


def test_a_limit_of_the_container_counts(monkeypatch):
    for left, free in ((5000, 5000), (2**62, None), (None, None)):
        monkeypatch.setattr(memory, "left_bytes", lambda left=left: left)
        there = psutil.virtual_memory().available
        assert available_bytes(CPU) == (free or pytest.approx(there, rel=0.2))


GAPS = """
import sys
import torch
from autopeft.training.memory import resident_bytes, use_heap

use_heap("exact", int(sys.argv[1]))
before = resident_bytes()
taken = [(torch.ones(2**19), torch.ones(2**13)) for _ in range(50)]  # 2 MiB and 32 KiB
left = [small for _, small in taken]
del taken
print(resident_bytes() - before)
"""


@pytest.mark.skipif(memory._function("mallopt") is None, reason="needs glibc")
def test_exact_heap_keeps_no_gap_of_the_size_of_a_state():
    def held(state):
        done = subprocess.run(
            [sys.executable, "-c", GAPS, str(state)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert held(2**20) < 20 * 2**20 < 90 * 2**20 < held(2**23)


def test_heap_is_told_the_size_of_a_state_within_bounds(monkeypatch):
    told = []
    monkeypatch.setattr(memory, "_function", lambda _: lambda *what: told.append(what))
    for state, mapped in ((10**9, 2**22), (10**6, 10**6), (1, 2**17)):
        memory.use_heap("exact", state)
        assert (memory._M_MMAP_THRESHOLD, mapped) in told[-3:]


@pytest.mark.parametrize(
    ("free", "limit", "sharing", "kept"),
    [
        (64 * 2**30, None, 1, 4096),
        (64 * 2**30, 2**30, 1, 1024),
        (64 * 2**30, None, 8, 64 * 2**30 // 16 // 8 // (300 * 2**10)),
        (2**30, None, 1, 1024),
    ],
)
def test_code_for_products_takes_a_share_of_the_memory(monkeypatch, free, limit, sharing, kept):
    monkeypatch.setattr(memory, "available_bytes", lambda _: free)
    monkeypatch.setenv(memory._CAPACITY, "x")
    monkeypatch.delenv(memory._CAPACITY)
    memory.keep_primitives(limit, sharing)
    assert os.environ[memory._CAPACITY] == str(kept)
    assert memory.primitives_bytes(3) == 3 * 50 * 300 * 2**10
    assert memory.primitives_bytes(10_000) == kept * 300 * 2**10


def test_how_much_code_is_kept_is_the_users_choice(monkeypatch):
    monkeypatch.setenv(memory._CAPACITY, "7")
    memory.keep_primitives()
    assert os.environ[memory._CAPACITY] == "7"
    assert memory.primitives_bytes(3) == 7 * 300 * 2**10


PRODUCTS = """
import os
import torch
from autopeft.training import memory

os.environ[memory._CAPACITY] = os.environ.pop("KEPT")
for _ in range(3):
    for size in (3, 4, 5):
        ones = torch.ones(1, 4, size, size), torch.ones(4, 4, 3, 3), torch.ones(4)
        torch.mkldnn_convolution(*ones, [0, 0], [1, 1], [1, 1], 1)
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_code_is_kept_as_told_after_torch_has_been_imported():
    def made(kept):
        told = os.environ | {"KEPT": kept, "ONEDNN_VERBOSE": "profile_create"}
        done = subprocess.run(
            [sys.executable, "-c", PRODUCTS], env=told, capture_output=True, text=True, check=True
        )
        return sum(
            "create:cache_miss" in line and ",convolution," in line
            for line in done.stdout.splitlines()
        )

    assert made("1") == 9
    assert made("100") == 3
