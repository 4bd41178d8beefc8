"""A worker without torch: what it measures follows from the genotype, so tests are quick.

`STUB_FACTS` is what it says it loaded, `STUB_LOADING` the seconds that takes (0), `STUB_SECONDS`
those of a job. A worker that finds the file `STUB_DIES` removes it and dies at the end of a job.
"""

import os
import signal
import sys
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from autopeft.engines.job import Job
from autopeft.engines.outcome import record_of
from autopeft.engines.protocol import (
    Decide,
    Decision,
    Done,
    Load,
    Loaded,
    Measured,
    Run,
    Step,
    receive_request,
    send,
)
from autopeft.engines.warden import watch_over_worker
from autopeft.engines.work import Decided, Facts
from autopeft.records import Failure, Metric
from autopeft.training.settings import TrainingSettings

STEPS = 5


def measure(facts, job, trial):
    """The record of a trial; one in ten fails."""
    draw = int(trial.genotype.hash, 16)
    return record_of(
        job,
        trial,
        facts=facts,
        precision="fp32",
        worker="stub",
        seconds=0.5,
        started=datetime.now(UTC),
        failure=Failure("nan", "it had to be") if draw % 10 == 0 else None,
        metric="accuracy",
        metrics={"accuracy": Metric(draw % 1000 / 1000, 0.01)},
        head_params=34,
        steps=STEPS,
    )


def die_once():
    """As if somebody else had killed it."""
    marker = Path(os.environ.get("STUB_DIES", "nowhere"))
    if marker.exists():
        marker.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def main():
    descriptor = int(sys.argv[1])
    watch_over_worker(descriptor)
    driver = Connection(descriptor)
    facts = Facts.model_validate_json(os.environ["STUB_FACTS"])
    while True:
        try:
            request = receive_request(driver)
        except EOFError:
            return
        if isinstance(request, Load):
            time.sleep(float(os.environ.get("STUB_LOADING", "0")))
            send(driver, Loaded(facts=facts))
        elif isinstance(request, Decide):
            decided = Decided(
                settings=TrainingSettings(), cohort=4, trial_seconds=0.1, trial_bytes=1000
            )
            send(driver, Decision(decided=decided))
        elif isinstance(request, Run):
            job = Job.from_dict(request.job, "job")
            for step in range(STEPS):
                time.sleep(float(os.environ["STUB_SECONDS"]) / STEPS)
                send(driver, Step(step=step + 1, steps=STEPS))
            die_once()
            for trial in job.trials:
                if trial.number in request.wanted:
                    send(driver, Measured(record=measure(facts, job, trial).to_dict()))
            send(driver, Done())


if __name__ == "__main__":
    main()
