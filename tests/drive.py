"""The command line with stub workers: `python drive.py search study.yaml --out out`.

`CRASH_AT`, a place of `crashes.py` and a number, kills it there after so many times.
"""

import os
import signal
import sys
from pathlib import Path

from crashes import Trap

from autopeft.cli.main import main
from autopeft.engines import local

local.WORKER = (sys.executable, str(Path(__file__).with_name("stub_worker.py")))
if "CRASH_AT" in os.environ:
    place, times = os.environ["CRASH_AT"].rsplit(" ", 1)
    trap = Trap(lambda: os.kill(os.getpid(), signal.SIGKILL), local.LocalEngine)
    trap.set(place, int(times))
main()
