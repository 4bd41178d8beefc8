"""How long threads that compute wait for each other before they let go of their core."""

import os
import sys

SPINS = "10000"
SPINS_OF_GNU, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
"""Variables by which users say how threads wait."""


def wait_briefly() -> None:
    """Let the threads of this process sleep soon, unless the user has said how they wait.

    As GNU's OpenMP comes, a thread that is done spins some 300,000 times for the others. That is
    well where every core is its own. Where somebody else computes as well, another search or a
    notebook, threads spin on cores that those they wait for have need of, thousands of times a
    step: beside another process a cohort took seven times as long as with fewer spins
    (`benchmarks/contention.py`), and probes of the machine measured nothing but that.

    Has to be said before torch is imported. Other systems than Linux have another OpenMP.
    """
    if "torch" not in sys.modules and POLICY not in os.environ:
        os.environ.setdefault(SPINS_OF_GNU, SPINS)
