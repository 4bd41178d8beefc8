"""First sentences of public docstrings, read from source files; nothing is imported."""

import ast
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

NEUTRAL_WORD = "library"
MIN_WORDS, MAX_WORDS = 5, 40

_MAX_PER_FILE = 20  # a few large files would otherwise be a whole class
_MIN_LETTERS = 0.75  # of the characters that are not spaces; below it is a formula or a table
_MIN_INFIX = 5  # a shorter name (np, pd) is only replaced as a whole word

_SKIPPED_FOLDERS = frozenset(
    (
        *("test", "tests", "testing", "example", "examples", "benchmark", "benchmarks"),
        *("vendor", "vendored", "_vendor", "_vendored"),
        *("external", "externals", "_external", "_externals"),
        *("array_api_compat", "array_api_extra"),
    )
)
_SKIPPED_FILE = re.compile(r"test_.*|.*_test|conftest|setup")

_MARKUP = (  # reStructuredText and Markdown, in this order: pattern and what stays visible
    (re.compile(r":(?:[a-z]+:)?[a-z]+:(?=`)"), ""),  # a role
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_*"), r"\1"),  # `title <target>`
    (re.compile(r"`[~!][\w.]*?(\w+(?:\(\))?)`"), r"\1"),  # `~package.module.Name`
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # [title](target)
    (re.compile(r"\[(`[^`]+`)\]"), r"\1"),  # [`Name`]
    (re.compile(r"(?<![\w*])(\*{1,2})(?=\S)([^*]+?)\1(?![\w*])"), r"\2"),  # emphasis
    (re.compile(r"`+_{0,2}"), ""),
    (re.compile(r"(?<![\w.])[._]+(?=[A-Za-z])"), ""),  # .Name, _module.Name
)
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)(?<!\bcf)[.!?](?=\s+[A-Z])")
_NOT_PROSE = re.compile(
    r"https?:|>>>|::|[-=~#^_.]{3,}|[<>\\{}|]"
    r"|^(?:args|arguments|parameters|returns?|raises|yields|examples?|notes?|attributes)\s*:"
    r"|^\w+ \(.*\):",  # an argument with its type
    re.IGNORECASE,
)


def harvest(root: Path, names: re.Pattern[str], limit: int, rng: random.Random) -> dict[str, str]:
    """Distinct first sentences of the public docstrings below a folder.

    Files are visited in an order drawn from `rng`, and no more of them than needed.

    Args:
        root: folder of a package.
        names: what to replace by a neutral word, from `names_pattern`.
        limit: how many sentences are enough.
        rng: decides the order of files and the sentences taken from a long one.

    Returns:
        At most `limit` sentences by `sentence_key`, fewer if the package has no more.
    """
    files = _source_files(root)
    rng.shuffle(files)
    found: dict[str, str] = {}
    for file in files:
        of_file: dict[str, str] = {}
        for docstring in _public_docstrings(file):
            sentence = first_sentence(docstring, names)
            if sentence is not None and (key := sentence_key(sentence)) not in found:
                of_file.setdefault(key, sentence)
        for key in rng.sample(list(of_file), min(_MAX_PER_FILE, len(of_file))):
            found[key] = of_file[key]
            if len(found) == limit:
                return found
    return found


def names_pattern(names: Sequence[str]) -> re.Pattern[str]:
    """A pattern for any of these names in any case, alone or inside a longer word."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    infix = "|".join(re.escape(name) for name in longest_first if len(name) >= _MIN_INFIX)
    whole = "|".join(re.escape(name) for name in longest_first if len(name) < _MIN_INFIX)
    parts = [rf"\w*(?:{infix})\w*"] * bool(infix) + [rf"\b(?:{whole})\b"] * bool(whole)
    return re.compile("|".join(parts), re.IGNORECASE)


def sentence_key(sentence: str) -> str:
    """The letters alone, in lower case: two sentences with one key are near-duplicates."""
    return re.sub(r"[^a-z]", "", sentence.lower())


def first_sentence(docstring: str, names: re.Pattern[str]) -> str | None:
    """The first sentence without markup and names, or None where that is not plain prose."""
    paragraph = re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0]
    text = " ".join(paragraph.split())
    for pattern, visible in _MARKUP:
        text = pattern.sub(visible, text)
    if end := _SENTENCE_END.search(text):
        text = text[: end.end()]
    text = names.sub(NEUTRAL_WORD, text)
    letters = sum(character.isalpha() for character in text)
    is_prose = (
        text.isascii()
        and text.isprintable()
        and text[:1].isalpha()
        and MIN_WORDS <= len(text.split()) <= MAX_WORDS
        and letters >= _MIN_LETTERS * len(text.replace(" ", ""))
        and not _NOT_PROSE.search(text)
    )
    return text if is_prose else None


def _source_files(root: Path) -> list[Path]:
    """Sources below a package, sorted; without tests, examples and vendored packages."""
    relative = (path.relative_to(root) for path in root.rglob("*.py"))
    kept = [
        path.as_posix()
        for path in relative
        if _SKIPPED_FOLDERS.isdisjoint(path.parts[:-1]) and not _SKIPPED_FILE.fullmatch(path.stem)
    ]
    return [root / path for path in sorted(kept)]


def _public_docstrings(file: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's sources
        try:
            module = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):  # a template, newer syntax, a null byte
            return
    if file.stem == "__init__" or not file.stem.startswith("_"):
        yield from _docstring(module)
    yield from _member_docstrings(module)


def _member_docstrings(parent: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        yield from _docstring(node)
        if isinstance(node, ast.ClassDef):
            yield from _member_docstrings(node)


def _docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[str]:
    if docstring := ast.get_docstring(node):
        yield docstring
