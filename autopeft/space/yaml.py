"""Strict YAML: what it refuses would otherwise be read as something else without a word.

Duplicate keys (PyYAML keeps the last), aliases (236 bytes can become millions of leaves), tags,
and what only YAML 1.1 takes for booleans and numbers. `1e-4` is a number here, as in YAML 1.2.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autopeft.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_DIGITS = 400

_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TRUE_FALSE = {"true": True, "false": False}
_NULL = {"", "~", "null"}
_NOT_FINITE = {".inf", "-.inf", "+.inf", ".nan"}
_SHOWN_CHARACTERS = 80
_WRONG_TYPE = {
    "dict_type": "has to be a mapping",
    "model_type": "has to be a mapping",
    "tuple_type": "has to be a list",
    "float_type": "has to be a number",
    "int_type": "has to be a whole number",
    "string_type": "has to be a text",
    "bool_type": "has to be true or false",
}

Key = tuple[str | int, ...]
Problem = tuple[Key, str]
"""What is wrong, at which key."""
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """The values of a YAML file and the line on which each key stands, if there are lines."""

    source: str
    data: Any
    lines: Mapping[Key, int]

    def where(self, key: Sequence[str | int]) -> str:
        """`file:line` of a key, or of its nearest parent."""
        if not self.lines:
            return self.source
        path = tuple(key)
        while path not in self.lines and path:
            path = path[:-1]
        return f"{self.source}:{self.lines.get(path, 1)}"


class ProblemsError(ValueError):
    """What is wrong inside one pydantic model, each problem at its key; for its validators."""

    def __init__(self, found: Iterable[Problem]) -> None:
        self.found = tuple(dict.fromkeys(found))
        super().__init__("; ".join(message for _, message in self.found))


def refuse_if_any(problems: Iterable[Problem]) -> None:
    """Raise `ProblemsError` if there is any.

    Raises:
        ProblemsError: all of them.
    """
    if found := list(problems):
        raise ProblemsError(found)


def load(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: the file cannot be read or is not strict YAML, with file and line.
    """
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than the {MAX_BYTES} bytes allowed")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x})") from error
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
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{source}:{line}: not YAML: {what}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise ConfigError(f"{source}:{line}: not YAML: character {character}") from error
    if node is None:
        raise ConfigError(f"{source}:1: is empty")
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
        items = error.errors()
        told: dict[str, dict[str, None]] = {}  # ordered sets
        for item in items:
            if not _is_noise(item, items, document):
                for at, message in _describe(item, document, model):
                    told.setdefault(at, {})[message] = None
        raise ConfigError("\n".join(f"{at}: {' or '.join(told[at])}" for at in told)) from None


def _compose(text: str, source: str) -> yaml.Node | None:
    """The nodes of a text whose events were looked at first: composing recurses and follows."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{source}:{event.start_mark.line + 1 if event.start_mark else 1}"
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor or tag:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            what = f"aliases and anchors ({mark}{anchor})" if anchor else f"tags ({tag})"
            raise ConfigError(f"{where}: {what} are not allowed")
        if isinstance(event, yaml.ScalarEvent) and _SURROGATE.search(event.value):
            raise ConfigError(f"{where}: not Unicode: half of a surrogate pair")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _construct(node: yaml.Node, key: Key, lines: dict[Key, int], source: str) -> Any:
    line = node.start_mark.line + 1
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
            raise ConfigError(f"{source}:{line}: key `{_shown(name)}` is given twice")
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
    if value.lower() in _NOT_FINITE:
        raise ConfigError(f"{where}: {value}: only finite numbers are allowed")
    if not _NUMBER.fullmatch(value):
        return value
    if len(value) > MAX_DIGITS:
        raise ConfigError(f"{where}: {_shown(value)}: more than {MAX_DIGITS} digits")
    number = int(value) if _INTEGER.fullmatch(value) else float(value)
    if abs(number) > sys.float_info.max:
        raise ConfigError(f"{where}: {_shown(value)}: only finite numbers are allowed")
    return number


def _describe(
    item: ErrorDetails, document: Document, model: type[BaseModel]
) -> Iterator[tuple[str, str]]:
    """Where and what; several problems at one place are alternatives, of which none fits."""
    key = _key(item["loc"], document)
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ProblemsError):
        for inner, message in cause.found:
            yield _at(document, [*key, *inner]), message
        return
    if item["type"] == "extra_forbidden":
        allowed = ", ".join(_fields_at(model, key[:-1]))
        yield _at(document, key), "unknown key" + (f"; allowed: {allowed}" if allowed else "")
        return
    if item["type"] == "missing":
        yield _at(document, [*key, item["loc"][-1]]), "is missing"
        return
    message = _WRONG_TYPE.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "has to be")
    shown = "" if isinstance(item["input"], dict | list) else f": {_shown(repr(item['input']))}"
    yield _at(document, key) + shown, message


def _at(document: Document, key: Sequence[str | int]) -> str:
    name = ".".join(_shown(str(part)) for part in key) or "the file"
    return f"{document.where(key)}: {name}"


def _is_noise(item: ErrorDetails, items: Sequence[ErrorDetails], document: Document) -> bool:
    """Whether the error only follows from others.

    Pydantic counts the valid parts of a tuple alone, so that one bad part makes it look too short;
    and of a union it tells that each type is not there, even if one of them nearly fits.
    """
    loc = item["loc"]
    if item["type"] == "too_short":
        return any(len(other["loc"]) > len(loc) and _starts(other, loc) for other in items)
    if item["type"] not in _WRONG_TYPE or len(_key(loc, document)) == len(loc):
        return False
    return any(
        _starts(other, loc[:-1])
        and (other["type"] not in (*_WRONG_TYPE, "literal_error") or len(other["loc"]) > len(loc))
        for other in items
    )


def _starts(item: ErrorDetails, loc: Key) -> bool:
    return item["loc"][: len(loc)] == loc


def _key(loc: Key, document: Document) -> list[str | int]:
    """The key in the file; pydantic adds the tags of unions, which no file contains."""
    key: list[str | int] = []
    value = document.data
    for part in loc:
        if _has(value, part):
            key.append(part)
            value = value[part]
    return key


def _has(value: object, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)


def _shown(text: str) -> str:
    cut = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
    return cut if cut.isprintable() else repr(cut)


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
