"""Tensor files of strangers: only names, shapes and types that were expected, only numbers."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from autopeft.errors import DataError
from autopeft.files import parse_json
from autopeft.ops.vera import as_now, name_now

MAX_HEADER_BYTES = 16 * 2**20
_METADATA = "__metadata__"
_LENGTH_BYTES = 8
_KINDS = ("F32", "I32", "I64")


class Kind(NamedTuple):
    """What a tensor of a file is.

    Attributes:
        shape: its size in each dimension.
        real: numbers in fp32, otherwise integers.
    """

    shape: tuple[int, ...]
    real: bool

    def __str__(self) -> str:
        return f"{list(self.shape)} of {'fp32' if self.real else 'int32'}"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write numbers in fp32 and places in int32, by name, and tell the SHA-256 of the file."""
    plain = {n: _plain(tensors[n].detach().cpu()).contiguous() for n in sorted(tensors)}
    data = save(plain, {"format": "pt"})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor.to(torch.int32)


def read_kinds(path: Path, sha256: str | None) -> tuple[bytes, dict[str, Kind]]:
    """The bytes of a tensor file and what is in it, before any tensor is made.

    Args:
        path: of a safetensors file.
        sha256: that it has to have; None where nobody says.

    Raises:
        DataError: it is not such a file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, found):
        raise DataError(f"{path}: sha256 is {found}, what names it says {sha256}")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - _LENGTH_BYTES):  # noqa: PLR2004
        raise DataError(f"{path}: not a safetensors file")
    header = parse_json(data[_LENGTH_BYTES : _LENGTH_BYTES + length], f"the header of {path}")
    if not isinstance(header, dict):
        raise DataError(f"{path}: its header is not an object")
    return data, {n: _kind(n, item, path) for n, item in header.items() if n != _METADATA}


def read_tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """All that a tensor file has, for whoever has written it; see `read_kinds`.

    Raises:
        DataError: it is not such a file.
    """
    data, _ = read_kinds(path, sha256)
    return _loaded(data, path)


def tensors_of(
    data: bytes, kinds: Mapping[str, Kind], expected: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The tensors, if they are of exactly the names, shapes and types expected, and finite.

    Args:
        data: the file.
        kinds: what is in it.
        expected: tensors of the names and shapes, of integers or not.
        path: for messages.

    Raises:
        DataError: saying what differs.
    """
    kinds = {name_now(name): kind for name, kind in kinds.items()}
    wanted = {n: Kind(tuple(t.shape), t.is_floating_point()) for n, t in expected.items()}
    problems = [f"{_shown(name)} is missing" for name in sorted(wanted.keys() - kinds.keys())]
    problems += [f"{_shown(name)} is unknown" for name in sorted(kinds.keys() - wanted.keys())]
    problems += [
        f"{_shown(name)} is {kinds[name]}, expected {kind}"
        for name, kind in wanted.items()
        if name in kinds and kinds[name] != kind
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if problems[3:] else ""
        raise DataError(f"{path}: {'; '.join(problems[:3])}{more}")
    tensors = _loaded(data, path)
    if bad := sorted(name for name, t in tensors.items() if not bool(torch.isfinite(t).all())):
        raise DataError(f"{path}: {bad[0]} has values that are not finite")
    return tensors


def _loaded(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return as_now(load(data))
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path}: not a safetensors file: {error}") from None


def _kind(name: str, item: Any, path: Path) -> Kind:
    kind = item.get("dtype") if isinstance(item, dict) else item
    if kind not in _KINDS:
        allowed = ", ".join(_KINDS)
        raise DataError(f"{path}: {_shown(name)} has dtype {_shown(kind)}, allowed: {allowed}")
    shape = item.get("shape")
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape):
        raise DataError(f"{path}: {_shown(name)} has no shape")
    return Kind(tuple(shape), kind == "F32")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004
