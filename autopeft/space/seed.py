"""Seeds that follow from other seeds and from words."""

import hashlib


def seed_of(seed: int, *words: str) -> int:
    """A seed for one purpose, the same on every machine."""
    text = "\0".join([str(seed), *words])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
