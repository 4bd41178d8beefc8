"""Qualities pooled over rungs: by hand, and what does not depend on how trials are named."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from autopeft.pooling import pooled_over_rungs

studies = st.lists(st.lists(st.integers(-4, 12).map(lambda n: n / 8), min_size=1, max_size=3)).map(
    lambda trials: {i: dict(enumerate(own)) for i, own in enumerate(trials)}
)


def test_by_hand():
    """Rung 0 lies below rung 1 by 0.3 in the mean of the two trials that were at both."""
    found = pooled_over_rungs({0: {0: 0.5, 1: 0.7}, 1: {0: 0.2, 1: 0.6}, 2: {0: 0.9}})
    assert found == pytest.approx({0: (0.8 + 0.7) / 2, 1: (0.5 + 0.6) / 2, 2: 0.9})


@given(studies)
def test_mean_of_the_trials_of_a_highest_rung_stays(study):
    found = pooled_over_rungs(study)
    for top in range(3):
        trials = [trial for trial, own in study.items() if max(own) == top]
        assert sum(found[t] for t in trials) == pytest.approx(sum(study[t][top] for t in trials))


@given(studies)
def test_one_rung_keeps_its_bits(study):
    found = pooled_over_rungs(study)
    for trial, own in study.items():
        if len(own) == 1:
            assert found[trial] == own[0]


def test_alone_at_the_top_keeps_its_score():
    assert pooled_over_rungs({0: {0: 0.5, 2: 0.7}, 1: {0: 0.6}}) == pytest.approx({0: 0.7, 1: 0.6})
