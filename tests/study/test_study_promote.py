"""The laws of the promotion rule, for any number of objectives and any order of arrival."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.study.promote import Standing, promotions, rung_steps, winners

SETTINGS = {"rungs": 3, "reduction": 3}

numbers = st.one_of(
    st.floats(-1e6, 1e6),
    st.integers(-3, 3).map(float),  # so that there are ties
)


@st.composite
def full_rungs(draw, least=1, most=18):
    """All standings of one rung; some have failed, some are over a budget."""
    n_objectives = draw(st.integers(2, 4))
    values = st.tuples(*[numbers] * n_objectives)
    return [
        Standing(
            trial=trial,
            rung=0,
            cost=draw(st.integers(0, 50)),
            values=draw(st.one_of(values, values, values, st.none())),
            feasible=draw(st.integers(0, 4)) > 0,
        )
        for trial in range(draw(st.integers(least, most)))
    ]


@st.composite
def studies(draw):
    """All standings of a study that ran to its end, in the order of the rungs."""
    trials = draw(st.integers(1, 60))
    pick = random.Random(draw(st.integers(0, 2**32)))

    def standing(trial, rung):
        values = None if pick.random() < 0.1 else (pick.gauss(0, 1), float(params[trial]))
        return Standing(trial, rung, params[trial], values, baseline=trial % 4 == 3)

    params = [pick.randrange(100) for _ in range(trials)]
    found = [standing(trial, 0) for trial in range(trials)]
    for rung in (1, 2):
        found += [
            standing(trial, rung)
            for trial in promotions(found, trials=trials, **SETTINGS)[rung - 1]
        ]
    return trials, found, pick


def dominates(one, other):
    pairs = list(zip(one.values, other.values, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def usable(standings):
    return [s for s in standings if s.values is not None and s.feasible]


def unflagged(standings):
    return [replace(s, baseline=False) for s in standings]


@given(full_rungs(), st.integers(2, 4), st.data())
def test_one_that_dominates_all_goes_on(rung, reduction, data):
    n_objectives = next((len(s.values) for s in usable(rung)), 2)
    best = tuple(
        min([s.values[i] for s in usable(rung)], default=0.0) - data.draw(st.floats(0.5, 9.0))
        for i in range(n_objectives)
    )
    at = data.draw(st.integers(0, 60))
    rung = [Standing(2 * s.trial + 1, 0, s.cost, s.values, s.feasible) for s in rung]
    king = Standing(2 * at, 0, data.draw(st.integers(0, 50)), best)
    assert king.trial in winners([*rung, king], reduction)


@given(full_rungs(), st.integers(2, 4))
def test_one_that_is_dominated_by_one_of_its_size_does_not(rung, reduction):
    going = set(winners(rung, reduction))
    for loser in usable(rung):
        peers = [s for s in usable(rung) if s.cost == loser.cost]
        if any(dominates(peer, loser) for peer in peers):
            assert loser.trial not in going


@given(studies())
def test_where_all_have_arrived_the_best_baseline_goes_on(study):
    """Beside those that have a place, whatever dominates it; nobody's place depends on it."""
    trials, found, _ = study
    others = promotions(unflagged(found), trials=trials, **SETTINGS)
    promoted = promotions(found, trials=trials, **SETTINGS)
    for rung in (0, 1):
        loras = [s for s in usable(found) if s.rung == rung and s.baseline]
        best = [min(loras, key=lambda s: (s.values, s.trial)).trial] if loras else []
        assert set(best) <= set(promoted[rung])
        beside = set(promoted[rung]) - set(best)
        assert beside <= set(others[rung]) | {s.trial for s in found if s.rung == rung + 1}


def test_a_baseline_that_is_beside_them_takes_no_place():
    """Trial 3 is dominated at rung 0 and the best of all at rung 1; it goes on by itself."""
    standings = [Standing(t, 0, t, (-t, t)) for t in range(27)]
    standings[3] = Standing(3, 0, 20, (-19.5, 20), baseline=True)
    without, _ = promotions(unflagged(standings), trials=27, **SETTINGS)
    first, _ = promotions(standings, trials=27, **SETTINGS)
    assert 3 not in without
    assert set(first) == {3, *without}
    at_one = [Standing(t, 1, t, (-t, t)) for t in without]
    lora = Standing(3, 1, 20, (-99, 20), baseline=True)
    before = promotions([*standings, *at_one], trials=27, **SETTINGS)[1]
    assert len(before) == 3
    assert promotions([*standings, *at_one, lora], trials=27, **SETTINGS)[1] == (3, *before)


