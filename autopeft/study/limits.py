"""The limits of a study on parameters, of a model."""

from dataclasses import dataclass

from autopeft.space.genotype import Genotype
from autopeft.space.shape import ModelShape
from autopeft.study.spec import StudySpec, limit


@dataclass(frozen=True)
class Budget:
    """The limits on parameters, of a model.

    Attributes:
        max_params: of the ops as they are stored.
        max_trained: of the ops while they are trained, if that is limited.
    """

    max_params: int
    max_trained: int | None

    def __str__(self) -> str:
        trained = "" if self.max_trained is None else f", {self.max_trained:,} of them trained"
        return f"{self.max_params:,}{trained}"


def budget_of(spec: StudySpec, shape: ModelShape) -> Budget:
    """The limits of a study in parameters."""
    most, trained = spec.budget.max_params, spec.budget.max_trained
    return Budget(
        limit(most, shape.backbone_params),
        None if trained is None else limit(trained, shape.backbone_params),
    )


def counts_of(genotype: Genotype, shape: ModelShape) -> str:
    """The parameters of a genotype in words, those trained where they differ."""
    stored, trained = genotype.count_params(shape), genotype.count_trained(shape)
    return f"{stored:,} parameters" + (f", {trained:,} while training" if trained > stored else "")
