"""A connection to a Ray cluster: where it is, what it has, and why there is none."""

import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError

from autopeft.engines.ray.settings import LOCAL, RaySettings
from autopeft.errors import ConfigError, DataError

_CLIENT = "ray://"
_CONNECTIONS = 3
_SLOW = "Starting Ray client server failed"
"""What a busy cluster says: it gives the process that serves a client 30 s to start."""
_KNOCK_SECONDS = 10.0
_STORE_BYTES = 512 * 2**20
"""Of a local cluster: weights and states pass through it, and go at once."""


@dataclass(frozen=True)
class Share:
    """What each worker takes, and how many of them there are.

    Attributes:
        cpus: of each.
        gpus: of each.
        workers: in the cluster.
        sharing: of them, at most, on one device.
    """

    cpus: int
    gpus: float
    workers: int
    sharing: int

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster, or start one; a connection that is there already is used and left.

    Raises:
        ConfigError: the address is none.
        DataError: there is no such cluster, or it does not let this process in.
    """
    if ray.is_initialized():
        yield
        return
    _check_answers(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _connect(address)
    for number, handler in handlers.items():  # Ray takes them, and a search has its own
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    for left in reversed(range(_CONNECTIONS)):
        try:
            ray.init(**_arguments(address))
        except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
            if left and _SLOW in str(error):
                continue
            raise _refusal(address, error) from error
        return


def _check_answers(address: str) -> None:
    """Knock at the port of a cluster, since Ray takes minutes to say that there is none."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise DataError(f"no Ray cluster answers at {address}: {error}") from error


def _arguments(address: str) -> dict[str, Any]:
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != LOCAL:
        return {"address": address, **common}
    return {
        "address": LOCAL,
        "include_dashboard": False,
        "num_cpus": os.cpu_count(),
        "object_store_memory": _STORE_BYTES,
        **common,
    }


def _refusal(address: str, error: BaseException) -> ConfigError | DataError:
    """Why there is no connection, in one sentence."""
    told = _chain(error)
    if "Version mismatch" in told:
        lines = [line.strip() for line in told.split("Version mismatch:")[1].splitlines()]
        versions = [line for line in lines if line.startswith(("Ray:", "Python:"))][:4]
        both = " with ".join(", ".join(versions[i : i + 2]) for i in (0, 2))
        return DataError(
            f"the Ray cluster at {address} and this process differ: {both}; install the cluster's"
        )
    if isinstance(error, AuthenticationError) or "authentication token" in told:
        return DataError(
            f"the Ray cluster at {address} wants a token, and this process has none: put the "
            "cluster's into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
        )
    if "InvalidAuthToken" in told or "UNAUTHENTICATED" in told.upper():
        return DataError(
            f"the Ray cluster at {address} does not accept this process's token; it is that of "
            "RAY_AUTH_TOKEN, of the file in RAY_AUTH_TOKEN_PATH, or of ~/.ray/auth_token"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = f"{lines[0]} {lines[-1]}" if len(lines) > 1 else (*lines, type(error).__name__)[0]
    if isinstance(error, ValueError):
        return ConfigError(f"engine.address: `{address}` is not an address of Ray: {first}")
    if address == "auto":
        first += "; start one with `ray start --head`, or give --address local"
    if address.startswith(_CLIENT):
        first += "; the port is open, so it is that of something else, or the token is another"
    return DataError(f"no Ray cluster answers at {address}: {first}")


def _chain(error: BaseException | None) -> str:
    told = []
    while error is not None:
        told.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(told)


def share_of(settings: RaySettings) -> Share:
    """What each worker takes of the cluster that is connected.

    Raises:
        ConfigError: no node has room for one worker.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = settings.gpus_per_worker
    gpus = float(any(node.get("GPU") for node in nodes)) if wanted == "auto" else wanted
    cpus = settings.cpus_per_worker
    room = [_room(node, cpus, gpus) for node in nodes]
    if not sum(room):
        what = str(Share(cpus, gpus, 0, 0))
        have = "; ".join(_has(node) for node in nodes)
        raise ConfigError(f"engine: a worker takes {what}, and no node has as much: {have}")
    workers = sum(room) if settings.workers == "auto" else settings.workers
    on_one = math.floor(1 / gpus) if gpus else max(room)
    return Share(cpus, gpus, workers, min(workers, on_one))


def _room(node: dict[str, float], cpus: int, gpus: float) -> int:
    """Workers that fit on a node; each GPU is shared by whole numbers of them."""
    by_cpu = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return by_cpu
    return min(by_cpu, int(node.get("GPU", 0)) * math.floor(1 / gpus))


def _has(node: dict[str, float]) -> str:
    return f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU"


def free() -> str:
    """What of the cluster nobody has taken, in words."""
    return _has(ray.available_resources())
