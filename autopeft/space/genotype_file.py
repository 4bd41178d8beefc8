"""Reading genotypes from YAML and JSON values, strictly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from autopeft.errors import ConfigError
from autopeft.space import yaml
from autopeft.space.forms import Activation, Form
from autopeft.space.genotype import GENOTYPE_VERSION, Genotype, Op
from autopeft.space.spec import PositiveScale, Size, Strict
from autopeft.space.taps import Tap


class _OpFile(Strict):
    form: Form
    read: Tap
    write: Tap
    sizes: Annotated[tuple[Size, ...], Field(min_length=1, max_length=1000)]
    activation: Activation | None = None
    scale: PositiveScale | Literal["learned", "gated"] = 1.0


class _TrainingFile(Strict):
    learning_rate: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    weight_decay: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0


class _GenotypeFile(Strict):
    version: Annotated[int, Field(strict=True, ge=GENOTYPE_VERSION, le=GENOTYPE_VERSION)] = (
        GENOTYPE_VERSION
    )
    n_layers: Annotated[int, Field(strict=True, ge=1, le=1000)]
    ops: tuple[_OpFile, ...]
    training: _TrainingFile
    full: Annotated[bool, Field(strict=True)] = False


def load_genotype(path: str | Path) -> Genotype:
    """Read a genotype from a YAML (or JSON) file.

    Raises:
        ConfigError: not a genotype, with file, line and key.
    """
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise ConfigError(f"path is {path!r}, allowed: a path")
    return _genotype(yaml.load(Path(path)))


def genotype_from_dict(data: Mapping[str, Any], source: str = "genotype") -> Genotype:
    """The inverse of `Genotype.to_dict`.

    Raises:
        ConfigError: not a genotype; `source` stands in the message.
    """
    return _genotype(yaml.Document(source, data, {}))


def _genotype(document: yaml.Document) -> Genotype:
    file = yaml.validate(_GenotypeFile, document)
    ops, problems = [], []
    for i, op in enumerate(file.ops):
        try:
            ops.append(Op(op.form, op.read, op.write, op.sizes, op.activation, op.scale))
        except ConfigError as error:
            problems.append(f"{document.where(('ops', i))}: ops.{i}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    training = file.training
    try:
        return Genotype(
            file.n_layers,
            tuple(ops),
            training.learning_rate,
            training.weight_decay,
            full=file.full,
        )
    except ConfigError as error:
        raise ConfigError(f"{document.where(('ops',))}: ops: {error}") from None
