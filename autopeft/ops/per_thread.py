"""What one hook of a forward pass leaves for another one: of each thread by itself.

A model that is served runs in several threads at once, and a pass has to read what is its own.
"""

import threading
from typing import Any


class PerThread(threading.local):
    """Attributes that every thread has for itself, as `__init__` sets them, until it ends.

    There is nothing to keep between passes: a copy begins anew, and so does what was pickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Make another one."""
        return type(self), ()
