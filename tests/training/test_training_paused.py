"""A trial that pauses and goes on, in whatever company, is the trial that did not."""

import itertools

import pytest
import torch
from tiny import (
    HEAD,
    HOULSBY,
    LORA,
    MAM,
    TASK,
    same_bits,
    tiny_backbone,
    tiny_rows,
)

from autopeft.errors import DataError
from autopeft.training.cohort import Cohort
from autopeft.training.paused import Paused, read_paused, write_paused
from autopeft.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=2, batch_size=5, warmup=0.3)
COMPANY = [LORA, MAM, HEAD, HOULSBY]


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("bert")


def trained(backbone, numbers, until=None, paused=()):
    """Losses, states and tensors of some of the company after a part of six steps."""
    company = [COMPANY[number] for number in numbers]
    with Cohort(backbone, company, numbers, TASK, SETTINGS) as cohort:
        losses = cohort.train(tiny_rows(15), order_seed=0, until=until, paused=paused)
        states = []
        for i in range(len(company)):
            before = paused[i].losses if paused else ()
            states.append(cohort.pause(i, (*before, *losses[:, i].tolist())))
        return {number: states[i] for i, number in enumerate(numbers)}


def assert_same_state(one, other):
    assert one.losses == other.losses
    assert same_bits(dict(one.tensors), dict(other.tensors))


@pytest.mark.parametrize("where", [(1,), (2, 4), (1, 2, 3, 4, 5)])
def test_pausing_changes_no_bit(backbone, where):
    whole = trained(backbone, range(4))
    states = {}
    for until in (*where, 6):
        states = trained(backbone, range(4), until, [*states.values()])
    assert [state.steps for state in states.values()] == [6] * 4
    for number in range(4):
        assert_same_state(states[number], whole[number])


def test_those_that_go_on_may_be_in_other_company(backbone):
    whole = trained(backbone, range(4))
    first = trained(backbone, [0, 1], 2) | trained(backbone, [2, 3], 2)
    for numbers in ([3, 0], [1], [2]):
        second = trained(backbone, numbers, 4, [first[number] for number in numbers])
        for number in numbers:
            assert_same_state(
                trained(backbone, [number], 6, [second[number]])[number], whole[number]
            )


def test_a_file_holds_every_bit(backbone, tmp_path):
    (state,) = trained(backbone, [1], 3).values()
    path = tmp_path / "state.safetensors"
    write_paused(path, state)
    assert_same_state(read_paused(path), state)
    with_nan = Paused((1.0, float("nan")), {"a": torch.tensor([float("inf"), -0.0])})
    write_paused(path, with_nan)
    found = read_paused(path)
    assert str(found.losses) == str(with_nan.losses)
    assert same_bits(dict(found.tensors), dict(with_nan.tensors))


def test_damaged_files_are_refused(backbone, tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(DataError, match="cannot be read"):
        read_paused(path)
    write_paused(path, Paused((1.0,), {"a": torch.ones(3)}))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="cannot be read"):
        read_paused(path)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(DataError, match="not a paused trial"):
        read_paused(path)


def test_others_and_those_of_another_step_are_refused(backbone):
    one, two = trained(backbone, [0, 1], 2).values()
    later = trained(backbone, [1], 3)[1]
    for paused in ([two, one], [one, later]):
        with pytest.raises(ValueError, match=r"parameters|shape|unpack"):
            trained(backbone, [0, 1], 4, paused)


def test_names_of_a_state_are_unique_in_a_trial(backbone):
    with Cohort(backbone, COMPANY, range(4), TASK, SETTINGS) as cohort:
        names = [
            (trial, name)
            for item in cohort.stacked()
            for trial, name in zip(item.trials, item.names, strict=True)
        ]
        own = [set(cohort.tensors(trial)) for trial in range(4)]
    assert len(set(names)) == len(names)
    for trial, group in itertools.groupby(sorted(names), key=lambda item: item[0]):
        assert {name for _, name in group} == own[trial]
