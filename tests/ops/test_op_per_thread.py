"""State that every thread has for itself."""

import copy
import pickle
import threading
import weakref

import torch

from autopeft.ops.gate import Tokens
from autopeft.ops.per_thread import PerThread


class Held(PerThread):
    def __init__(self):
        self.things = ["fresh"]


def in_a_thread(act):
    found = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join()
    return found[0]


def test_each_thread_begins_anew_and_takes_what_it_has_along():
    held = Held()
    held.things.append(torch.zeros(3))

    def leave():
        before, tensor = list(held.things), torch.ones(2)
        held.things.append(tensor)
        return before, weakref.ref(tensor)

    before, left = in_a_thread(leave)
    assert before == ["fresh"]
    assert left() is None
    assert len(held.things) == 2


def test_copies_begin_anew():
    held = Held()
    held.things.append(1)
    for other in (copy.copy(held), copy.deepcopy(held), pickle.loads(pickle.dumps(held))):
        assert type(other) is Held
        assert other.things == ["fresh"]


def test_a_thread_that_is_told_nothing_reads_what_was_told_last():
    """As one of autograd's, in which a layer on a GPU is computed again."""
    tokens, other = Tokens(), torch.zeros(1, 2)
    assert tokens.real is None
    tokens.tell(torch.ones(1, 2))
    in_a_thread(lambda: tokens.tell(other))
    assert tokens.real.all()
    assert in_a_thread(lambda: tokens.real) is other
    tokens.tell(None)
    assert tokens.real is None
