"""The best constant answer: what a model scores that has learnt nothing of the task."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

LEVEL = 0.05
"""Chance that something is said to have been learnt where nothing was."""


@dataclass(frozen=True)
class Constant:
    """One answer to every row, the one that scores best.

    Attributes:
        answer: in words.
        value: of the metric on the rows that the search scores on.
        stderr: of `value`, over rows.
    """

    answer: str
    value: float
    stderr: float

    @classmethod
    def of_manifest(cls, manifest: Any) -> Self | None:
        """The one that a manifest tells; None if it tells none, as older ones, or nonsense."""
        data = manifest.get("data") if isinstance(manifest, Mapping) else None
        told = data.get("constant") if isinstance(data, Mapping) else None
        if not isinstance(told, Mapping) or not isinstance(answer := told.get("answer"), str):
            return None
        value, stderr = told.get("value"), told.get("stderr")
        if not isinstance(value, int | float) or not isinstance(stderr, int | float):
            return None
        return cls(answer, value, stderr)

    def is_beaten(self, quality: float, stderr: float, among: int) -> bool:
        """Whether the best of some trials is better beyond noise.

        The difference has to exceed what a normal variable of the summed variances exceeds in 5 %
        of all cases, divided among the trials (Bonferroni). The rows are the same for both, so the
        true noise is less.

        Args:
            quality: of the best trial.
            stderr: of `quality`.
            among: how many trials it is the best of, as far as is known.
        """
        z = NormalDist().inv_cdf(1 - LEVEL / max(1, among))
        return quality - self.value > z * math.hypot(stderr, self.stderr)

    @property
    def told(self) -> str:
        """The answer and what it scores, in words that begin a sentence."""
        return f"Always answering {self.answer} scores {self.value:.4f} ± {self.stderr:.4f}"

    def nothing_learnt(self, *, anew: bool = False) -> str:
        """What to say where nothing beats it.

        Args:
            anew: trained with fresh seeds; in the search, with one seed, something may have.
        """
        if self.value >= 1:  # the most that a metric of ours can be
            return (
                f"{self.told}, and no trial can be better: these rows do not tell whether anything "
                "has been learnt. Score on rows with several labels."
            )
        which = "trained anew with fresh seeds no trial" if anew else "no trial"
        return (
            f"{self.told}, and {which} is better beyond noise: nothing has been learnt yet. Train "
            "for more epochs or on more rows, or score on more of them."
        )
