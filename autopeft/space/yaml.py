"""Strict YAML: what it refuses would otherwise be read as something else without a word.

Duplicate keys (PyYAML keeps the last), aliases (236 bytes can become millions of leaves), tags,
and the words that only YAML 1.1 takes for booleans. `1e-4` is a number here, as in YAML 1.2.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autopeft.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20

_NUMBER = re.compile(r"[-+]?(\d[\d_]*)?(\.\d*)?([eE][-+]?\d+)?")
_TRUE_FALSE = {"true": True, "false": False}
_NULL = {"", "~", "null"}

Key = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """The values of a YAML file and the line on which each key stands."""

    source: str
    data: Any
    lines: Mapping[Key, int]

    def where(self, key: Sequence[str | int]) -> str:
        """`file:line` of a key, or of its nearest parent."""
        path = tuple(key)
        while path not in self.lines and path:
            path = path[:-1]
        return f"{self.source}:{self.lines.get(path, 1)}"


def load(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: the file cannot be read or is not strict YAML, with file and line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, more than the {MAX_BYTES} allowed")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 (byte {error.start})") from error
    return loads(text, str(path))


def loads(text: str, source: str) -> Document:
    """Read YAML from a string; `source` stands in messages.

    Raises:
        ConfigError: not strict YAML, with source and line.
    """
    try:
        node = _compose(text, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{source}:{line}: not YAML: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    if node is None:
        raise ConfigError(f"{source}: is empty")
    lines: dict[Key, int] = {(): 1}
    return Document(source, _construct(node, (), lines, source), lines)


def validate(model: type[Model], document: Document) -> Model:
    """Build a pydantic model, every problem named with file, line, key, value and what is allowed.

    Raises:
        ConfigError: all problems at once.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = [_describe(item, document, model) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _compose(text: str, source: str) -> yaml.Node | None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor or tag:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            what = f"aliases and anchors ({mark}{anchor})" if anchor else f"tags ({tag})"
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ConfigError(f"{source}:{line}: {what} are not allowed")
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _construct(node: yaml.Node, key: Key, lines: dict[Key, int], source: str) -> Any:
    line = node.start_mark.line + 1
    if len(key) > MAX_DEPTH:
        raise ConfigError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, f"{source}:{line}")
    if isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            lines[(*key, i)] = child.start_mark.line + 1
        return [_construct(child, (*key, i), lines, source) for i, child in enumerate(node.value)]
    out: dict[str, Any] = {}
    for name_node, child in node.value:
        line = name_node.start_mark.line + 1
        if not isinstance(name_node, yaml.ScalarNode):
            raise ConfigError(f"{source}:{line}: a key has to be a word")
        name = str(name_node.value)
        if name in out:
            raise ConfigError(f"{source}:{line}: key `{name}` is given twice")
        lines[(*key, name)] = line
        out[name] = _construct(child, (*key, name), lines, source)
    return out


def _scalar(node: yaml.ScalarNode, where: str) -> Any:
    value = str(node.value)
    if node.style in ("'", '"', "|", ">"):
        return value
    if value.lower() in _NULL:
        return None
    if value.lower() in _TRUE_FALSE:
        return _TRUE_FALSE[value.lower()]
    if value.lower() in (".inf", "-.inf", "+.inf", ".nan"):
        raise ConfigError(f"{where}: {value}: only finite numbers are allowed")
    if not _NUMBER.fullmatch(value) or not any(c.isdigit() for c in value):
        return value
    if re.fullmatch(r"[-+]?[\d_]+", value):
        return int(value.replace("_", ""))
    number = float(value.replace("_", ""))
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {value}: only finite numbers are allowed")
    return number


def _describe(item: ErrorDetails, document: Document, model: type[BaseModel]) -> str:
    key: list[str | int] = []
    for part in item["loc"]:  # pydantic adds the tags of unions, which no file contains
        if (*key, part) in document.lines:
            key.append(part)
    name = ".".join(str(part) for part in key) or "the file"
    where = document.where(key)
    if item["type"] == "extra_forbidden":
        allowed = ", ".join(_fields_at(model, key[:-1]))
        return f"{where}: {name}: unknown key" + (f"; allowed: {allowed}" if allowed else "")
    if item["type"] == "missing":
        missing = ".".join([*map(str, key), str(item["loc"][-1])])
        return f"{document.where(key)}: {missing}: is missing"
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "has to be")
    shown = "" if isinstance(item["input"], dict | list) else f"{item['input']!r}: "
    return f"{where}: {name}: {shown}{message}"


def _fields_at(model: type[BaseModel], key: Sequence[str | int]) -> list[str]:
    current: Any = model
    for part in key:
        if isinstance(part, int):
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        field = current.model_fields.get(str(part))
        current = _model_in(field.annotation) if field is not None else None
    if isinstance(current, type) and issubclass(current, BaseModel):
        return sorted(current.model_fields)
    return []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
