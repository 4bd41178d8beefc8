"""How good something trained is over new seeds and new rows, and how much better than another.

Each of several contenders is trained with some seeds, and each training is scored on the same rows.
A score of contender i, seed s and row j is taken as `q_i + a_is + b_ij + e_isj`: what seeds add,
what rows add, what only a pair of them does (a crossed design; Brennan 2001, chapter 2). The mean
has the variance `var(a) / S + var(b) / J + var(e) / (S J)`. An interval over three seeds on the
same rows knows the first part alone, and that part badly; so the variance of seeds is pooled over
the contenders, and the rows have a part of their own. A contender whose seeds differ by far more
than those of the others, as when it collapses with one of them, has a variance of its own (Cochran
1941; ISO 5725-2:1994, section 7.3.3): pooled, it would make all intervals wide and its own too
narrow. One that trains nothing is the same with every seed: pooled, it would make all others' too
narrow.

With few data each seed has rows of its own, left out of its training rows (`crossed` is false);
then rows and seeds add to the variance by themselves. That these trainings share most of their
rows makes such intervals a little narrow; no estimate is free of that (Bengio and Grandvalet 2004).

A difference to a baseline is taken row by row, for rows that are hard are so for both.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import stats

CONFIDENCE = 0.95
FIRST_WEIGHT = 0.5
"""Part of the error rate that is kept for the contender that the search thought best."""
OUTLYING = 0.01
"""Chance that a contender is set apart whose seeds differ no more than those of the others."""

Scores = Float[np.ndarray, "seed row"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and rows.

    Attributes:
        mean: the estimate.
        stderr: its standard error over new seeds and new rows.
        df: degrees of freedom of `stderr` (Satterthwaite 1946).
    """

    mean: float
    stderr: float
    df: float

    def interval(self) -> tuple[float, float]:
        """The ends of Student's interval."""
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.df)) * self.stderr
        return self.mean - half, self.mean + half

    def no_surer_than(self, stderr: float) -> "Estimate":
        """The same with at least this standard error."""
        return replace(self, stderr=max(self.stderr, stderr))

    @property
    def p_value(self) -> float:
        """Of the hypothesis that there is nothing above 0."""
        if self.stderr == 0:
            return float(self.mean <= 0)
        return float(stats.t.sf(self.mean / self.stderr, self.df))


@dataclass(frozen=True)
class SeedVariance:
    """What seeds add to the mean over rows, pooled over contenders.

    Attributes:
        variance: of seeds alone, 0 or more.
        observed: of the means over rows, which what rows add for one seed is a part of.
        df: degrees of freedom of `observed`; infinite where nothing had to be estimated.
        crossed: all seeds were scored on the same rows.
    """

    variance: float
    observed: float
    df: float
    crossed: bool = True


def pooled_seeds(contenders: Sequence[Scores], *, crossed: bool = True) -> SeedVariance:
    """The variance that seeds add.

    Args:
        contenders: scores of each, of any number of seeds.
        crossed: all seeds were scored on the same rows, otherwise each on rows of its own.

    Raises:
        ValueError: no contender has two seeds.
    """
    several = [scores for scores in contenders if len(scores) > 1]
    df = sum(len(scores) - 1 for scores in several)
    if not df:
        raise ValueError("the variance of seeds needs a contender with two of them")
    observed = sum((len(s) - 1) * s.mean(axis=1).var(ddof=1) for s in several) / df
    rows = _interaction if crossed else _within
    by_rows = sum((len(s) - 1) * rows(s) / s.shape[1] for s in several) / df
    return SeedVariance(max(0.0, float(observed - by_rows)), float(observed), df, crossed)


def outlying(contenders: Sequence[Scores]) -> int | None:
    """Which contender's seeds differ by far more than those of the others (Cochran 1941).

    Args:
        contenders: scores of each; those with the most seeds take part.

    Returns:
        Its index; None if there is none, or fewer than three can be compared.
    """
    n_seeds = max((len(scores) for scores in contenders), default=0)
    spread = {
        i: float(scores.mean(axis=1).var(ddof=1))
        for i, scores in enumerate(contenders)
        if len(scores) == n_seeds > 1
    }
    total = sum(spread.values())
    if len(spread) < 3 or total == 0:  # noqa: PLR2004
        return None
    largest = max(spread, key=lambda i: spread[i])
    others, df = len(spread) - 1, n_seeds - 1
    critical = float(stats.f.isf(OUTLYING / len(spread), df, others * df))
    return largest if spread[largest] / total > critical / (critical + others) else None


