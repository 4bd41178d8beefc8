"""A worker some of whose trials misbehave: `FAULTS` maps hashes of genotypes to what they do.

A fault that ends in `once` happens only in the first worker that meets it; a file remembers.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from autopeft.engines.warden import watch_over_worker


def orphan():
    """Leave a child in another session, and go."""
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
    os._exit(7)


def stuck():
    """Hang with the interpreter's lock held: no thread of this process runs any more."""
    ctypes.PyDLL(None).sleep(3600)


def no_memory():
    import torch

    torch.empty(2**58)


def error():
    raise ValueError("a bug\nand its second line")


def refuse():
    from autopeft.errors import DataError

    raise DataError("not with this model")


BEFORE = {
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: sys.exit(3),
    "hang": lambda: time.sleep(3600),
    "stuck": stuck,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": no_memory,
    "orphan": orphan,
    "error": error,
    "refuse": refuse,
}
LOSS = {"nan": float("nan"), "inf": float("inf")}


def main():
    descriptor = int(sys.argv[1])
    watch_over_worker(descriptor)
    from autopeft.engines import workbench
    from autopeft.engines.serve import serve

    faults = json.loads(os.environ["FAULTS"])
    train = workbench.train_cohort

    def train_cohort(backbone, genotypes, *args, **more):
        met = [faults.get(genotype.hash, "") for genotype in genotypes]
        for genotype, fault in zip(genotypes, met, strict=True):
            name, _, once = fault.partition(" ")
            if name not in BEFORE:
                continue
            if once:
                marker = Path(os.environ["FAULT_MARKERS"]) / genotype.hash
                if marker.exists():
                    continue
                marker.touch()
            BEFORE[name]()
        trained, seconds = train(backbone, genotypes, *args, **more)
        spoiled = [
            replace(item, losses=(*item.losses[:-1], LOSS[fault]), finite=False)
            if fault in LOSS
            else item
            for item, fault in zip(trained, met, strict=True)
        ]
        return spoiled, seconds

    workbench.train_cohort = train_cohort
    serve(Connection(descriptor))


if __name__ == "__main__":
    main()
