"""The ways in which a backbone can compute, by name. No torch."""

from typing import Literal

Precision = Literal["fp32", "bf16"]
"""Of weights, hence of products."""

Kernel = Literal["eager", "sdpa"]
"""Of attention."""

Scheme = Literal["nf4", "int8"]
"""How the weight matrices of the layers are kept in few bits: NF4 in blocks of 64 (Dettmers et al.
2023), or 8-bit integers with a scale for each output. Products are not rounded to integers."""
