"""Intervals that hold the truth, differences that are real, and no more errors than promised."""

import importlib.util
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autopeft.estimate import (
    FIRST_WEIGHT,
    SeedVariance,
    adjusted,
    difference,
    outlying,
    pooled_seeds,
    quality,
    seeds_of_each,
)

CALM = SeedVariance(variance=0.0, observed=0.0, df=4)


@pytest.fixture(scope="module")
def simulation():
    """The benchmark's simulated studies."""
    path = Path(__file__).parents[1] / "benchmarks" / "selection.py"
    spec = importlib.util.spec_from_file_location("simulated_selection", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def crossed(rng, *, seeds=3, rows=40, seed_sd=0.0, row_sd=0.0, rest_sd=0.0, mean=0.5):
    return (
        mean
        + seed_sd * rng.normal(size=(seeds, 1))
        + row_sd * rng.normal(size=(1, rows))
        + rest_sd * rng.normal(size=(seeds, rows))
    )


def test_variance_of_seeds_and_rows_is_that_of_fresh_ones():
    """Against the spread of the mean over many draws of both."""
    rng = np.random.default_rng(0)
    world = {"seed_sd": 0.3, "row_sd": 1.0, "rest_sd": 1.5}
    draws = [[crossed(rng, **world) for _ in range(6)] for _ in range(3000)]
    truth = 0.3**2 / 3 + 1.0**2 / 40 + 1.5**2 / 120
    assert np.var([draw[0].mean() for draw in draws]) == pytest.approx(truth, rel=0.06)
    found = [quality(draw[0], pooled_seeds(draw)).stderr ** 2 for draw in draws]
    assert np.mean(found) == pytest.approx(truth, rel=0.06)
    pairs = [difference(draw[0], draw[1], pooled_seeds(draw)).stderr ** 2 for draw in draws]
    assert np.mean(pairs) == pytest.approx(2 * truth, rel=0.06)


def test_each_seed_may_have_rows_of_its_own():
    """Then rows that are hard for a seed are not hard for the next one, and stay paired."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(3000):
        hard = rng.normal(size=(3, 20))
        draws.append([hard + crossed(rng, rows=20, seed_sd=0.3, rest_sd=0.5) for _ in range(5)])
    pooled = [pooled_seeds(draw, crossed=False) for draw in draws]
    truth = 0.3**2 / 3 + (1.0 + 0.5**2) / 60
    found = [quality(draw[0], p).stderr ** 2 for draw, p in zip(draws, pooled, strict=True)]
    assert np.mean(found) == pytest.approx(truth, rel=0.06)
    assert np.var([draw[0].mean() for draw in draws]) == pytest.approx(truth, rel=0.06)
    pairs = [difference(*draw[:2], p) for draw, p in zip(draws, pooled, strict=True)]
    apart = 2 * (0.3**2 / 3 + 0.5**2 / 60)
    assert np.mean([pair.stderr**2 for pair in pairs]) == pytest.approx(apart, rel=0.06)
    assert np.var([pair.mean for pair in pairs]) == pytest.approx(apart, rel=0.06)


def test_rows_that_are_hard_for_both_do_not_count_in_a_difference():
    rng = np.random.default_rng(1)
    hard = 5 * rng.normal(size=(1, 40))
    one, other = crossed(rng, rest_sd=0.1) + hard, crossed(rng, rest_sd=0.1, mean=0.2) + hard
    pooled = pooled_seeds([one, other])
    assert quality(one, pooled).stderr > 0.5
    apart = difference(one, other, pooled)
    assert apart.mean == pytest.approx(0.3, abs=0.05)
    assert apart.stderr < 0.05
    assert apart.p_value < 1e-6


def test_without_differences_between_rows_seeds_are_all():
    """Then the interval is Student's, with the degrees of freedom of all contenders."""
    means = np.array([[0.5, 0.6, 0.7], [0.2, 0.2, 0.5]])
    scores = [np.repeat(row[:, None], 10, axis=1) for row in means]
    pooled = pooled_seeds(scores)
    assert pooled.df == 4
    assert pooled.variance == pytest.approx(means.var(axis=1, ddof=1).mean())
    estimate = quality(scores[0], pooled)
    assert estimate.stderr == pytest.approx(math.sqrt(pooled.variance / 3))
    assert estimate.df == pytest.approx(4)
    low, high = estimate.interval()
    assert (low + high) / 2 == pytest.approx(0.6)
    assert high - 0.6 == pytest.approx(stats.t.ppf(0.975, 4) * estimate.stderr)


def test_without_differences_between_seeds_rows_are_all():
    scores = np.tile(np.arange(10.0), (3, 1))
    estimate = quality(scores, pooled_seeds([scores, scores]))
    assert estimate.stderr == pytest.approx(np.arange(10).std(ddof=1) / math.sqrt(10))
    assert estimate.df == pytest.approx(9)


def test_one_that_is_always_right_has_an_interval():
    """Of its rows nothing is to be seen, and of seeds no more than rows explain."""
    rng = np.random.default_rng(0)
    others = [(rng.random((3, 100)) < share).astype(float) for share in (0.8, 0.9)]
    perfect = np.ones((3, 100))
    pooled = pooled_seeds([perfect, *others])
    assert pooled.variance == 0 < pooled.observed, "or this test has another seed to find"
    estimate = quality(perfect, pooled)
    assert estimate.df == 6
    assert estimate.interval() == (1.0, 1.0)
    low, high = estimate.no_surer_than(0.005).interval()
    assert (low + high) / 2 == pytest.approx(1)
    assert high - 1 == pytest.approx(stats.t.ppf(0.975, 6) * 0.005)
    against = difference(perfect, others[0], pooled)
    assert 0 <= against.p_value < 1e-3


@pytest.mark.parametrize("seed", range(20))
def test_no_part_has_more_degrees_of_freedom_than_the_whole(seed):
    rng = np.random.default_rng(seed)
    shares = rng.choice([0.5, 0.9, 0.99, 1.0], 4)
    scores = [(rng.random((3, 30)) < share).astype(float) for share in shares]
    pooled = pooled_seeds(scores)
    for item in scores:
        assert quality(item, pooled).df >= 8


def test_single_row_tells_nothing():
    with pytest.raises(ValueError, match="a single row"):
        quality(np.array([[1.0], [0.0]]), CALM)


def test_seeds_may_differ_in_number():
    rng = np.random.default_rng(2)
    one, two = crossed(rng, seeds=1, rest_sd=1.0), crossed(rng, seeds=4, rest_sd=1.0, seed_sd=1.0)
    pooled = pooled_seeds([one, two])
    assert pooled.df == 3
    assert quality(one, pooled).stderr > quality(two, pooled).stderr
    with pytest.raises(ValueError, match="two of them"):
        pooled_seeds([one, one])


def test_each_of_a_difference_is_a_mean_of_its_own_seeds():
    rng = np.random.default_rng(4)
    one, other = (crossed(rng, seeds=n, seed_sd=1.0, rest_sd=1.0) for n in (2, 3))
    pooled = pooled_seeds([one, other])
    rows = (one.mean(axis=0) - other.mean(axis=0)).var(ddof=1) / 40
    for pair in ((one, other), (other, one)):
        found = difference(*pair, pooled)
        assert found.stderr**2 == pytest.approx(pooled.variance * (1 / 2 + 1 / 3) + rows)


def of_spread(*variances, seeds=3, rows=20):
    """Contenders whose means over rows have these variances between seeds."""
    steps = np.linspace(-1, 1, seeds)
    steps /= steps.std(ddof=1)
    return [np.tile(math.sqrt(v) * steps[:, None], (1, rows)) for v in variances]


@pytest.mark.parametrize(  # Cochran's C, critical at 1 %, of k variances of n seeds: ISO 5725-2
    ("k", "n", "critical"),
    [(3, 3, 0.942), (5, 3, 0.788), (8, 3, 0.615), (10, 2, 0.718), (4, 4, 0.781)],
)
def test_outlying_by_the_printed_table(k, n, critical):
    for share, odd in ((critical + 0.002, 1), (critical - 0.002, None)):
        variances = np.full(k, (1 - share) / (k - 1))
        variances[1] = share
        assert outlying(of_spread(*variances, seeds=n)) == odd


def test_outlying_needs_something_to_compare_with():
    assert outlying(of_spread(0, 0, 0)) is None
    assert outlying(of_spread(0, 1)) is None
    assert outlying([]) is None
    assert outlying([scores[:1] for scores in of_spread(0, 1, 0)]) is None
    fewer = [of_spread(9, seeds=2)[0], *of_spread(0, 1)]
    assert outlying(fewer) is None
    assert outlying([*fewer, *of_spread(0)]) == 2


def test_one_that_trains_nothing_says_nothing_of_seeds():
    rng = np.random.default_rng(0)
    trained = [crossed(rng, seed_sd=1.0, rest_sd=1.0) for _ in range(3)]
    frozen = np.repeat(rng.normal(size=(1, 40)), 3, axis=0)
    found = seeds_of_each([trained[0], frozen, *trained[1:]], frozen={1})
    assert found[0] is found[2] is found[3]
    assert found[0] == pooled_seeds(trained)
    estimate = quality(frozen, found[1])
    assert estimate.stderr == pytest.approx(frozen[0].std(ddof=1) / math.sqrt(40))
    assert estimate.df == pytest.approx(39), "that of the rows alone"
    against = difference(trained[0], frozen, found[0], found[1])
    rows = (trained[0].mean(axis=0) - frozen[0]).var(ddof=1) / 40
    assert against.stderr**2 == pytest.approx(found[0].variance / 3 + rows)
    assert seeds_of_each([frozen], frozen={0}) == [found[1]]


def test_one_that_trains_nothing_makes_no_other_outlying():
    """Two that train are too few to tell one that differs by far more; with it they would be three.

    Of them the index that is set apart is that of all.
    """
    frozen, *trained = of_spread(0, 1, 1e-4, 1e-4)
    assert len({*map(id, seeds_of_each([frozen, *trained[:2]], frozen={0}))}) == 2
    found = seeds_of_each([frozen, *trained], frozen={0})
    assert found[1] == pooled_seeds(trained[:1])
    assert found[2] is found[3]
    assert found[2] == pooled_seeds(trained[1:])


def test_difference_of_what_differs_by_its_own_variance():
    rng = np.random.default_rng(3)
    one, other = (crossed(rng, seed_sd=sd, rest_sd=1.0) for sd in (2.0, 0.1))
    own = [pooled_seeds([scores]) for scores in (one, other)]
    found = difference(one, other, *own)
    rows = (one.mean(axis=0) - other.mean(axis=0)).var(ddof=1) / 40
    assert found.stderr**2 == pytest.approx(own[0].variance / 3 + own[1].variance / 3 + rows)
    parts = sum((part.observed / 3) ** 2 / 2 for part in own) + rows**2 / 39
    assert found.df == pytest.approx(found.stderr**4 / parts)


def test_p_values_of_nothing_and_of_less():
    same = np.tile(np.arange(10.0), (2, 1))
    assert difference(same, same, CALM).p_value == 1
    assert difference(same, same + 1, CALM).p_value == 1
    assert difference(same + 1, same, CALM).p_value == 0


def test_holm_as_printed_in_textbooks():
    assert adjusted({5: 0.01, 6: 0.04, 7: 0.03}) == pytest.approx({5: 0.03, 6: 0.06, 7: 0.06})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(-1, 6))
