"""What to try next: a pure function of the study's seed, the slot and earlier measurements.

For every slot an in-memory Optuna study is built from the measurements and asked once by a
sampler seeded with (study seed, slot, attempt). So a resumed search cannot propose anything else
than an uninterrupted one, and no sampler has a state to lose.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from autopeft.errors import NoFeasibleTrialError
from autopeft.objectives import PARAMS, CostName, directions_of, values_of
from autopeft.space.dimension import Params
from autopeft.space.encode import encode
from autopeft.space.genotype import Genotype
from autopeft.space.search_space import SearchSpace
from autopeft.space.seed import seed_of
from autopeft.study.distributions import distributions_of
from autopeft.study.spec import SamplerName

ATTEMPTS = 2000
"""Draws for one slot before a space that is filtered counts as infeasible."""
NEW_ATTEMPTS = 50
"""Draws for one slot before a genotype that was tried already is accepted again."""
POPULATION = 20
"""Of NSGA-II; small, since studies are."""


@dataclass(frozen=True)
class Measured:
    """What a sampler learns of one trial.

    Attributes:
        genotype: what was trained.
        quality: the metric; None if the trial failed.
        costs: what else the study optimises, of the trial.
    """

    genotype: Genotype
    quality: float | None
    costs: Mapping[CostName, float]


@dataclass(frozen=True)
class Proposal:
    """What to try in a slot, and where it came from."""

    genotype: Genotype
    origin: str


def propose(
    space: SearchSpace,
    sampler: SamplerName,
    *,
    seed: int,
    slot: int,
    history: Sequence[Measured],
    taken: Collection[str],
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
        costs: what the study optimises beside the quality.

    Returns:
        A genotype within the budget, new if the space still has any.

    Raises:
        NoFeasibleTrialError: no draw fitted the budget.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    told, n_costs = _told(space, history), len(costs)
    again: Proposal | None = None
    for attempt in range(ATTEMPTS):
        params = _ask(space, sampler, seed_of(seed, "slot", str(slot), str(attempt)), told, n_costs)
        genotype = space.decode(params)
        if not genotype.ops or not space.admits(genotype):
            continue
        proposal = Proposal(genotype, sampler)
        if genotype.hash not in taken:
            return proposal
        again = again or proposal
        if attempt >= NEW_ATTEMPTS:
            break
    if again is None:
        raise NoFeasibleTrialError(
            f"none of {ATTEMPTS:,} draws from space {space.spec.name} fits "
            f"{space.max_params:,} parameters"
        )
    return again


_Told = Sequence[tuple[Params, tuple[float, ...]]]


def _told(space: SearchSpace, history: Sequence[Measured]) -> _Told:
    return [
        (params, values_of(measured.quality, measured.costs))
        for measured in history
        if measured.quality is not None and (params := encode(space, measured.genotype)) is not None
    ]


def _ask(space: SearchSpace, name: SamplerName, seed: int, told: _Told, n_costs: int) -> Params:
    distributions = distributions_of(space)
    sampler = _sampler(name, seed % 2**32)
    study = optuna.create_study(directions=directions_of(n_costs), sampler=sampler)
    for i, (params, values) in enumerate(told):
        study.add_trial(
            create_trial(
                params=dict(params),
                distributions=dict(distributions),
                values=list(values),
                system_attrs=_generation(sampler, i),
                state=TrialState.COMPLETE,
            )
        )
    return dict(study.ask(distributions).params)


def _sampler(name: SamplerName, seed: int) -> BaseSampler:
    if name == "tpe":
        return TPESampler(seed=seed)
    if name == "nsga2":
        return NSGAIISampler(population_size=POPULATION, seed=seed)
    return RandomSampler(seed=seed)


def _generation(sampler: BaseSampler, index: int) -> dict[str, int]:
    """NSGA-II finds its population by an attribute, which trials from records do not have."""
    if not isinstance(sampler, NSGAIISampler):
        return {}
    return {sampler._get_generation_key(): index // POPULATION}  # noqa: SLF001
