"""Model and data of a study in this process, as its workers have them."""

from pathlib import Path

from autopeft.engines.ground import Ground, load_ground
from autopeft.study.spec import StudySpec


def prepare(spec: StudySpec, base: Path) -> Ground:
    """Load data and model.

    Args:
        spec: the study.
        base: folder that its relative paths start from.

    Raises:
        ConfigError: something does not fit together.
        DataError: data or model cannot be used.
    """
    return load_ground(spec.resolved(base).work)
