"""The learning rate of LoRA: twice the best one's, then half of it, then what the sampler says."""

from dataclasses import replace

import pytest
from space.space_factory import BERT_BASE, MINILM, bind_shipped

from autopeft.objectives import PARAMS
from autopeft.space.methods import WIDTH, method
from autopeft.space.rates import rate_at
from autopeft.space.shipped import load_space, shipped_spaces
from autopeft.space.spec import Range, TrainingSpec
from autopeft.study.lora_rate import at_another_rate
from autopeft.study.propose import Measured
from autopeft.study.starting import FULL_RATES, full_starts

SPACE = bind_shipped("lora", MINILM, 0.01)
LORA = method("lora").genotype(MINILM)
OTHER = method("lora_all").genotype(MINILM, 1)
ADAPTER = method("pfeiffer").genotype(MINILM)
RATE = LORA.learning_rate


def measured(genotype, quality, rate=RATE):
    return Measured(replace(genotype, learning_rate=rate), quality, {PARAMS: 1.0})


def next_of(*history):
    taken = {one.genotype.hash for one in history}
    return at_another_rate(history, taken, SPACE)


def lora(rate):
    return replace(LORA, learning_rate=rate)


def test_it_goes_up_from_the_best_then_down():
    first = measured(LORA, 0.7)
    assert next_of(measured(ADAPTER, 0.9), first) == lora(2 * RATE)
    better, worse = measured(LORA, 0.8, 2 * RATE), measured(LORA, 0.6, 2 * RATE)
    assert next_of(first, better) == lora(4 * RATE)
    assert next_of(first, worse) == lora(RATE / 2)
    assert next_of(first, worse, measured(LORA, 0.5, RATE / 2)) is None
    assert next_of(first, worse, measured(OTHER, 0.71)) == replace(OTHER, learning_rate=2 * RATE)


def test_where_nothing_has_learnt_it_goes_up():
    first = measured(LORA, 0.7)
    assert next_of(first, measured(LORA, 0.7, 2 * RATE)) == lora(4 * RATE)
    assert next_of(measured(LORA, 0.7, 2 * RATE), first) == lora(4 * RATE)


def test_what_has_no_quality_is_no_best_and_was_tried():
    first, diverged = measured(LORA, 0.7), replace(measured(LORA, None, 2 * RATE), is_bad=True)
    assert next_of(first, diverged) == lora(RATE / 2)
    assert next_of(diverged) is None
    assert next_of(measured(ADAPTER, 0.9)) is None


def test_what_is_about_to_be_trained_is_not_tried_twice():
    first = measured(LORA, 0.7)
    taken = {LORA.hash, lora(2 * RATE).hash}
    assert at_another_rate([first], taken, SPACE) == lora(RATE / 2)


@pytest.mark.parametrize(("rate", "expected"), [(6e-3, 3e-3), (4e-4, 8e-4)])
def test_rates_are_those_of_the_space(rate, expected):
    drawn = SPACE.training()["learning_rate"]
    assert (drawn.low, drawn.high) == (3e-4, 1e-2)
    first = measured(LORA, 0.7, rate)
    assert at_another_rate([first], {first.genotype.hash}, SPACE) == lora(expected)
    if rate == 4e-4:
        assert next_of(first, measured(LORA, 0.6, 8e-4)) is None


@pytest.mark.parametrize(
    ("d_model", "expected"), [(32, 2e-3), (384, 2e-3), (768, 1.2e-3), (4096, 3.2e-4)]
)
def test_rates_go_by_the_width_of_a_model(d_model, expected):
    """Of Llama 3.1 8B, 4,096 wide, the formula's own rate is 2.9e-4."""
    assert rate_at(2e-3, 384, d_model) == expected


def test_methods_and_shipped_spaces_have_the_rates_of_their_model():
    assert method("lora").genotype(MINILM).learning_rate == 2e-3
    assert method("lora").genotype(BERT_BASE).learning_rate == 1.2e-3
    drawn = bind_shipped("unified", BERT_BASE, 0.01).training()["learning_rate"]
    assert (drawn.low, drawn.high, drawn.log) == (1.7e-4, 1.2e-2, True)
    rates = [start.genotype.learning_rate for start in full_starts(BERT_BASE)]
    assert rates == [rate_at(rate, 384, 768) for rate in FULL_RATES] == [1.2e-5, 3.5e-5, 1.2e-4]


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_says_for_which_width_its_rates_are(name):
    assert load_space(name).training.at_width == WIDTH


def test_a_space_without_a_width_has_the_same_rates_for_all_models():
    assert TrainingSpec(learning_rate=1e-3).rate(4096) == 1e-3
    assert TrainingSpec(learning_rate=1e-3, at_width=1024).rate(4096) == 3.4e-4
    drawn = Range(low=1e-4, high=1e-3)
    assert TrainingSpec(learning_rate=drawn).rate(4096) is drawn
