"""What trainings cost in seconds: as measured, else as expected."""

from collections.abc import Iterable
from dataclasses import dataclass

from autopeft.engines.job import Job
from autopeft.records import Record
from autopeft.study.rungs import Rungs


@dataclass(frozen=True)
class Costs:
    """Expected seconds.

    Attributes:
        rungs: of the study.
        trial_seconds: expected for a whole training before anything was measured.
    """

    rungs: Rungs
    trial_seconds: float

    def of_rung(self, rung: int, records: Iterable[Record]) -> float:
        """Of a trial from the rung below to this one, full fine-tuning aside.

        What took no time, as a trial that another tuner has lost, was not measured.
        """
        measured = (r for r in records if r.seconds and not r.cached and not r.is_full)
        there = [r.seconds for r in measured if (r.rung, r.replicate) == (rung, 0)]
        return sum(there) / len(there) if there else self.trial_seconds * self.rungs.share(rung)

    def of_whole(self, records: Iterable[Record]) -> float:
        """Of a whole training."""
        known = list(records)
        return sum(self.of_rung(rung, known) for rung in range(self.rungs.top + 1))

    def of_new(self, records: Iterable[Record]) -> float:
        """Of a new trial in the mean: about one of `reduction` goes on at every rung."""
        known = list(records)
        ratio = float(self.rungs.reduction)
        every = range(self.rungs.top + 1)
        return sum(self.of_rung(rung, known) * ratio**-rung for rung in every)

    def of_job(self, job: Job, records: Iterable[Record]) -> float:
        """Of each trial of a job."""
        return self.of_whole(records) if job.replicate else self.of_rung(job.rung, records)
