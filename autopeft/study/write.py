"""Writing study and space files that read back as the same."""

import yaml
from pydantic import BaseModel


def spec_yaml(spec: BaseModel) -> str:
    """A spec as YAML, defaults spelled out and absent values left out."""
    data = spec.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
