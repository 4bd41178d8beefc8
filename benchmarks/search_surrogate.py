"""A model of the table: what a genotype that nobody has trained would have scored, with its noise.

Extremely randomised trees (Geurts et al. 2006) on what `search_features` says of a genotype, one
model for each rung's search score and one for the test score. What they miss is drawn: the
residuals of one of the nearest genotypes of the table, held out, those of all rungs and of the
test together, as they belong together. A genotype has the same scores whenever it is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from search_bench import METRIC, Scored
from search_features import features
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from autopeft.engines.job import Job
from autopeft.records import Metric, Objective, Record
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.seed import seed_of
from autopeft.space.shape import ModelShape
from autopeft.study.rungs import Rungs

FOLDS = 10
NEAREST = 20
"""Genotypes of the table among which residuals are drawn."""
TREES, LEAF = 300, 2

Table = Mapping[tuple[str, int], Scored]
"""By genotype and steps."""


@dataclass(frozen=True)
class HeldOut:
    """How well one score is predicted of genotypes that were left out.

    Attributes:
        tau: Kendall's, of predicted and true scores.
        error: root of the mean squared error.
        spread: standard deviation of the true scores.
    """

    tau: float
    error: float
    spread: float


class Surrogate:
    """Scores of any genotype that consists of what the table's genotypes consist of.

    Args:
        table: completely trained genotypes.
        shape: of their model.
    """

    def __init__(self, table: Table, shape: ModelShape) -> None:
        self._shape = shape
        self._steps = sorted({steps for _, steps in table})
        top = self._steps[-1]
        items = [table[key, top] for key in sorted({key for key, _ in table})]
        self._model = items[0].record
        known = np.array([self._raw(genotype_from_dict(item.record.genotype)) for item in items])
        self._varies = np.ptp(known, axis=0) > 0
        self._mean, self._sd = known.mean(0), np.where(self._varies, known.std(0), 1.0)
        self._known = self._scaled(known)
        self._scores: Float[np.ndarray, "genotype score"] = np.array(
            [
                [
                    *(table[i.record.hash, s].record.metrics[METRIC].value for s in self._steps),
                    i.test_quality,
                ]
                for i in items
            ]
        )
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        left_out = cross_val_predict(self._new(), self._known, self._scores, cv=folds)
        self._residuals = self._scores - left_out
        self._trees = self._new().fit(self._known, self._scores)
        self.held_out = {
            name: HeldOut(
                float(stats.kendalltau(left_out[:, i], self._scores[:, i]).statistic),
                float(np.sqrt((self._residuals[:, i] ** 2).mean())),
                float(self._scores[:, i].std()),
            )
            for i, name in enumerate([*map(str, self._steps), "test"])
        }

    def fetch(self, job: Job, rungs: Rungs) -> list[Scored]:
        """What a job would have measured; it takes no seconds."""
        at = self._steps.index(rungs.steps[job.rung])
        scores = self._of([trial.genotype for trial in job.trials])
        return [
            Scored(
                self._record(trial.genotype, trial.number, job.rung, float(row[at])),
                np.array([row[-1]]),
            )
            for trial, row in zip(job.trials, scores, strict=True)
        ]

    def _of(self, genotypes: Sequence[Genotype]) -> Float[np.ndarray, "genotype score"]:
        asked = self._scaled(np.array([self._raw(genotype) for genotype in genotypes]))
        found = self._trees.predict(asked)
        for i, genotype in enumerate(genotypes):
            near = np.argsort(((self._known - asked[i]) ** 2).sum(1), kind="stable")[:NEAREST]
            rng = np.random.default_rng(seed_of(0, "residual", genotype.hash))
            found[i] += self._residuals[rng.choice(near)]
        return np.clip(found, 0.0, 1.0)

    def _record(self, genotype: Genotype, trial: int, rung: int, value: float) -> Record:
        params = genotype.count_params(self._shape)
        stderr = self._model.metrics[METRIC].stderr
        return replace(
            self._model,
            trial=trial,
            rung=rung,
            cohort=(trial,),
            genotype=genotype.to_dict(),
            hash=genotype.hash,
            trainable_params=params,
            fraction=params / self._shape.backbone_params,
            metrics={METRIC: Metric(value, stderr)},
            objectives={METRIC: Objective(value, "1", stderr)},
            row_scores=None,
            seconds=0.0,
        )

    def _raw(self, genotype: Genotype) -> tuple[float, ...]:
        return features(genotype, self._shape)

    def _scaled(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = ((raw - self._mean) / self._sd)[:, self._varies]
        return scaled

    @staticmethod
    def _new() -> ExtraTreesRegressor:
        return ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, random_state=0)
