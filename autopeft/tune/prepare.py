"""The study of a Tune script."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopeft.space import yaml
from autopeft.study import search
from autopeft.study.prepared import Prepared
from autopeft.study.spec import StudySpec, load_study_spec
from autopeft.tasks.guess import data_section


def prepare(study: str | Path | Mapping[str, Any] | StudySpec, out: str | Path) -> Prepared:
    """Load model and data once, decide how to compute, and write a study without trials.

    Args:
        study: a study file, or what stands in one; `data` may also be a folder or a Hub name.
        out: its folder. One that was prepared before is read again.

    Returns:
        What Trainable, searcher and scheduler are made of. Its `setup.space` is bound to model and
        budget.

    Raises:
        ConfigError: the study is not valid, or the folder holds another one.
        DataError: model or data cannot be used, or a search is running on the folder.
        NoFeasibleTrialError: nothing in the space fits the budget.
    """
    base = Path.cwd()
    if isinstance(study, str | Path):
        base = Path(study).absolute().parent
        spec = load_study_spec(Path(study))
    elif isinstance(study, StudySpec):
        spec = study
    else:
        values = {**study, "data": data_section(study["data"])} if "data" in study else dict(study)
        spec = yaml.validate(StudySpec, yaml.Document("study", values, {}))
    return search.prepare(spec, Path(out), base=base)
