"""How good a trial is, judged by all that a study has measured and not by its own score alone.

The best of many noisy scores is too high, and the noise of a score does not shrink by training
longer. So a score is taken as a smooth function of what was trained and for how long, plus noise of
known size: a Gaussian process (Rasmussen and Williams 2006, section 2.2) with one length for
genotypes and one for rungs, both fitted. Its mean lies between the score and what similar
genotypes, and the same one at other rungs, have reached; nearer to these the noisier the score.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

FEWEST = 8
"""Scores below which a fit says nothing; they stay what they are."""
MOST = 500
"""Scores that the fit looks at, the latest ones of the highest rungs; it takes cubic time."""
LEAST_NOISE = 1e-6
"""Variance of a score, in parts of that between scores."""
RUNGS_APART = (0.1, 0.3, 1.0)
"""Distances between rungs that are tried, where 1 is that between two genotypes of a study."""


Inputs = Float[np.ndarray, "score feature"]


@dataclass(frozen=True)
class Score:
    """What one record measured.

    Attributes:
        trial: its number.
        rung: from 0.
        features: of the genotype, of equal length for all.
        value: the metric.
        stderr: its standard error over the rows it was measured on.
    """

    trial: int
    rung: int
    features: tuple[float, ...]
    value: float
    stderr: float


@dataclass(frozen=True)
class Shrunken:
    """A score after all others were heard.

    Attributes:
        value: the metric, as expected.
        stderr: its standard deviation, given all scores.
    """

    value: float
    stderr: float


def shrink(scores: Sequence[Score]) -> dict[int, Shrunken]:
    """The expected metric of each trial at the highest rung that measured it.

    Args:
        scores: of one study on the same rows, one for each trial and rung.
    """
    highest: dict[int, Score] = {}
    for score in sorted(scores, key=lambda s: (s.rung, s.trial)):
        highest[score.trial] = score
    tops = list(highest.values())
    chosen = sorted(scores, key=lambda s: (s.rung, s.trial))[-MOST:]
    if len(chosen) < FEWEST or np.ptp([score.value for score in chosen]) == 0:
        return {s.trial: Shrunken(s.value, s.stderr) for s in tops}
    inputs, asked = _inputs(chosen, tops)
    return dict(zip(highest, _posterior(inputs, chosen, asked), strict=True))


def _inputs(chosen: Sequence[Score], tops: Sequence[Score]) -> tuple[Inputs, Inputs]:
    """Features scaled so that the distance between two genotypes of the study is about 1."""
    known = np.array([score.features for score in chosen])
    mean, spread = known.mean(axis=0), known.std(axis=0)
    varied = np.ptp(known, axis=0) > 0
    scale = spread[varied] * np.sqrt(max(1, int(varied.sum())))

    def scaled(scores: Sequence[Score]) -> NDArray[np.float64]:
        genotypes = (np.array([s.features for s in scores]) - mean)[:, varied] / scale
        rungs = np.array([[float(s.rung)] for s in scores])
        return np.hstack([genotypes, rungs])

    return scaled(chosen), scaled(tops)


def _posterior(inputs: Inputs, scores: Sequence[Score], asked: Inputs) -> list[Shrunken]:
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - a second to import
    from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel  # noqa: PLC0415

    values = np.array([score.value for score in scores])
    noise = np.array([score.stderr for score in scores])
    centre, spread = values.mean(), values.std()
    best = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an answer
        for apart in RUNGS_APART:
            model = GaussianProcessRegressor(
                ConstantKernel(1.0, (1e-2, 1e2)) * RBF(1.0, (5e-2, 1e2)),
                alpha=np.maximum((noise / spread) ** 2, LEAST_NOISE),
            )
            model.fit(_moved(inputs, apart), (values - centre) / spread)
            if best is None or model.log_marginal_likelihood_value_ > best[0]:
                best = model.log_marginal_likelihood_value_, model, apart
    assert best is not None
    _, model, apart = best
    mean, deviation = model.predict(_moved(asked, apart), return_std=True)
    return [
        Shrunken(float(centre + spread * m), float(spread * d))
        for m, d in zip(mean, deviation, strict=True)
    ]


def _moved(inputs: Inputs, apart: float) -> Inputs:
    """Inputs whose rungs, the last feature, are so far apart."""
    return np.hstack([inputs[:, :-1], apart * inputs[:, -1:]])
