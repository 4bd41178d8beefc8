"""Model and data of a study in this process, as its workers have them."""

from pathlib import Path

from autopeft.engines.ground import Ground, load_ground
from autopeft.errors import ConfigError
from autopeft.study.manifest import Manifest, reads_otherwise
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


def check_unchanged(ground: Ground, manifest: Manifest, folder: Path) -> None:
    """Refuse what a study did not measure with.

    Args:
        ground: model, data and metric as they are now.
        manifest: of the study.
        folder: of the study.

    Raises:
        ConfigError: one of them has changed.
    """
    otherwise = reads_otherwise(manifest, ground.reading_hash)
    for what, now, was in (
        ("data have", ground.dataset.fingerprint, manifest.data["sha256"]),
        ("model has", ground.backbone.fingerprint, manifest.model["sha256"]),
        ("model's configuration or tokenizer has", otherwise, False),
        ("metric's file has", ground.metric_hash, manifest.fingerprint.get("metric_sha256")),
    ):
        if now != was:
            raise ConfigError(f"{folder}: the {what} changed since the search")