def test_adjusted_is_the_closed_test_of_weighted_bonferroni(values, first):
    """A p-value is the largest of all hypotheses that several differences are nothing together."""
    p_values = dict(enumerate(values))
    rest = max(1, len(values) - 1)
    weights = dict.fromkeys(p_values, 1.0)
    if first in p_values:
        weights = {i: FIRST_WEIGHT if i == first else (1 - FIRST_WEIGHT) / rest for i in p_values}
    found = adjusted(p_values, first)
    subsets = [
        some for n in range(1, len(values) + 1) for some in itertools.combinations(p_values, n)
    ]
    for i in p_values:
        expected = max(
            min(1, *(p_values[j] * sum(weights[k] for k in some) / weights[j] for j in some))
            for some in subsets
            if i in some
        )
        assert found[i] == pytest.approx(expected)


def test_simulated_studies_find_what_is_there_and_nothing_else(simulation):
    """200 studies each with a gain of three standard errors and with none."""
    found = simulation.check(simulation.World(), number=200, seed=0)
    assert 0.92 <= found["coverage"] <= 0.98
    assert found["coverage_of_usual_interval"] < 0.9, "or the simulation knows no noise of rows"
    assert found["false_better_than_lora"] <= 16
    assert found["gain_of_three_standard_errors_found"] >= 160


def test_one_that_trains_nothing_makes_nobody_too_sure(simulation):
    """With two seeds that differ much: pooled, 91 % of the others' intervals would be right."""
    world = simulation.World(contenders=3, seeds=2, seed_sd=0.02, frozen=True)
    found = simulation.check(world, number=200, seed=0)
    assert found["coverage_of_others"] >= 0.925
    assert found["false_better_than_lora"] <= 16


@pytest.mark.slow
def test_one_that_collapses_does_not_widen_the_intervals_of_all(simulation):
    """Contender 1 collapses with every third seed: the others' intervals stay honest and narrow."""
    found = simulation.check(simulation.World(collapse=0.3), number=200, seed=0)
    usual = simulation.check(simulation.World(), number=200, seed=0)
    assert 0.92 <= found["coverage_of_others"] <= 0.98
    assert found["width_of_others"] < 1.2 * usual["width_of_others"]
    assert found["false_better_than_lora"] <= 16