def seeds_of_each(
    contenders: Sequence[Scores], *, crossed: bool = True, frozen: Collection[int] = ()
) -> list[SeedVariance]:
    """The variance that seeds add to each: pooled, but of its own for one that is outlying.

    Args:
        contenders: scores of each.
        crossed: all seeds were scored on the same rows, otherwise each on rows of its own.
        frozen: indices of those that train nothing. Seeds add nothing to them, and they say nothing
            of what seeds add to the others.

    Raises:
        ValueError: no contender that trains has two seeds.
    """
    trained = [i for i in range(len(contenders)) if i not in frozen]
    odd = outlying([contenders[i] for i in trained])
    own = [] if odd is None else [trained[odd]]
    found = [SeedVariance(0.0, 0.0, math.inf, crossed)] * len(contenders)
    for group in (own, [i for i in trained if i not in own]):
        if group:
            pooled = pooled_seeds([contenders[i] for i in group], crossed=crossed)
            for i in group:
                found[i] = pooled
    return found


def quality(scores: Scores, seeds: SeedVariance) -> Estimate:
    """What a contender reaches with a new seed on new rows, in the mean.

    Args:
        scores: of the contender.
        seeds: what seeds add.
    """
    of_rows = scores.mean(axis=0) if seeds.crossed else scores.ravel()
    return _estimate(of_rows, [(seeds, 1 / len(scores))])


def difference(
    one: Scores, other: Scores, seeds: SeedVariance, seeds_of_other: SeedVariance | None = None
) -> Estimate:
    """How much better one contender is than another, on the same rows.

    Args:
        one: scores of the first.
        other: scores of the second, with seeds of its own; of as many if each has its own rows.
        seeds: what seeds add to the first.
        seeds_of_other: what they add to the second, if that is something else.
    """
    of_rows = one.mean(axis=0) - other.mean(axis=0) if seeds.crossed else (one - other).ravel()
    if seeds_of_other is None or seeds_of_other is seeds:
        return _estimate(of_rows, [(seeds, 1 / len(one) + 1 / len(other))])
    return _estimate(of_rows, [(seeds, 1 / len(one)), (seeds_of_other, 1 / len(other))])


def adjusted(p_values: Mapping[int, float], first: int | None = None) -> dict[int, float]:
    """P-values that hold for all comparisons together (Holm 1979, section 3, with weights).

    The chance that any difference is found where there is none stays below the level, whatever
    the comparisons share.

    Args:
        p_values: of each comparison, by any number.
        first: the one that was thought the most promising before the scores were seen; it keeps
            `FIRST_WEIGHT` of the error rate for itself.
    """
    rest = len(p_values) - (first in p_values)
    others = 1.0 if first not in p_values else (1 - FIRST_WEIGHT) / max(1, rest)
    weights = {key: FIRST_WEIGHT if key == first else others for key in p_values}
    found: dict[int, float] = {}
    largest, left = 0.0, sum(weights.values())
    for key in sorted(p_values, key=lambda key: (p_values[key] / weights[key], key)):
        largest = max(largest, min(1.0, p_values[key] * left / weights[key]))
        found[key] = largest
        left -= weights[key]
    return found


def _estimate(
    of_rows: Float[np.ndarray, " row"], seeds: Sequence[tuple[SeedVariance, float]]
) -> Estimate:
    """From the means of rows, whose variance has the interaction, and what seeds add, weighted.

    The degrees of freedom are at least the fewest of a part. Where rows add next to nothing, as
    all are right, and seeds nothing either, Satterthwaite's would come to next to none: what is
    observed of seeds has rows of all contenders in it.
    """
    n_rows = len(of_rows)
    if n_rows < 2:  # noqa: PLR2004
        raise ValueError("a single row tells nothing of how rows differ")
    rows = float(of_rows.var(ddof=1)) / n_rows
    variance = sum(part.variance * weight for part, weight in seeds) + rows
    parts = rows**2 / (n_rows - 1)
    parts += sum((part.observed * weight) ** 2 / part.df for part, weight in seeds)
    fewest = min(n_rows - 1, *(part.df for part, _ in seeds))
    df = max(variance**2 / parts, fewest) if parts else math.inf
    return Estimate(float(of_rows.mean()), math.sqrt(variance), df)


def _interaction(scores: Scores) -> float:
    """Variance of what is left of the scores without the means of seeds and rows."""
    n_seeds, n_rows = map(int, scores.shape)
    seeds, rows = scores.mean(axis=1, keepdims=True), scores.mean(axis=0, keepdims=True)
    rest = scores - seeds - rows + scores.mean()
    return float(np.square(rest).sum()) / ((n_seeds - 1) * (n_rows - 1))


def _within(scores: Scores) -> float:
    """Variance over rows for one seed, the mean over seeds."""
    return float(scores.var(axis=1, ddof=1).mean())
