"""The command line with stub workers: `python drive.py search study.yaml --out out`."""

import sys
from pathlib import Path

from autopeft.cli.main import main
from autopeft.engines import local

local.WORKER = (sys.executable, str(Path(__file__).with_name("stub_worker.py")))
main()
