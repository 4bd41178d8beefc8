"""Tensors on their way to the device."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device has still to do.

    Args:
        tensor: of the CPU; nobody may write to it afterwards.
        device: the CPU or another one.
    """
    if device.type == "cpu":
        return tensor
    # CUDA copies without waiting from memory that the system keeps in its place.
    kept = tensor.pin_memory() if device.type == "cuda" else tensor
    return kept.to(device, non_blocking=True)
