"""Settings that all trials of a study share."""

from dataclasses import dataclass

from autopeft.model.computing import Kernel, Precision

TRAINING_VERSION = 4
"""To be raised when the same genotype, seed, rows and settings come to other numbers."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a trial is trained, beyond its genotype.

    Attributes:
        epochs: passes over the training rows.
        batch_size: examples in a batch of one trial.
        warmup: part of the steps over which the learning rate rises linearly; then it falls
            linearly to 0.
        clip: largest gradient norm of a trial.
        precision: of the products; parameters of ops and heads are always fp32.
        kernel: how attention is computed.
        frozen_cache: states below the lowest op of a trial are computed once and kept.
        accumulation: parts that a batch is worked through in, their gradients added up.
        checkpointing: what a layer computes is not kept for the backward pass but computed again.
    """

    epochs: int = 3
    batch_size: int = 32
    warmup: float = 0.06
    clip: float = 1.0
    precision: Precision = "fp32"
    kernel: Kernel = "eager"
    frozen_cache: bool = False
    accumulation: int = 1
    checkpointing: bool = False

    @property
    def part_size(self) -> int:
        """Examples of one trial that run at once, at most."""
        return -(-self.batch_size // self.accumulation)
