"""The ways in which a backbone can compute, by name. No torch."""

from typing import Literal

Precision = Literal["fp32", "bf16"]
"""Of weights, hence of products."""

Kernel = Literal["eager", "sdpa"]
"""Of attention."""
