"""Files that commands write for the next command."""

from pathlib import Path

import yaml

from autopeft.errors import ConfigError
from autopeft.study.folder import Study


def trial_genotype_yaml(folder: Path, trial: int) -> str:
    """The genotype of a trial as the YAML that `autopeft train` reads.

    Raises:
        ConfigError: the study has no such trial.
    """
    records = {record.trial: record for record in Study(folder).records()}
    if trial not in records:
        known = f"0 to {max(records)}" if records else "none yet"
        raise ConfigError(f"{folder} has no record of trial {trial}; it has {known}")
    return yaml.safe_dump(records[trial].genotype, sort_keys=False, default_flow_style=None)
