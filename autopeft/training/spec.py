"""How the trials of a study are trained, as a study file says it."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from autopeft.space.spec import Strict
from autopeft.space.yaml import refuse_if_any
from autopeft.training.settings import TrainingSettings

_LATER = {"accumulation": 1, "checkpointing": False}
"""Keys that came later, with what the studies that lack them do."""


class TrainingSpec(Strict):
    """Training, the same for all trials of a study.

    Attributes:
        accumulation: parts that a batch is worked through in. Their gradients are added up before
            the optimizer steps, so the result is that of the whole batch, the memory that of a
            part.
        checkpointing: layers are computed again in the backward pass instead of keeping what they
            computed. The result is the same, for about a third more time.
    """

    epochs: Annotated[int, Field(strict=True, ge=1, le=1000)] = 3
    batch_size: Annotated[int, Field(strict=True, ge=1, le=4096)] = 32
    max_length: Annotated[int, Field(strict=True, ge=4, le=100_000)] = 128
    warmup: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.06
    clip: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    cohort: Literal["auto"] | Annotated[int, Field(strict=True, ge=1, le=1024)] = "auto"
    frozen_cache: Literal["auto"] | Annotated[bool, Field(strict=True)] = "auto"
    accumulation: Annotated[int, Field(strict=True, ge=1, le=4096)] = 1
    checkpointing: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _parts_have_rows(self) -> "TrainingSpec":
        if self.accumulation > (most := self.batch_size):
            problem = f"{self.accumulation} parts of a batch of {most} rows; at most {most}"
            refuse_if_any([(("accumulation",), problem)])
        return self

    @property
    def settings(self) -> TrainingSettings:
        """What is known before the machine was probed."""
        return TrainingSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            warmup=self.warmup,
            clip=self.clip,
            accumulation=self.accumulation,
            checkpointing=self.checkpointing,
        )

    @property
    def told(self) -> dict[str, Any]:
        """All of it as plain values, as studies that lack a later key would tell it."""
        same = {name for name, before in _LATER.items() if getattr(self, name) == before}
        return self.model_dump(mode="json", exclude=same)
