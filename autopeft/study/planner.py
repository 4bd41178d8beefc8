"""The next job of a study: a function of study file, manifest, jobs and records.

Promotions go first where they fill a cohort, then comes a block of new trials, then promotions that
fill none; the final selection is last. Slots for new trials come in blocks of one cohort. A slot's
proposal knows the measurements of earlier blocks (with several workers, of those that have ended by
then whatever the order); of its own block it knows the genotypes that were proposed before. So jobs
do not depend on where a search was interrupted or continued.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from autopeft.engines.job import Job, JobTrial
from autopeft.front import Front, Point, front_of, full_points_of, points_of, unbeaten
from autopeft.objectives import CostName, cost_of, costs_of
from autopeft.records import Record
from autopeft.selection import Role
from autopeft.space.costs import CostModel
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.seed import seed_of
from autopeft.space.words import HEAD, describe
from autopeft.study.contenders import FEWEST, affordable, contenders, may_be_best, trained_anew
from autopeft.study.costs import Costs
from autopeft.study.lessons import Lessons, lowest_rung
from autopeft.study.lora_rate import at_another_rate
from autopeft.study.propose import Measured, Proposal, propose
from autopeft.study.rungs import Key, Rungs, next_replicate
from autopeft.study.setup import Setup

EVERYBODY = 1_000_000
BLOCKS_BEHIND = 2
"""With several workers, a block may know those that are so many for each other worker before it.
With one, all wait for the slowest job again and again (`benchmarks/scale_sim.py`)."""
LORA_EVERY = 4
"""One slot in so many tunes LoRA, so that what the winners are compared with had a fair share."""


@dataclass
class Known:
    """What has been asked for and measured so far.

    Attributes:
        jobs: in the order in which they were written.
        records: by trial, rung and replicate.
        lost_seconds: that workers spent and no record tells of.
    """

    jobs: list[Job]
    records: dict[Key, Record]
    lost_seconds: float = 0.0

    def missing(self, job: Job) -> frozenset[int]:
        """Trials of a job without a record."""
        return frozenset(trial for trial, *rung in job.keys if (trial, *rung) not in self.records)

    @property
    def asked(self) -> set[Key]:
        """What jobs have been asked for."""
        return {key for job in self.jobs for key in job.keys}

    @property
    def trials(self) -> list[JobTrial]:
        """All trials, by number."""
        firsts = [job for job in self.jobs if job.rung == job.replicate == 0]
        return [trial for job in firsts for trial in job.trials]

    @property
    def ordered(self) -> list[Record]:
        """The records by key."""
        return [self.records[key] for key in sorted(self.records)]


class Planner:
    """Plans the jobs of one study.

    Args:
        setup: what is searched.
        rungs: of the study.
        trial_seconds: expected for a whole training before anything was measured.
        cohort: trials trained together.
        n_workers: jobs that run at the same time.
        lessons: which records the sampler learns from.
        cost_model: predicts costs that are not known exactly, if there are any.
    """

    def __init__(
        self,
        setup: Setup,
        rungs: Rungs,
        *,
        trial_seconds: float,
        cohort: int,
        n_workers: int,
        lessons: Lessons = lowest_rung,
        cost_model: CostModel | None = None,
    ) -> None:
        self._setup, self._spec, self._rungs = setup, setup.spec, rungs
        self._cohort, self._n_workers = cohort, n_workers
        self._lessons, self._cost_model = lessons, cost_model
        self.costs = Costs(rungs, trial_seconds)
        self.words = partial(words, nothing=self._spec.without_ops)

    def next_job(self, known: Known) -> Job | None:
        """The next job to write; None if there is nothing to do but to wait, or nothing at all."""
        return (
            self._promotion(known, self._cohort)
            or self._new_block(known)
            or self._promotion(known, 1)
            or self._replication(known)
        )

    def front(self, known: Known) -> Front:
        """The front of the search."""
        metric, most = self._spec.chosen_metric, self._setup.space.max_params
        records = self._scored(known)
        return front_of(records, metric, "maximize", most, self.words, self._setup.costs)

    def front_to_be(self, known: Known, front: Front) -> set[int]:
        """The trials of a front, and those that would be on it if others fell at a higher rung."""
        if not self._rungs.top:
            return {point.trial for point in front.points}
        records = self._scored(known)
        points = points_of(records, self._spec.chosen_metric, self._setup.space.max_params)
        final = {record.trial for record in records if record.rung == self._rungs.top}
        return unbeaten(points, final, tuple(self._setup.costs))

    def points(self, known: Known) -> list[Point]:
        """Every usable trial of the search, full fine-tuning included."""
        return self._points(self._scored(known), self._spec.chosen_metric)

    def paused(self, known: Known) -> list[Point]:
        """Usable trials without the metric, whose quality is that of the rungs below the top."""
        scored = {point.trial for point in self.points(known)}
        others = [record for record in known.ordered if record.trial not in scored]
        return self._points(others, self._spec.low_metric)

    def contenders(self, known: Known, most: int = EVERYBODY) -> dict[int, Role]:
        """Who would take part in the final selection as it stands, the most important first."""
        return contenders(self.points(known), self.front(known), most, self.paused(known))

    def contenders_to_be(self, known: Known) -> set[int]:
        """Who is the best of its kind, and who would be if others fell at a higher rung."""
        final = {record.trial for record in known.ordered if record.rung == self._rungs.top}
        return may_be_best(self.points(known), final, self.paused(known))

    def selected(self, records: Iterable[Record]) -> tuple[int, int]:
        """Contenders at most and seeds of the final selection; (0, 0) if there is none."""
        wanted, budget = self._spec.selection, self._spec.budget
        if self._setup.facts.unseen is None:
            return 0, 0
        trainings = int(wanted.share * budget.trials)
        if budget.time is not None:
            payable = wanted.share * budget.time / self.costs.of_whole(records)
            trainings = min(trainings, int(payable))
        return affordable(trainings, wanted.seeds)

    def short_of(self, known: Known) -> tuple[float, float] | None:
        """Seconds of the least final selection, and of what may go to it, if time keeps it away.

        None where there is one, or where there would be none with any time.
        """
        wanted, budget, records = self._spec.selection, self._spec.budget, known.records.values()
        is_wanted = self._setup.facts.unseen is not None
        if not is_wanted or not affordable(int(wanted.share * budget.trials), wanted.seeds)[1]:
            return None
        chosen, asked = self.contenders(known), known.asked
        if len(chosen) < FEWEST or any((trial, self._rungs.top, 1) in asked for trial in chosen):
            return None
        needed = FEWEST**2 * self.costs.of_whole(records)
        share = math.inf if budget.time is None else wanted.share * budget.time
        there = min(share, self._seconds_left(known, in_search=False))
        return (needed, there) if there < needed else None

    def quality(self, record: Record) -> float | None:
        """What a record measured, by the metric of its rung; None if it failed."""
        if record.state == "failed":
            return None
        is_top = record.rung == self._rungs.top
        metric = self._spec.chosen_metric if is_top else self._spec.low_metric
        return record.metrics[metric].value

    def costs_of(self, record: Record) -> dict[CostName, float]:
        """The costs that the study optimises, of a trial that did not fail."""
        return {name: cost_of(record, name) for name in self._spec.costs}

    def _scored(self, known: Known) -> list[Record]:
        """The records without those of rungs that have another metric than the study."""
        if self._spec.rung_metric is None:
            return known.ordered
        metric = self._spec.chosen_metric
        return [r for r in known.ordered if r.state == "failed" or metric in r.metrics]

    def _points(self, records: Sequence[Record], metric: str) -> list[Point]:
        most = self._setup.space.max_params
        return [*points_of(records, metric, most), *full_points_of(records, metric)]

    def _new_block(self, known: Known) -> Job | None:
        """The trials that are still missing from the current block."""
        size, trials = self._cohort, known.trials
        first = len(trials)
        start = first // size * size
        n_known = max(0, start - size * BLOCKS_BEHIND * (self._n_workers - 1))
        if any((i, 0, 0) not in known.records for i in range(n_known)):
            return None
        last = min(start + size, self._spec.budget.trials, first + self._affordable(known))
        if last <= first:
            return None
        there = [r for r in known.ordered if r.trial < n_known and not r.replicate]
        history = [self._measured(record) for record in self._lessons(there)]
        earlier = [trial.genotype for trial in trials]
        added = []
        for slot in range(first, last):
            proposal = self._propose(slot, history, earlier, n_known)
            earlier.append(proposal.genotype)
            seed = seed_of(self._spec.seed, proposal.genotype.hash, "0")
            added.append(JobTrial(slot, proposal.genotype, seed, proposal.origin))
        return self._job(added, 0, 0)

    def _propose(
        self, slot: int, history: Sequence[Measured], earlier: Sequence[Genotype], n_known: int
    ) -> Proposal:
        """The genotype of a slot, which may know the measurements of the first `n_known`."""
        taken = {genotype.hash for genotype in earlier}
        start = self._setup.starts.at(slot)
        if start is not None and start.genotype.hash not in taken:
            return Proposal(start.genotype, start.origin)
        lora = self._setup.lora if slot % LORA_EVERY == LORA_EVERY - 1 else None
        if lora and (other := at_another_rate(history, taken, lora)):
            return Proposal(other, "lora rate")
        proposal = propose(
            lora or self._setup.space,
            self._spec.sampler,
            seed=self._spec.seed,
            slot=slot,
            history=history,
            taken=taken,
            pending=earlier[n_known:],
            costs=self._spec.costs,
        )
        return replace(proposal, origin=f"lora {proposal.origin}") if lora else proposal

    def _measured(self, record: Record) -> Measured:
        genotype = genotype_from_dict(record.genotype)
        if record.failure is None:
            return Measured(genotype, self.quality(record), self.costs_of(record))
        # Records of failures tell no costs.
        costs = costs_of(genotype, self._setup.facts.shape, self._cost_model)
        known = {name: costs[name] for name in self._spec.costs if name in costs}
        is_bad = not record.failure.is_accident and len(known) == len(self._spec.costs)
        return Measured(genotype, None, known, is_bad=is_bad)

    def _promotion(self, known: Known, fewest: int) -> Job | None:
        """The trials that wait for the highest rung for which so many do."""
        if not self._rungs.top:
            return None
        records, trials = known.records.values(), known.trials
        total = self._spec.budget.trials if self._affordable(known) else len(trials)
        metric, costs = self._spec.low_metric, self._spec.costs  # nobody waits at the top
        loras = {trial.number for trial in trials if trial.genotype.is_lora}
        waiting = self._rungs.waiting(records, metric, costs, total, known.asked, loras)
        for rung, there in waiting.items():
            payable = self._payable(known, self.costs.of_rung(rung, records))
            some = there[: min(self._cohort, payable)]
            if some and len(some) >= fewest:
                return self._job([trials[number] for number in some], rung, 0)
        return None

    def _replication(self, known: Known) -> Job | None:
        """The next cohort of the final selection, once the search is over."""
        records = known.records.values()
        most, seeds = self.selected(records)
        if not seeds or any(known.missing(job) for job in known.jobs if not job.replicate):
            return None
        top = self._rungs.top
        asked = {(trial, replicate) for trial, rung, replicate in known.asked if rung == top}
        payable = self._payable(known, self.costs.of_whole(records), in_search=False)
        chosen, seeds = trained_anew(
            list(self.contenders(known, most)),
            most * seeds,
            self._spec.selection.seeds,
            asked,
            payable,
        )
        found = next_replicate(chosen, seeds, top, self._cohort, known.asked)
        if found is None:
            return None
        replicate, numbers = found
        trials = [known.trials[number] for number in numbers]
        seed = self._spec.seed
        fresh = [
            replace(trial, seed=seed_of(seed, trial.genotype.hash, str(replicate)))
            for trial in trials
        ]
        return self._job(fresh, self._rungs.top, replicate)

    def _job(self, trials: Sequence[JobTrial], rung: int, replicate: int) -> Job:
        order_seed = seed_of(self._spec.seed, "order", str(replicate))
        return Job(tuple(trials), rung, replicate, order_seed, self._rungs.until(rung))

    def _affordable(self, known: Known) -> int:
        """How many new trials the time left pays for, promotions included."""
        return self._payable(known, self.costs.of_new(known.records.values()))

    def _payable(self, known: Known, each: float, *, in_search: bool = True) -> int:
        """How many things of a cost the time left pays for, what runs being paid."""
        left = self._seconds_left(known, in_search=in_search)
        return EVERYBODY if math.isinf(left) else max(0, int(left // each))

    def _seconds_left(self, known: Known, *, in_search: bool) -> float:
        """Of the time budget, what runs being paid; without one there is no end of them."""
        limit = self._spec.budget.time
        if limit is None:
            return math.inf
        records = known.records.values()
        spent = known.lost_seconds + sum(record.seconds for record in records)
        for job in known.jobs:
            if missing := known.missing(job):
                spent += len(missing) * self.costs.of_job(job, records)
        if in_search and self.selected(records)[1]:
            limit *= 1 - self._spec.selection.share
        return max(0.0, limit - spent)


def words(genotype: dict[str, object], nothing: str = HEAD) -> str:
    """A genotype of a record in words; see `describe`."""
    return describe(genotype_from_dict(genotype), nothing)
