"""What to try next: a pure function of the study's seed, the slot and earlier measurements.

For every slot an in-memory Optuna study is built from the measurements and asked once by a
sampler seeded with (study seed, slot, attempt). So a resumed search cannot propose anything else
than an uninterrupted one, and no sampler has a state to lose.

Genotypes that were proposed before and whose measurements this slot may not know stand there as
running trials: TPE takes them for bad ones (the constant liar), a Gaussian process expects of them
what its posterior says and looks for what they leave to gain. So the trials of a cohort differ.

Trials that diverged are infeasible ones to TPE and to a Gaussian process. Left out, they would
leave a place where nothing is bad, and TPE goes there. NSGA-II does without: it breeds from what
survives.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from autopeft.errors import NoFeasibleTrialError
from autopeft.objectives import PARAMS, CostName, directions_of, values_of
from autopeft.space.dimension import Params
from autopeft.space.encode import encode
from autopeft.space.genotype import Genotype
from autopeft.space.reduce import reduced
from autopeft.space.search_space import SearchSpace
from autopeft.space.seed import seed_of
from autopeft.study.distributions import shared_distributions_of
from autopeft.study.quiet import quiet
from autopeft.study.spec import SamplerName

ATTEMPTS = 2000
"""Draws for one slot before such draws are made smaller until they fit."""
NEW_ATTEMPTS = 50
"""Draws for one slot by a sampler that give nothing new before random ones take its place, and
such draws before a genotype that was tried already is accepted again."""
POPULATION = 20
"""Of NSGA-II; small, since studies are."""
GP_ATTEMPTS = 8
"""Draws for one slot by a Gaussian process, each of which takes seconds; then come random ones."""


@dataclass(frozen=True)
class Measured:
    """What a sampler learns of one trial.

    Attributes:
        genotype: what was trained.
        quality: the metric; None if the trial has none.
        costs: what else the study optimises, of the trial.
        is_bad: it has no quality because of what it is, a loss that went to infinity. If False,
            that was an accident, which tells a sampler nothing.
    """

    genotype: Genotype
    quality: float | None
    costs: Mapping[CostName, float]
    is_bad: bool = False


@dataclass(frozen=True)
class Proposal:
    """What to try in a slot, and where it came from."""

    genotype: Genotype
    origin: str


@quiet()
def propose(
    space: SearchSpace,
    sampler: SamplerName,
    *,
    seed: int,
    slot: int,
    history: Sequence[Measured],
    taken: Collection[str],
    pending: Sequence[Genotype] = (),
    costs: Sequence[CostName] = (PARAMS,),
) -> Proposal:
    """Draw the genotype of a slot.

    Args:
        space: bound to model and budget.
        sampler: which one.
        seed: of the study.
        slot: number of the trial to come.
        history: measurements that this slot may know.
        taken: hashes of the genotypes of all earlier slots.
        pending: genotypes of earlier slots whose measurements this slot may not know.
        costs: what the study optimises beside the quality.

    Returns:
        A genotype within the budget, new if the space still has any.

    Raises:
        NoFeasibleTrialError: no draw fitted the budget, made smaller neither.
    """
    told = _told(space, sampler, history, pending, len(costs))
    own = GP_ATTEMPTS if sampler == "gp" else NEW_ATTEMPTS
    again: Proposal | None = None
    for attempt in range(ATTEMPTS):
        name = sampler if attempt < own else "random"
        params = _ask(space, name, seed_of(seed, "slot", str(slot), str(attempt)), told)
        genotype = space.decode(params)
        if name == "gp":  # or the next draw would be like this one, if it is refused
            told = replace(told, pending=(*told.pending, params))
        if not genotype.ops or not space.admits(genotype):
            continue
        proposal = Proposal(genotype, name)
        if genotype.hash not in taken:
            return proposal
        again = again or proposal
        if attempt >= own + NEW_ATTEMPTS:
            break
    again = again or _cut_down(space, seed, slot, taken)
    if again is None:
        raise NoFeasibleTrialError(
            f"none of {ATTEMPTS:,} draws from space {space.spec.name} fits "
            f"{space.max_params:,} parameters"
            + (" and the memory" if space.memory is not None else "")
        )
    return again


def _cut_down(space: SearchSpace, seed: int, slot: int, taken: Collection[str]) -> Proposal | None:
    """A random draw made smaller until it fits, a new one if there is any; None if none fits."""
    again: Proposal | None = None
    for attempt in range(NEW_ATTEMPTS):
        cut_seed = seed_of(seed, "cut", str(slot), str(attempt))
        params = _ask(space, "random", cut_seed, _Told((), (), 1))
        genotype = reduced(space, params, cut_seed)
        if genotype is None:
            continue
        again = again or Proposal(genotype, "random")
        if genotype.hash not in taken:
            return Proposal(genotype, "random")
    return again


@dataclass(frozen=True)
class _Told:
    """What a sampler is told.

    Attributes:
        measured: coordinates, values of the objectives, and by how much limits are exceeded.
        pending: coordinates.
        n_costs: objectives beside the quality.
    """

    measured: tuple[tuple[Params, tuple[float, ...], Mapping[str, float]], ...]
    pending: tuple[Params, ...]
    n_costs: int


def _told(
    space: SearchSpace,
    sampler: SamplerName,
    history: Sequence[Measured],
    pending: Sequence[Genotype],
    n_costs: int,
) -> _Told:
    if sampler == "nsga2":
        history = [one for one in history if not one.is_bad]
    is_limited = sampler == "gp" and not space.by_construction
    qualities = [one.quality for one in history if one.quality is not None]
    some_are_bad = any(one.is_bad for one in history)
    measured = []
    for one in history:
        params = encode(space, one.genotype)
        # What has no quality is infeasible; the values of such trials are asked for all the same.
        quality = min(qualities, default=0.0) if one.is_bad else one.quality
        if params is None or quality is None:
            continue
        limits = {"excess": _excess(space, one.genotype)} if is_limited else {}
        if some_are_bad:
            limits["bad"] = float(one.is_bad)
        measured.append((params, values_of(quality, one.costs), limits))
    running = (encode(space, genotype) for genotype in pending)
    return _Told(tuple(measured), tuple(p for p in running if p is not None), n_costs)


def _excess(space: SearchSpace, genotype: Genotype) -> float:
    """The logarithm of the parameters over their limit: positive where they exceed it."""
    excess = math.log1p(genotype.count_params(space.shape)) - math.log1p(space.max_params)
    if space.max_trained is None:
        return excess
    trained = math.log1p(genotype.count_trained(space.shape)) - math.log1p(space.max_trained)
    return max(excess, trained)


def _ask(space: SearchSpace, name: SamplerName, seed: int, told: _Told) -> Params:
    distributions = shared_distributions_of(space)
    sampler = _sampler(name, seed % 2**32)
    study = optuna.create_study(directions=directions_of(told.n_costs), sampler=sampler)
    if name == "random":  # it learns nothing
        told = _Told((), (), told.n_costs)
    for i, (params, values, limits) in enumerate(told.measured):
        study.add_trial(
            create_trial(
                params=dict(params),
                distributions=distributions,
                values=list(values),
                system_attrs=_generation(sampler, i),
                constraints=dict(limits) or None,
            )
        )
    for params in told.pending:
        study.add_trial(
            create_trial(state=TrialState.RUNNING, params=dict(params), distributions=distributions)
        )
    return dict(study.ask(distributions).params)


def _sampler(name: SamplerName, seed: int) -> BaseSampler:
    if name == "tpe":
        return TPESampler(seed=seed, constant_liar=True)
    if name == "gp":
        return GPSampler(seed=seed, warn_independent_sampling=False)
    if name == "nsga2":
        return NSGAIISampler(population_size=POPULATION, seed=seed)
    return RandomSampler(seed=seed)


def _generation(sampler: BaseSampler, index: int) -> dict[str, int]:
    """NSGA-II finds its population by an attribute, which trials from records do not have."""
    if not isinstance(sampler, NSGAIISampler):
        return {}
    return {sampler._get_generation_key(): index // POPULATION}  # noqa: SLF001