def test_a_baseline_with_a_place_counts_among_the_others():
    standings = [Standing(t, 0, t, (-t, t), baseline=t == 22) for t in range(27)]
    first, _ = promotions(standings, trials=27, **SETTINGS)
    assert 22 in first
    everybody = [*standings, *(replace(standings[t], rung=1) for t in first)]
    _, top = promotions(everybody, trials=27, **SETTINGS)
    _, others = promotions(unflagged(everybody), trials=27, **SETTINGS)
    assert set(top) == {*others, 22}


def test_a_baseline_waits_for_the_one_that_is_beside_them():
    """Trial 3 goes on by itself; until it is there, nobody knows which of two is the best."""
    standings = [Standing(t, 0, t, (-t, t)) for t in range(27)]
    standings[3] = Standing(3, 0, 20, (-19.5, 20), baseline=True)
    places, _ = promotions(unflagged(standings), trials=27, **SETTINGS)
    at_one = [Standing(t, 1, t, (-t, t)) for t in places]
    _, top = promotions([*standings, *at_one], trials=27, **SETTINGS)
    rival = next(t for t in places if t not in top and t < 19)
    standings[rival] = replace(standings[rival], baseline=True)
    at_one = [replace(s, baseline=s.trial == rival) for s in at_one]
    assert promotions([*standings, *at_one], trials=27, **SETTINGS)[1] == top
    for quality, best in ((99, 3), (-99, rival)):
        lora = Standing(3, 1, 20, (-quality, 20), baseline=True)
        _, found = promotions([*standings, *at_one, lora], trials=27, **SETTINGS)
        assert set(found) == {*top, best}


def test_a_baseline_waits_until_all_have_arrived():
    standings = [Standing(t, 0, 5, (-t, 5), baseline=t == 0) for t in range(9)]
    settings = {"rungs": 2, "reduction": 3}
    assert promotions(standings, trials=9, **settings) == ((0, 8),)
    assert promotions(standings, trials=10, **settings) == ((8,),)
    for unfit in ({"values": None}, {"feasible": False}):
        rest = [replace(standings[0], **unfit), *standings[1:]]
        assert promotions(rest, trials=9, **settings) == ((8,),)


