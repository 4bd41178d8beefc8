"""Mixtures of experts: FFNs whose router sends each token to some of many; known as a whole."""

from collections.abc import Iterator

from torch import nn

_OF_EXPERTS = 3


def experts(module: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of experts in a module: those of all experts are one parameter [expert, d, d]."""
    for part in module.modules():
        if not isinstance(part, nn.modules.conv._ConvNd):  # noqa: SLF001
            yield from (p for p in part.parameters(recurse=False) if p.ndim == _OF_EXPERTS)


def has_experts(module: nn.Module) -> bool:
    """Whether a module has some."""
    return any(True for _ in experts(module))
