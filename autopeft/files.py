"""Files that are whole or absent: durable atomic writes, strict JSON reading."""

import contextlib
import errno
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from autopeft.errors import DataError, DiskFullError

MAX_JSON_BYTES = 64 * 2**20

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def write_atomic(path: Path, text: str) -> None:
    """Replace a file by `text` in UTF-8, so that a reader or a crash sees the old or the new one.

    Raises:
        DataError: the file cannot be written; the old one is untouched.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file by `data`, so that a reader or a crash sees the old or the new one.

    Raises:
        DataError: the file cannot be written; the old one is untouched.
    """
    with _temporary(path, data) as temporary:
        temporary.replace(path)


def write_new(path: Path, text: str) -> None:
    """Write a file that is never overwritten; the same text again changes nothing.

    Raises:
        DataError: the file cannot be written, or it exists with another text.
    """
    with _temporary(path, text.encode()) as temporary:
        try:
            _publish(temporary, path)
        except FileExistsError:
            if path.read_bytes() != text.encode():
                message = f"{path} exists with other content and is never overwritten"
                raise DataError(message) from None


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed have left; only while nobody writes there."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read one strict JSON document: UTF-8, no key twice, finite numbers, at most 64 MiB.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_JSON_BYTES:
        raise DataError(f"{path} is larger than {MAX_JSON_BYTES} bytes")
    return parse_json(data, str(path))


def parse_json(data: bytes, source: str) -> Any:
    """Parse one strict JSON document; `source` says where it stands (a file, perhaps a line).

    Raises:
        DataError: naming the source and what is wrong.
    """
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise DataError(f"{source} is not strict JSON: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{source} is not strict JSON: {error}") from error


@contextlib.contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A synced file with `data` in the folder of `path`; afterwards the folder is synced."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        yield temporary
        _sync_folder(path.parent)
    except OSError as error:
        kind = DiskFullError if error.errno in _NO_ROOM else DataError
        raise kind(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # an error above says more, and readers skip *.tmp
            temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    """Give the file its name unless the name is taken.

    A hard link does that in one step; where the file system has none (FAT, some network mounts)
    two writers of one name at the same instant could both succeed.
    """
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if path.exists():
            raise FileExistsError from error
        temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"key {key!r} is given twice")
        out[key] = value
    return out


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999 is valid JSON and infinite
        raise ValueError(f"{text} is not a finite number")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")
