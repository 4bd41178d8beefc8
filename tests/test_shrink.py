"""Shrunken scores lie between a trial's own and what similar ones reached, by the size of noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.shrink import FEWEST, Score, shrink


def study(n, *, noise, seed=0, wave=0.0, rungs=1):
    """Scores of n trials, their truth a smooth function of two features."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 3, (n, 2))
    truth = 0.8 + 0.05 * np.sin(places[:, 0]) + 0.03 * places[:, 1] + wave * rng.normal(size=n)
    scores = [
        Score(i, rung, tuple(places[i]), truth[i] - 0.02 * (rungs - 1 - rung) + error, noise)
        for rung in range(rungs)
        for i, error in enumerate(noise * rng.normal(size=n))
    ]
    return scores, truth


def test_few_scores_stay_what_they_are():
    scores, _ = study(FEWEST - 1, noise=0.1)
    found = shrink(scores)
    assert {trial: one.value for trial, one in found.items()} == {s.trial: s.value for s in scores}


def test_equal_scores_stay_what_they_are():
    scores = [Score(i, 0, (float(i),), 0.5, 0.1) for i in range(20)]
    assert {one.value for one in shrink(scores).values()} == {0.5}


def test_scores_without_noise_stay_what_they_are():
    scores, truth = study(30, noise=1e-6)
    found = shrink(scores)
    np.testing.assert_allclose([found[i].value for i in range(30)], truth, atol=1e-3)


def test_of_noise_alone_little_is_left():
    rng = np.random.default_rng(1)
    scores = [
        Score(i, 0, tuple(rng.uniform(size=2)), 0.8 + 0.03 * rng.normal(), 0.03) for i in range(40)
    ]
    raw = np.std([score.value for score in scores])
    assert np.std([one.value for one in shrink(scores).values()]) < raw / 3


@pytest.mark.parametrize("rungs", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_shrunken_scores_are_nearer_to_the_truth(rungs, seed):
    scores, truth = study(40, noise=0.03, seed=seed, wave=0.005, rungs=rungs)
    found = shrink(scores)
    raw = np.array([s.value for s in scores if s.rung == rungs - 1])
    errors = np.array([found[i].value for i in range(40)]) - truth
    assert np.abs(errors).mean() < 0.7 * np.abs(raw - truth).mean()
    # and they say how near
    assert np.std(errors) == pytest.approx(np.mean([one.stderr for one in found.values()]), rel=0.6)


def test_a_trial_is_judged_at_its_highest_rung():
    scores, truth = study(30, noise=1e-6, rungs=2)
    stopped = [s for s in scores if not (s.rung == 1 and s.trial < 5)]
    found = shrink(stopped)
    for trial in range(5):
        assert found[trial].value == pytest.approx(truth[trial] - 0.02, abs=2e-3)


@settings(max_examples=5)
@given(st.randoms(use_true_random=False))
def test_order_of_scores_does_not_matter(random):
    scores, _ = study(12, noise=0.02, rungs=2)
    shuffled = random.sample(scores, len(scores))
    assert shrink(shuffled) == shrink(scores)
