"""Finding search spaces: the shipped ones by name, anybody's by path."""

import difflib
import os
from functools import cache
from pathlib import Path

from autopeft.errors import ConfigError
from autopeft.space import yaml
from autopeft.space.spec import SpaceSpec

_PACKAGE = Path(__file__).resolve().parent.parent


def spaces_folder() -> Path:
    """Where the shipped spaces are: in the installed package, or beside it in a checkout."""
    inside = _PACKAGE / "search_spaces"
    return inside if inside.is_dir() else _PACKAGE.parent / "search_spaces"


def shipped_spaces() -> dict[str, Path]:
    """The shipped spaces by name."""
    return {path.stem: path for path in sorted(spaces_folder().glob("*.yaml"))}


def load_space(name: str, base: Path | None = None) -> SpaceSpec:
    """Read a space by its shipped name or by a path to a YAML file.

    Args:
        name: a shipped name, or a path, relative to `base`.
        base: the folder of the file that names it; the working folder by default.

    Raises:
        ConfigError: no such space, or the file is not a valid one.
    """
    shipped = shipped_spaces()
    if name in shipped:
        return _read(shipped[name])
    path = (base or Path()) / name
    if not os.path.isfile(path):  # noqa: PTH113 - unlike Path's, it never raises
        close = difflib.get_close_matches(name, shipped, n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        raise ConfigError(
            f"space `{name}`: {hint}neither a file nor a shipped space ({', '.join(shipped)})"
        )
    return yaml.validate(SpaceSpec, yaml.load(path))


@cache
def _read(shipped: Path) -> SpaceSpec:
    return yaml.validate(SpaceSpec, yaml.load(shipped))
