"""What is loaded, and what is told of it."""

from autopeft.engines import ground
from autopeft.engines.ground import load_ground


def test_memory_that_tokenizers_took_is_released(spec_of, monkeypatch):
    done = []
    encode_for = ground.encode_for
    monkeypatch.setattr(ground, "encode_for", lambda *what: done.append(1) or encode_for(*what))
    monkeypatch.setattr(ground, "release_memory", lambda: done.append(0))
    load_ground(spec_of().work)
    assert done == [1, 1, 0]