@given(full_rungs(), st.integers(2, 4))
def test_where_all_are_of_one_size_nobody_that_is_dominated_goes_on(rung, reduction):
    rung = [Standing(s.trial, 0, 7, s.values, s.feasible) for s in rung]
    going = set(winners(rung, reduction))
    beaten = {s.trial for s in usable(rung) if any(dominates(o, s) for o in usable(rung))}
    assert not going & beaten
    assert bool(going) == bool(usable(rung))
    assert len(going) <= max(1, len(usable(rung)) // reduction)


@given(full_rungs(), st.integers(2, 4))
def test_who_failed_or_is_over_a_budget_never_goes_on(rung, reduction):
    assert set(winners(rung, reduction)) <= {s.trial for s in usable(rung)}


@given(full_rungs(least=9), st.integers(2, 3))
def test_about_one_of_so_many_goes_on(rung, reduction):
    going = winners(rung, reduction)
    # a bin that is smaller than the reduction still has a place
    assert len(going) <= len(usable(rung)) / reduction + reduction


@given(full_rungs(), st.integers(2, 4), st.randoms())
def test_order_of_arrival_changes_nothing(rung, reduction, pick):
    shuffled = pick.sample(rung, len(rung))
    assert winners(shuffled, reduction) == winners(rung, reduction)


@given(studies())
def test_arrivals_in_any_order_lead_to_the_same_promotions(study):
    trials, found, pick = study
    shuffled = pick.sample(found, len(found))
    assert promotions(shuffled, trials=trials, **SETTINGS) == promotions(
        found, trials=trials, **SETTINGS
    )


@given(studies())
def test_a_promotion_is_never_taken_back(study):
    """Records arrive in any order that workers can produce: none before its trial may go there."""
    trials, found, pick = study
    known, waiting = [], pick.sample(found, len(found))
    before = promotions(known, trials=trials, **SETTINGS)
    while waiting:
        ready = [s for s in waiting if s.rung == 0 or s.trial in before[s.rung - 1]]
        assert ready, "somebody is always free to go"
        known.append(ready[0])
        waiting.remove(ready[0])
        after = promotions(known, trials=trials, **SETTINGS)
        for old, new in zip(before, after, strict=True):
            assert set(old) <= set(new)
        before = after


@given(studies(), st.integers(1, 60))
def test_a_longer_study_takes_no_training_back(study, more):
    trials, found, _ = study
    longer = promotions(found, trials=trials + more, **SETTINGS)
    for rung in (1, 2):
        assert {s.trial for s in found if s.rung == rung} <= set(longer[rung - 1])


@given(studies())
def test_a_bracket_does_not_know_of_others(study):
    trials, found, _ = study
    found = unflagged(found)
    first = promotions([s for s in found if s.trial < 27], trials=trials, **SETTINGS)
    every = promotions(found, trials=trials, **SETTINGS)
    for some, all_of_them in zip(first, every, strict=True):
        assert [t for t in some if t < 27] == [t for t in all_of_them if t < 27]


def test_nothing_goes_on_before_its_rung_is_full():
    standings = [Standing(trial, 0, trial, (-trial, trial)) for trial in range(27)]
    assert promotions(standings[:26], trials=27, **SETTINGS) == ((), ())
    assert promotions(standings[1:], trials=27, **SETTINGS) == ((), ())
    first, second = promotions(standings, trials=27, **SETTINGS)
    assert (len(first), len(second)) == (9, 0)
    at_one = [Standing(t, 1, t, (-t, t)) for t in first]
    assert promotions([*standings, *at_one[1:]], trials=27, **SETTINGS) == (first, ())
    assert len(promotions([*standings, *at_one], trials=27, **SETTINGS)[1]) == 3


def test_nothing_goes_two_rungs_up_while_the_lowest_one_fills():
    """A bracket was a part of one, and the study was made longer."""
    standings = [Standing(trial, 0, trial, (-trial, trial)) for trial in range(9)]
    (first, _) = promotions(standings, trials=9, **SETTINGS)
    standings += [Standing(t, 1, t, (-t, t)) for t in first]
    assert len(promotions(standings, trials=9, **SETTINGS)[1]) == 1
    assert promotions(standings, trials=27, **SETTINGS) == (first, ())


def test_tiny_trials_do_not_take_all_places():
    """Nobody is dominated, and the tiny ones are far apart, the large ones a crowd."""
    tiny = [Standing(i, 0, 10 + i, (-i / 18, 10.0 + i)) for i in range(18)]
    large = [Standing(18 + i, 0, 28 + i, (-1 - i / 1000, 28 + i / 1000)) for i in range(9)]
    going = winners([*tiny, *large], 3)
    assert len(going) == 9
    assert len([trial for trial in going if trial >= 18]) == 3


def test_places_go_to_those_that_add_most():
    """Of a crowd and two loners, all of one size, the loners come first."""
    points = [(0.0, 1.0), (0.49, 0.51), (0.5, 0.5), (0.51, 0.49), (1.0, 0.0), (1.0, 1.0)]
    rung = [Standing(trial, 0, 5, values) for trial, values in enumerate(points)]
    assert winners(rung, 3) == (0, 4)


def test_of_equals_the_first_goes_on():
    twins = [Standing(trial, 0, 5, (0.0, 0.0)) for trial in (4, 2, 9)]
    worse = [Standing(trial, 0, 5, (1.0, 1.0)) for trial in (0, 1, 3)]
    assert winners([*twins, *worse], 3) == (2,)


@pytest.mark.parametrize(
    ("steps", "rungs", "reduction", "expected"),
    [
        (189, 3, 3, (21, 63, 189)),
        (100, 3, 3, (11, 33, 100)),
        (100, 1, 3, (100,)),
        (4, 3, 4, (1, 4)),
        (1, 3, 3, (1,)),
    ],
)
def test_steps_of_the_rungs(steps, rungs, reduction, expected):
    assert rung_steps(steps, rungs, reduction) == expected
