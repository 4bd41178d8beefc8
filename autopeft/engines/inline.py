"""An engine without a process of its own: jobs run where the driver runs, unsupervised.

Whatever the caller does with torch, they run as in a worker.
"""

import os
import socket
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from autopeft.engines.engine import Stepped
from autopeft.engines.fresh_torch import fresh_torch
from autopeft.engines.job import Job
from autopeft.engines.meter import Meter
from autopeft.engines.outcome import Attempt, Mishap, Moment, after, attempts_of, record_of
from autopeft.engines.work import CohortSize, Decided, Facts, Work
from autopeft.engines.workbench import Workbench, failure_from, rising
from autopeft.errors import AutopeftError
from autopeft.records import Record
from autopeft.space.costs import CostModel
from autopeft.space.genotype import Genotype
from autopeft.training.settings import TrainingSettings


class InlineEngine:
    """Runs one job after the other.

    Args:
        work: what to load.
    """

    n_workers = 1

    def __init__(self, work: Work) -> None:
        self._work = work
        self._attempts: deque[Attempt] = deque()
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    @fresh_torch()
    def load(self) -> Facts:
        """Load model and data into this process."""
        self._bench = Workbench(self._work)
        return self._bench.facts

    @fresh_torch()
    def decide(self, genotypes: Sequence[Genotype], cohort: CohortSize) -> Decided:
        """Measure how to compute."""
        return self._bench.decide(genotypes, cohort)

    @fresh_torch()
    def calibrate(self, settings: TrainingSettings, genotypes: Sequence[Genotype]) -> CostModel:
        """Measure what genotypes cost alone."""
        return self._bench.calibrate(settings, genotypes)

    @fresh_torch()
    def begin(self, decided: Decided, folder: Path) -> None:
        """Get ready for jobs."""
        self._precision = decided.precision
        self._bench.begin(decided, folder, self._name)

    def submit(self, job: Job, wanted: Collection[int]) -> None:
        """Take a job."""
        self._attempts.extend(attempts_of(job, wanted))

    def results(self, stepped: Stepped, meter: Meter | None = None) -> Iterator[Record]:
        """Run the jobs that were taken."""
        meter = meter or Meter()
        while self._attempts:
            records = self._run(self._attempts.popleft(), stepped, meter)
            while (record := _next(records)) is not None:
                yield record

    def close(self) -> None:
        """Forget the jobs."""
        self._attempts.clear()

    def _run(self, attempt: Attempt, stepped: Stepped, meter: Meter) -> Iterator[Record]:
        job, began = attempt.job, Moment()
        progress = rising(lambda step, steps: stepped(job.numbers, step, steps))
        missing = set(attempt.wanted)
        meter.begins(0)
        try:
            for record in self._bench.run(job, attempt.wanted, progress):
                missing.remove(record.trial)
                meter.brings(0, record.seconds)
                if not missing:
                    meter.ends(0)
                yield record
        except AutopeftError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this trial's alone
            mishap = Mishap(failure_from(error))
        else:
            return
        attempts = after(replace(attempt, wanted=frozenset(missing)), mishap)
        self._attempts.extendleft(reversed(attempts))
        if attempts:
            meter.ends(0)
            return
        record = record_of(
            job,
            job.trials[0],
            facts=self._bench.facts,
            precision=self._precision,
            worker=self._name,
            seconds=began.seconds,
            started=began.told,
            failure=mishap.failure,
        )
        meter.brings(0, record.seconds)
        meter.ends(0)
        yield record


@fresh_torch()
def _next(records: Iterator[Record]) -> Record | None:
    """One at a time, since what is done with a record is the caller's."""
    return next(records, None)
