"""Paused: what a trial needs to train on as if it had never stopped; saved without pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from autopeft.errors import DataError
from autopeft.files import write_bytes
from autopeft.ops.vera import as_now

_LOSSES = "losses"
_STATE = "state/"


@dataclass(frozen=True)
class Paused:
    """A trial between two rungs.

    Attributes:
        losses: training loss at every step so far.
        tensors: parameters of ops and head and the moments of their gradients, without padding, on
            the CPU; named by `CohortAdamW.state`.
    """

    losses: tuple[float, ...]
    tensors: Mapping[str, Tensor]

    @property
    def steps(self) -> int:
        """Optimizer steps so far."""
        return len(self.losses)


def write_paused(path: Path, paused: Paused) -> None:
    """Write it as a whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    tensors = {f"{_STATE}{name}": tensor for name, tensor in paused.tensors.items()}
    write_bytes(path, save({_LOSSES: torch.tensor(paused.losses), **tensors}))


def read_paused(path: Path) -> Paused:
    """Read what `write_paused` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    losses = tensors.pop(_LOSSES, None)
    if losses is None or losses.ndim != 1 or not all(name.startswith(_STATE) for name in tensors):
        raise DataError(f"{path}: not a paused trial")
    state = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items()}
    return Paused(tuple(losses.tolist()), as_now(state))
