"""How the trials of a study are trained, as a study file says it."""

from typing import Annotated, Literal

from pydantic import Field

from autopeft.space.spec import Strict


class TrainingSpec(Strict):
    """Training, the same for all trials of a study."""

    epochs: Annotated[int, Field(strict=True, ge=1, le=1000)] = 3
    batch_size: Annotated[int, Field(strict=True, ge=1, le=4096)] = 32
    max_length: Annotated[int, Field(strict=True, ge=4, le=100_000)] = 128
    warmup: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.06
    clip: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    cohort: Literal["auto"] | Annotated[int, Field(strict=True, ge=1, le=1024)] = "auto"
    frozen_cache: Literal["auto"] | Annotated[bool, Field(strict=True)] = "auto"
