"""Training one genotype as a search would train it."""

from pathlib import Path

from autopeft.engines.job import Job, JobTrial
from autopeft.engines.local import LocalEngine, Progress, Workplace
from autopeft.errors import ConfigError
from autopeft.ops.base import seed_of
from autopeft.records import Record, write_record
from autopeft.space.genotype import Genotype
from autopeft.space.search_space import within
from autopeft.study.folder import check_new
from autopeft.study.prepare import counts_of, decide, prepare
from autopeft.study.spec import StudySpec


def train_one(
    spec: StudySpec,
    genotype: Genotype,
    out: Path,
    *,
    base: Path | None = None,
    progress: Progress | None = None,
) -> Record:
    """Train a genotype with the settings of a study; the same seed as in a search with it.

    Args:
        spec: the study; its space and trial budget are not used.
        genotype: what to train.
        out: folder for the record and the weights; must be new or empty.
        base: folder that relative paths in `spec` start from.
        progress: called with (steps done, steps in all).

    Raises:
        ConfigError: the genotype does not fit the model or the parameter budget.
        DataError: data or model cannot be used.
    """
    check_new(out)
    ground = prepare(spec, base or Path.cwd())
    shape = ground.backbone.shape
    genotype.check_fits(shape)
    if not within(genotype, shape, ground.max_params, ground.max_trained):
        raise ConfigError(
            f"the genotype has {counts_of(genotype, shape)}, the budget is {ground.budget}"
        )
    decided = decide(ground, [genotype], 1)
    ground = ground.computing_in(decided.settings.precision)
    out.mkdir(parents=True, exist_ok=True)
    engine = LocalEngine(
        Workplace(
            backbone=ground.backbone,
            task=ground.task,
            train=ground.train,
            validation=ground.validation,
            split="validation",
            settings=decided.settings,
            root=out,
            trial_bytes=decided.trial_bytes,
        )
    )
    trial = JobTrial(0, genotype, seed_of(spec.seed, genotype.hash, "0"))
    job = Job((trial,), 0, 0, seed_of(spec.seed, "order", "0"))
    (record,) = engine.run(job, progress)
    write_record(out, record)
    return record
