"""The Python interface: a search in one call, and a genotype in a model of one's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from autopeft.checks import path_of, shown
from autopeft.errors import ConfigError, DataError
from autopeft.export.attached import Attached
from autopeft.handle import Study
from autopeft.model.attention import kernel_for
from autopeft.model.computing import Kernel
from autopeft.model.quantized import check_gradients
from autopeft.objectives import DEFAULT
from autopeft.ops.build import loop_obstacle
from autopeft.space import yaml
from autopeft.space.genotype import Genotype
from autopeft.study.events import Watcher
from autopeft.study.search import run_search
from autopeft.study.spec import StudySpec
from autopeft.tasks.guess import data_section


def search(
    *,
    model: str | Path,
    data: str | Path | Mapping[str, Any],
    out: str | Path,
    quantize: str | None = None,
    task: str = "classification",
    metric: str | None = None,
    positive: str | None = None,
    space: str | Path = "unified",
    max_params: int | str = "1%",
    max_trained: int | str | None = None,
    max_memory: int | str | None = None,
    objectives: Sequence[str] = DEFAULT,
    trials: int = 40,
    time: float | str | None = None,
    generation: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    sampler: str = "tpe",
    warm_start: str | Path | None = None,
    rungs: int = 3,
    rung_metric: str | None = None,
    seeds: int = 3,
    full_finetune: bool = False,
    seed: int = 0,
    engine: str | Mapping[str, Any] = "local",
    storage: str | None = None,
    cache: bool = True,
    watcher: Watcher | None = None,
) -> Study:
    """Search for the best combination of methods under a parameter budget.

    Args:
        model: Hub name or folder.
        data: the `data` section of a study file, or a folder with train, validation and test
            files, or a Hub name such as `glue/sst2`.
        out: folder of the study; an existing one is continued to `trials` in all.
        quantize: keep the weight matrices of the backbone's layers in few bits: "nf4" or "int8".
        task: "classification", "multi_label_classification", "regression",
            "token_classification", "seq2seq" or "causal".
        metric: the task's default one if None, or a function of one's own, `my.py:fn`.
        positive: the class that "f1" is of, where there are two; the second if None.
        space: a shipped name or a path.
        max_params: parameters of the ops at most, a number or a percentage like "1%".
        max_trained: likewise of those that are trained, where a method trains more than it stores.
        max_memory: bytes that training a trial alone may take, a number or like "6GiB".
        objectives: two to four of `autopeft.objectives`, "metric" among them.
        trials: in all.
        time: training time in all, in seconds or like "2h".
        generation: the `generation` section of a study file, where answers are texts.
        training: the `training` section of a study file.
        sampler: "tpe", "nsga2", "gp" or "random".
        warm_start: a front.json, or the folder of a study, whose points are tried first.
        rungs: levels of the training budget, from 30 trials on.
        rung_metric: "likelihood" to measure rungs below the top without writing answers.
        seeds: fresh ones in the final selection; 0 for none.
        full_finetune: also train the whole backbone, as a baseline of the final selection.
        seed: of everything.
        engine: "local", "ray" for a cluster, or the `engine` section of a study file, such as
            `{"kind": "ray", "address": "head:6379", "gpus_per_worker": 0.5}`.
        storage: URL of a PostgreSQL server that keeps the study in place of a file.
        cache: what studies beside `out` have measured already is not trained again.
        watcher: is told what happens.

    Returns:
        The study; `.front()` is its result, `.report()` a page of it.

    Raises:
        AutopeftError: one of its kinds, with what is wrong and what is allowed.
    """
    if isinstance(objectives, str) or not isinstance(objectives, Sequence):
        raise ConfigError(f"objectives is {shown(objectives)}, allowed: a list of names")
    folder = path_of(out, "out").absolute()  # whoever is told of trials may change the working one
    values: dict[str, Any] = {
        "model": str(model),
        "quantize": quantize,
        "task": task,
        "data": data_section(data),
        "metric": metric,
        "positive": positive,
        "generation": None if generation is None else _section(generation, "generation"),
        "objectives": list(objectives),
        "space": str(space),
        "budget": {
            "max_params": max_params,
            "max_trained": max_trained,
            "max_memory": max_memory,
            "trials": trials,
            "time": time,
        },
        "training": {} if training is None else _section(training, "training"),
        "sampler": sampler,
        "warm_start": None if warm_start is None else str(warm_start),
        "rungs": rungs,
        "rung_metric": rung_metric,
        "selection": {"seeds": seeds},
        "full_finetune": full_finetune,
        "seed": seed,
        "engine": {"kind": engine} if isinstance(engine, str) else _section(engine, "engine"),
        "storage": storage,
        "cache": cache,
    }
    spec = yaml.validate(StudySpec, yaml.Document("arguments", values, {}))
    return Study(run_search(spec, folder, watcher=watcher).folder)


def _section(value: Any, name: str) -> dict[str, Any]:
    """A section of a study file."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {shown(value)}, allowed: a mapping, as in a study file")
    return dict(value)


def attach(
    model: PreTrainedModel, genotype: Genotype, *, seed: int, kernel: Kernel | None = None
) -> Attached:
    """Put a genotype into a model, for a training loop of one's own.

    The backbone is frozen, the ops and the model's own head are trainable, a pooler that
    `from_pretrained` did not find in the checkpoint included, as in a search:
    `[p for p in model.parameters() if p.requires_grad]` is what an optimizer needs. Methods that
    choose by the data what to train are refused, since only a cohort lets them choose: FISH,
    LT-SFT, diff pruning, AdaLoRA, SparseAdapter. Where a call gives a decoder no `position_ids`,
    those of each row begin at its first token, whichever side is padded.

    Args:
        model: a transformers model of a known family; changed in place.
        genotype: what to put in.
        seed: initialises the ops.
        kernel: how attention is computed; if None, as the model does it, or by "sdpa" where an op
            acts inside of it.

    Returns:
        The ops; `.save(folder)` writes them and the head for `load`, `.remove()` takes them out
        again. What `model.save_pretrained` and Trainer write is a whole model, of which
        `from_pretrained` leaves the ops out.

    Raises:
        ConfigError: the model lacks a tap, has another depth, or has ops already; or an op chooses
            by the data what to train; or what is given is no genotype.
        DataError: the model is none of transformers, the family is not known, the head is not made
            of Linear layers and LayerNorms, or a weight matrix in few bits lets no gradient pass.
    """
    _check_kinds(model, genotype)
    if reason := loop_obstacle(genotype):
        raise ConfigError(f"{reason}; autopeft train genotype.yaml --study study.yaml does")
    check_gradients(model)
    return Attached(model, genotype, seed, kernel or kernel_for(genotype))


def _check_kinds(model: Any, genotype: Any) -> None:
    """Refuse what is no model and no genotype."""
    if not isinstance(genotype, Genotype):
        told = f"genotype is {shown(genotype)}, allowed: a Genotype"
        raise ConfigError(f"{told}, as `autopeft.load_genotype` reads one")
    if not isinstance(model, PreTrainedModel):
        told = f"model is {shown(model)}, allowed: a model of transformers"
        raise DataError(f"{told}; attach first, then wrap it")
