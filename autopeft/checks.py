"""Checks of plain JSON values: small functions that add up to the shape of a document."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError

Check = Callable[[Any, str], list[str]]
"""Takes a value and the key it stands at; gives one sentence for each thing wrong with it."""

_SHOWN_CHARACTERS = 80
_MAX_LEVELS = 32


def leaf(allowed: str, accepts: Callable[[Any], bool]) -> Check:
    """A check of one value; `allowed` says in words what is accepted."""

    def check(value: Any, at: str) -> list[str]:
        return [] if accepts(value) else [_problem(value, at, allowed)]

    return check


def fields(
    table: Mapping[str, Check],
    may_have: Mapping[str, Check] | None = None,
    *,
    and_others: bool = False,
) -> Check:
    """An object with exactly these keys, and perhaps some that may be missing.

    Args:
        table: what it must have.
        may_have: what it may have.
        and_others: it may have any other keys, too.
    """
    known = {**table, **(may_have or {})}

    def check(value: Any, at: str) -> list[str]:
        if not isinstance(value, dict):
            return [_problem(value, at, "an object")]
        problems = [f"{_join(at, key)} is missing" for key in table if key not in value]
        for key, item in value.items():
            if key in known:
                problems += known[key](item, _join(at, key))
            elif not and_others:
                problems.append(f"{_join(at, key)} is unknown, allowed: {', '.join(known)}")
        return problems

    return check


def named(item_check: Check) -> Check:
    """An object of any names, each with a value of one kind."""

    def check(value: Any, at: str) -> list[str]:
        if not isinstance(value, dict) or not all(is_text(name) for name in value):
            return [_problem(value, at, "an object with non-empty names")]
        return [text for name, item in value.items() for text in item_check(item, _join(at, name))]

    return check


def list_of(item_check: Check) -> Check:
    """A list of values of one kind."""

    def check(value: Any, at: str) -> list[str]:
        if not isinstance(value, list):
            return [_problem(value, at, "a list")]
        return [text for i, item in enumerate(value) for text in item_check(item, f"{at}[{i}]")]

    return check


def optional(inner: Check) -> Check:
    """Null, or what `inner` accepts."""

    def check(value: Any, at: str) -> list[str]:
        if value is None:
            return []
        problems = inner(value, at)
        return problems if isinstance(value, dict) else [f"{text}, or null" for text in problems]

    return check


def one_of(*values: object) -> Check:
    """One of these values, of the same type (so that True is not 1)."""

    def accepts(value: Any) -> bool:
        return any(type(value) is type(other) and value == other for other in values)

    return leaf(", ".join(map(str, values)), accepts)


def matching(pattern: str, allowed: str) -> Check:
    """A text that the whole regular expression matches."""
    compiled = re.compile(pattern)
    return leaf(allowed, lambda value: isinstance(value, str) and bool(compiled.fullmatch(value)))


def is_text(value: object) -> bool:
    """A text that is not empty."""
    return isinstance(value, str) and bool(value)


def is_number(value: object) -> bool:
    """A finite number; neither bool, NaN, infinite nor an integer beyond a float's range."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_plain(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(
            isinstance(key, str) and _is_plain(item, levels - 1) for key, item in value.items()
        )
    if isinstance(value, list):
        return levels > 0 and all(_is_plain(item, levels - 1) for item in value)
    return value is None or isinstance(value, str | bool) or is_number(value)


ANY_TEXT = leaf("a text", lambda value: isinstance(value, str))
TEXT = leaf("a text that is not empty", is_text)
COUNT = leaf("a whole number from 0", _is_count)
NUMBER = leaf("a finite number", is_number)
NUMBER_FROM_0 = leaf("a finite number from 0", lambda value: is_number(value) and value >= 0)
PLAIN_OBJECT = leaf(
    f"an object of plain JSON values, at most {_MAX_LEVELS} levels deep",
    lambda value: isinstance(value, dict) and _is_plain(value, _MAX_LEVELS),
)


def path_of(value: Any, what: str) -> Path:
    """The path that somebody has given.

    Args:
        value: a text or a path.
        what: its name, for the message.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise ConfigError(f"{what} is {shown(value)}, allowed: a path")
    return Path(value)


def shown(value: Any) -> str:
    """A value of whatever kind in a message, where its kind says more than its contents."""
    plain = isinstance(value, str | int | float | None)
    return repr(value) if plain else f"a {type(value).__name__}"


def refuse_if_any(problems: list[str], source: str) -> None:
    """Say all problems of a document at once.

    Raises:
        ConfigError: naming the source and every problem, if there is one.
    """
    if problems:
        raise ConfigError(f"{source}: " + "; ".join(problems))


def first_problem(error: "ValidationError", *above: str) -> tuple[str, str]:
    """Where the first problem that pydantic found lies, below the keys given, and what it is."""
    first = error.errors()[0]
    return ".".join(map(str, (*above, *first["loc"]))), first["msg"]


def _join(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)


def _problem(value: object, at: str, allowed: str) -> str:
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "..."
    return f"{at or 'the document'} is {shown}, allowed: {allowed}"
