"""What the control groups of a process leave it of memory, as in a container."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class _Version:
    """How one version of control groups tells memory.

    Attributes:
        mount: where its groups are.
        limit: the file of a group with what it may use, groups below it included.
        used: likewise, with what it uses, the cache of files included.
        prefix: of what `memory.stat` says of a group and of those below it.
        mapped: what it calls files that a process has mapped.
    """

    mount: str
    limit: str
    used: str
    prefix: str
    mapped: str


_V1 = _Version(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    prefix="total_",
    mapped="mapped_file",
)
_V2 = _Version("sys/fs/cgroup", "memory.max", "memory.current", prefix="", mapped="file_mapped")


def left_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process can take before a group of it, or one above that, is full.

    Args:
        root: what `proc` and `sys` are below.

    Returns:
        The least that a group leaves; None if none has a limit.
    """
    left = (_left(folder, version) for folder, version in _groups(root))
    return min((n for n in left if n is not None), default=None)


def _groups(root: Path) -> Iterator[tuple[Path, _Version]]:
    """The groups that memory is counted in, from the outermost one that can be seen.

    What is not there is of no harm: a container may be told of a path that only its host sees.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = _V1 if controllers else _V2
        parts = PurePosixPath(path).parts[1:]
        for folder in accumulate(parts, Path.joinpath, initial=root / version.mount):
            yield folder, version


def _left(folder: Path, version: _Version) -> int | None:
    limit, used = (_text(folder / name).strip() for name in (version.limit, version.used))
    if not limit.isdigit() or not used.isdigit():  # not there, or `max`
        return None
    return max(0, int(limit) - int(used) + _cached(folder, version))


def _cached(folder: Path, version: _Version) -> int:
    """What of the memory in use is the cache of files, which is given up when memory is asked for.

    Files that are read again and again count as active; those that nobody has mapped are given up
    as well, and cost but a read. Mapped are libraries and weights, and perhaps in use.
    """
    pairs = (line.split() for line in _text(folder / "memory.stat").splitlines())
    told = {name: int(value) for name, value in pairs}
    inactive, active, mapped = (
        told.get(version.prefix + name, 0)
        for name in ("inactive_file", "active_file", version.mapped)
    )
    return inactive + max(0, active - mapped)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
