"""The worker's side of the protocol."""

import faulthandler
import os
import socket
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from autopeft.engines.job import Job
from autopeft.engines.protocol import (
    Begin,
    Calibrate,
    Calibrated,
    Decide,
    Decision,
    Done,
    Failed,
    Load,
    Loaded,
    Measured,
    Refused,
    Request,
    Run,
    Step,
    receive_request,
    send,
)
from autopeft.engines.workbench import Progress, Workbench, failure_from
from autopeft.errors import AutopeftError
from autopeft.space.genotype_file import genotype_from_dict

_STEP_SECONDS = 0.1
"""Between two signs of life at least."""


def serve(driver: "Connection[Any, Any]") -> None:
    """Answer requests until the driver hangs up."""
    faulthandler.enable()
    transformers_logging.set_verbosity_error()
    server = _Server(driver)
    while True:
        try:
            request = receive_request(driver)
        except EOFError:
            return
        try:
            server.answer(request)
        except AutopeftError as error:
            send(driver, Refused(error=type(error).__name__, message=str(error)))


class _Server:
    def __init__(self, driver: "Connection[Any, Any]") -> None:
        self._driver = driver

    def answer(self, request: Request) -> None:
        if isinstance(request, Load):
            devices = torch.cuda.device_count()
            if not devices and request.workers > 1 and "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(max(1, torch.get_num_threads() // request.workers))
            sharing = -(-request.workers // max(1, devices))
            device = request.index % max(1, devices)
            self._bench = Workbench(request.work, device, sharing)
            send(self._driver, Loaded(facts=self._bench.facts))
        elif isinstance(request, Decide):
            genotypes = [genotype_from_dict(item) for item in request.genotypes]
            decided = self._bench.decide(genotypes, request.cohort)
            send(self._driver, Decision(decided=decided))
        elif isinstance(request, Calibrate):
            genotypes = [genotype_from_dict(item) for item in request.genotypes]
            costs = self._bench.calibrate(request.settings, genotypes)
            send(self._driver, Calibrated(costs=costs))
        elif isinstance(request, Begin):
            name = f"{socket.gethostname()}:{os.getpid()}"
            self._bench.begin(request.decided, request.folder, name, fitting=request.fitting)
        else:
            self._run(request)

    def _run(self, request: Run) -> None:
        job = Job.from_dict(request.job, "job")
        try:
            for record in self._bench.run(job, request.wanted, self._progress()):
                send(self._driver, Measured(record=record.to_dict()))
        except (AutopeftError, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this trial's alone
            traceback.print_exc()
            failure = failure_from(error)
            send(self._driver, Failed(failure=failure.kind, message=failure.message))
        else:
            send(self._driver, Done())

    def _progress(self) -> Progress:
        last = 0.0

        def tell(step: int, steps: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _STEP_SECONDS:
                last = now
                send(self._driver, Step(step=step, steps=steps))

        return tell
