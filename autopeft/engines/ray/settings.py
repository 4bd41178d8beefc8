"""How a study uses a cluster, and what has to stand in the environment before Ray is asked."""

import os
import secrets
import sys
from dataclasses import dataclass
from typing import Any, Literal

LOCAL = "local"
"""The address that stands for a cluster of this machine alone, which ends with the search."""

_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""What makes Ray take the loopback address for its own; elsewhere than there it listens on all."""


@dataclass(frozen=True)
class RaySettings:
    """How a study uses a cluster.

    Attributes:
        address: `auto` for the cluster that runs on this machine or that RAY_ADDRESS names,
            `host:port`, `ray://host:port`, or `local` for one of this machine alone.
        workers: how many; "auto" for as many as the cluster has room for.
        gpus_per_worker: a share of a GPU, 0 for none; "auto" for one, where the cluster has any.
        cpus_per_worker: CPUs, and threads, of each.
        trial_timeout_seconds: a worker that makes no progress for so long is ended.
    """

    address: str = "auto"
    workers: int | Literal["auto"] = "auto"
    gpus_per_worker: float | Literal["auto"] = "auto"
    cpus_per_worker: int = 1
    trial_timeout_seconds: float = 600


def prepare_environment(address: str) -> None:
    """Keep authentication on, and a local cluster on loopback; to be called before Ray is asked.

    Args:
        address: of the cluster; the token of a local one is made here, and its processes alone
            know it.
    """
    os.environ.setdefault(_MODE, "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # a line on stderr each
    if address == LOCAL:
        os.environ.setdefault(_LOOPBACK, "0")
        if _TOKEN not in os.environ and _TOKEN_PATH not in os.environ:
            os.environ[_TOKEN] = secrets.token_hex(32)
    _read_again()


def _read_again() -> None:
    """Let Ray see the environment if somebody has imported it before: it reads that only then."""
    ray: Any = sys.modules.get("ray")
    if ray is None or ray.is_initialized():
        return
    raylet = ray._raylet  # noqa: SLF001 - what Ray does itself where it turns authentication on
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    constants = ray._private.ray_constants  # noqa: SLF001
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(_LOOPBACK, constants.ENABLE_RAY_CLUSTER)
