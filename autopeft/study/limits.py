"""The limits of a study on parameters and memory, of a model."""

from dataclasses import dataclass

from autopeft.objectives import amount
from autopeft.space.costs import CostModel, MemoryLimit
from autopeft.space.genotype import Genotype
from autopeft.space.search_space import within
from autopeft.space.shape import ModelShape
from autopeft.study.spec import StudySpec, limit


@dataclass(frozen=True)
class Budget:
    """The limits on a trial, of a model.

    Attributes:
        max_params: of the ops as they are stored.
        max_trained: of the ops while they are trained, if that is limited.
        memory: of a training alone, if that is limited and can be predicted.
    """

    max_params: int
    max_trained: int | None
    memory: MemoryLimit | None = None

    def __str__(self) -> str:
        trained = "" if self.max_trained is None else f", {self.max_trained:,} of them trained"
        memory = "" if self.memory is None else f", {amount(self.memory.max_bytes, 'B')} of memory"
        return f"{self.max_params:,}{trained}{memory}"

    def spent_by(self, genotype: Genotype, shape: ModelShape) -> str:
        """What a genotype has and takes of that which is limited, in words."""
        if self.memory is None:
            return counts_of(genotype, shape)
        taken = self.memory.model.memory_bytes(genotype, shape)
        return f"{counts_of(genotype, shape)} and takes {amount(taken, 'B')}"

    def admits(self, genotype: Genotype, shape: ModelShape) -> bool:
        """Whether a genotype is within all of them."""
        return within(genotype, shape, self.max_params, self.max_trained, self.memory)


def budget_of(spec: StudySpec, shape: ModelShape, costs: CostModel | None = None) -> Budget:
    """The limits of a study, in parameters and bytes.

    Args:
        spec: the study.
        shape: of its model.
        costs: predicts the memory of a training.
    """
    most, trained, memory = spec.budget.max_params, spec.budget.max_trained, spec.budget.max_memory
    return Budget(
        limit(most, shape.backbone_params),
        None if trained is None else limit(trained, shape.backbone_params),
        None if memory is None or costs is None else MemoryLimit(memory, costs),
    )


def counts_of(genotype: Genotype, shape: ModelShape) -> str:
    """The parameters of a genotype in words, those trained where they differ."""
    stored, trained = genotype.count_params(shape), genotype.count_trained(shape)
    return f"{stored:,} parameters" + (f", {trained:,} while training" if trained > stored else "")
