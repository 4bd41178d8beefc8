"""Training one genotype as a search would train it."""

from pathlib import Path

from autopeft.engines.inline import InlineEngine
from autopeft.engines.job import Job, JobTrial
from autopeft.engines.workbench import Progress
from autopeft.errors import ConfigError
from autopeft.files import write_atomic
from autopeft.front import Front, front_of
from autopeft.front_file import write_front
from autopeft.objectives import MEMORY, amount
from autopeft.record_files import write_record
from autopeft.records import Record
from autopeft.space.costs import CostModel
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.seed import seed_of
from autopeft.space.shape import ModelShape
from autopeft.space.shipped import shipped_spaces
from autopeft.space.words import describe
from autopeft.study.folder import Study, check_new
from autopeft.study.limits import budget_of, counts_of
from autopeft.study.manifest import READING, Manifest, new_manifest, write_manifest
from autopeft.study.spec import StudySpec
from autopeft.study.write import spec_yaml


def train_one(
    spec: StudySpec,
    genotype: Genotype,
    out: Path,
    *,
    base: Path | None = None,
    progress: Progress | None = None,
) -> Record:
    """Train a genotype with the settings of a study; the same seed as in a search with it.

    What is written is a study of one trial, which can be shown, tested and exported, though not
    continued.

    Args:
        spec: the study; its space and trial budget are not used.
        genotype: what to train.
        out: its folder; must be new or empty.
        base: folder that relative paths in `spec` start from.
        progress: called with (steps done, steps in all).

    Raises:
        ConfigError: the genotype does not fit the model or the budget.
        DataError: data or model cannot be used.
    """
    if genotype.full and spec.quantize is not None:
        raise ConfigError(
            f"full fine-tuning trains weights, and those in {spec.quantize} stay frozen"
        )
    check_new(out)
    base = base or Path.cwd()
    spec = spec.resolved(base)
    engine = InlineEngine(spec.work)
    facts = engine.load()
    shape = facts.shape
    genotype.check_fits(shape)
    budget = budget_of(spec, shape)
    if not budget.admits(genotype, shape):
        raise ConfigError(f"the genotype has {counts_of(genotype, shape)}, the budget is {budget}")
    decided = engine.decide([genotype], 1)
    if spec.predicts:
        costs = engine.calibrate(decided.settings, [genotype])
        decided = decided.model_copy(update={"costs": costs})
        _check_memory(genotype, shape, costs, spec.budget.max_memory)
    out.mkdir(parents=True, exist_ok=True)
    engine.begin(decided, out)
    trial = JobTrial(0, genotype, seed_of(spec.seed, genotype.hash, "0"), "given")
    engine.submit(Job((trial,), 0, 0, seed_of(spec.seed, "order", "0")), {0})

    def stepped(_: tuple[int, ...], step: int, steps: int) -> None:
        if progress is not None:
            progress(step, steps)

    (record,) = engine.results(stepped)
    write_record(out, record)
    if spec.space not in shipped_spaces():
        spec = spec.model_copy(update={"space": str((base / spec.space).resolve())})
    fingerprint = {
        "trained": genotype.hash,
        "metric_sha256": facts.metric_hash,
        READING: facts.reading_hash,
    }
    manifest = new_manifest(
        fingerprint,
        facts,
        decided,
        max_params=budget.max_params,
        rung_steps=(record.steps,),
    )
    _write_study(Study(out), spec, record, manifest)
    return record


def _write_study(study: Study, spec: StudySpec, record: Record, manifest: Manifest) -> None:
    """What is beside the record and its weights; the manifest, which makes it a study, last."""
    write_atomic(study.spec_file, spec_yaml(spec))
    write_front(study.folder, _front(spec, record, manifest.max_params))
    write_manifest(study.manifest_file, manifest)


def _front(spec: StudySpec, record: Record, max_params: int) -> Front:
    """The trial alone."""
    return front_of(
        [record],
        spec.chosen_metric,
        "maximize",
        max_params,
        lambda genotype: describe(genotype_from_dict(genotype), spec.without_ops),
        {name: spec.budget.max_memory if name == MEMORY else None for name in spec.costs},
    )


def _check_memory(
    genotype: Genotype, shape: ModelShape, costs: CostModel, max_memory: int | None
) -> None:
    taken = costs.memory_bytes(genotype, shape)
    if max_memory is not None and taken > max_memory:
        raise ConfigError(
            f"training the genotype takes {amount(taken, 'B')} of memory, the budget is "
            f"{amount(max_memory, 'B')}"
        )
