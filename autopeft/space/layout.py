"""Layouts: how the size of a slot is laid over the layers of a model.

A layout turns a few coordinates into one non-negative weight per layer. A *coupled* layout gives
the same size to every layer of non-zero weight; otherwise the layers share the slot's budget in
proportion to their weights and each has its own size.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, groupby, pairwise
from operator import itemgetter

from autopeft.space.dimension import Categorical, Dimension, Integer, Params, Real

TILT = 1.5
"""Log-ratio between the top layer and the middle one at full tilt; likewise for the bulge."""
OFFSET = 1.0
"""Log-weight by which a layer can depart from the smooth profile."""


class LayoutKind(StrEnum):
    """The ways of laying a slot over the layers."""

    SAME = "same"
    """One size in all layers."""
    MASK = "mask"
    """One size in a free subset of the layers (AutoPEFT, Zhou et al. 2024)."""
    TOP = "top"
    """One size in the top n layers (AdapterDrop, Rueckle et al. 2021)."""
    GROUPS = "groups"
    """One size in some of four groups of neighbouring layers, a spindle (S4, Chen et al. 2023)."""
    SHAPE = "shape"
    """A named profile over the depth (the allocations that Chen et al. 2023 compare)."""
    FREE = "free"
    """Every layer its own size: a tilt, a bulge and an offset for each layer."""


SPINDLE = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
"""Parts of the depth."""

SHAPES = ("uniform", "increasing", "decreasing", "spindle", "hourglass")


@dataclass(frozen=True)
class Layout:
    """A named layout; slots that name the same one share its coordinates."""

    name: str
    kind: LayoutKind

    @property
    def coupled(self) -> bool:
        """Whether all layers that are present have the same size."""
        return self.kind not in (LayoutKind.SHAPE, LayoutKind.FREE)

    def dimensions(self, n_layers: int) -> list[Dimension]:
        """The coordinates that `weights` reads."""
        name = self.name
        match self.kind:
            case LayoutKind.SAME:
                return []
            case LayoutKind.MASK:
                return [Integer(f"{name}.layer{i}", 0, 1) for i in range(n_layers)]
            case LayoutKind.TOP:
                return [Integer(f"{name}.top", 1, n_layers)]
            case LayoutKind.GROUPS:
                return [Integer(f"{name}.group{i}", 0, 1) for i in range(len(spindle(n_layers)))]
            case LayoutKind.SHAPE:
                return [Categorical(f"{name}.shape", SHAPES)]
            case LayoutKind.FREE:
                offsets = [Real(f"{name}.layer{i}", -1.0, 1.0) for i in range(n_layers)]
                return [Real(f"{name}.tilt", -1.0, 1.0), Real(f"{name}.bulge", -1.0, 1.0), *offsets]

    def weights(self, params: Params, n_layers: int) -> list[float]:
        """One weight per layer, lowest first; all zero only for an empty mask.

        No group at all means every group.
        """
        name = self.name
        match self.kind:
            case LayoutKind.SAME:
                return [1.0] * n_layers
            case LayoutKind.MASK:
                return [float(params[f"{name}.layer{i}"]) for i in range(n_layers)]
            case LayoutKind.TOP:
                return [float(i >= n_layers - int(params[f"{name}.top"])) for i in range(n_layers)]
            case LayoutKind.GROUPS:
                groups = spindle(n_layers)
                on = [float(params[f"{name}.group{i}"]) for i in range(len(groups))]
                chosen = on if any(on) else [1.0] * len(groups)
                return [w for w, size in zip(chosen, groups, strict=True) for _ in range(size)]
            case LayoutKind.SHAPE:
                return _shape(str(params[f"{name}.shape"]), n_layers)
            case LayoutKind.FREE:
                offsets = [float(params[f"{name}.layer{i}"]) for i in range(n_layers)]
                tilt, bulge = float(params[f"{name}.tilt"]), float(params[f"{name}.bulge"])
                return _profile(tilt, bulge, offsets)

    def coordinates(self, weights: Sequence[float]) -> Params | None:
        """Coordinates whose weights resemble the given ones; None where the kind cannot.

        The inverse of `weights` up to a factor, clipped to the range of the coordinates.
        """
        n, present = len(weights), [w > 0 for w in weights]
        match self.kind:
            case LayoutKind.SAME:
                return {} if all(present) else None
            case LayoutKind.MASK:
                return {f"{self.name}.layer{i}": int(on) for i, on in enumerate(present)}
            case LayoutKind.TOP:
                top = sum(present)
                return {f"{self.name}.top": top} if top and all(present[n - top :]) else None
            case LayoutKind.GROUPS:
                return self._group_coordinates(present)
            case LayoutKind.SHAPE:
                return {f"{self.name}.shape": _nearest_shape(weights)}
            case LayoutKind.FREE:
                return self._fit_profile(weights)

    def parts(self, layers: Sequence[int], n_layers: int) -> list[list[int]]:
        """Some layers of a model, in parts that are present or absent each by itself."""
        match self.kind:
            case LayoutKind.SAME:
                return [list(layers)] if layers else []
            case LayoutKind.GROUPS:
                ends = list(accumulate(spindle(n_layers)))
                group_of = [bisect_right(ends, i) for i in layers]
                pairs = zip(group_of, layers, strict=True)
                return [[i for _, i in group] for _, group in groupby(pairs, itemgetter(0))]
            case _:
                return [[i] for i in layers]

    def alone(self, parts: Sequence[list[int]]) -> Sequence[list[int]]:
        """Of parts in ascending order those that can be all there is."""
        return parts[-1:] if self.kind is LayoutKind.TOP else parts

    def nearest(self, layers: Sequence[int], n_layers: int) -> list[int]:
        """For every layer of a model, which of some layers is closest: in its own group first."""
        ends = list(accumulate(spindle(n_layers))) if self.kind is LayoutKind.GROUPS else []

        def distance(own: int, i: int) -> tuple[int, int]:
            apart = abs(bisect_right(ends, own) - bisect_right(ends, i))
            return apart, own if apart else abs(own - i)  # a group without any follows one layer

        return [min(layers, key=lambda own: distance(own, i)) for i in range(n_layers)]

    def patterns(self, n_layers: int) -> int:
        """Number of non-empty sets of layers that a coupled layout can select."""
        match self.kind:
            case LayoutKind.MASK:
                return (1 << n_layers) - 1
            case LayoutKind.TOP:
                return n_layers
            case LayoutKind.GROUPS:
                return (1 << len(spindle(n_layers))) - 1
            case _:
                return 1

    def _group_coordinates(self, present: Sequence[bool]) -> Params | None:
        params: dict[str, int] = {}
        start = 0
        for i, size in enumerate(spindle(len(present))):
            group = set(present[start : start + size])
            if len(group) > 1:
                return None
            params[f"{self.name}.group{i}"] = int(group.pop())
            start += size
        return params

    def _fit_profile(self, weights: Sequence[float]) -> Params:
        n, logs = len(weights), _centred_logs(weights)
        params: dict[str, float] = {}
        for part, full in (
            ("tilt", _centred_logs(_profile(1.0, 0.0, [0.0] * n))),
            ("bulge", _centred_logs(_profile(0.0, 1.0, [0.0] * n))),
        ):
            norm = _dot(full, full)
            fit = _clipped(_dot(logs, full) / norm) if norm > 0 else 0.0
            params[f"{self.name}.{part}"] = fit
            logs = [log - fit * value for log, value in zip(logs, full, strict=True)]
        # Where the offsets cannot span the range the largest layers are right, the least clipped.
        middle = max((max(logs) + min(logs)) / 2, max(logs) - OFFSET)
        for i, log in enumerate(logs):
            params[f"{self.name}.layer{i}"] = _clipped((log - middle) / OFFSET)
        return params


def spindle(n_layers: int) -> list[int]:
    """Sizes of the groups, lowest first: four, the middle ones larger (2, 4, 4, 2 of 12)."""
    if n_layers < len(SPINDLE):
        return [1] * n_layers
    ends = [round(n_layers * part) for part in accumulate(SPINDLE)]
    return [end - start for start, end in pairwise([0, *ends])]


def _profile(tilt: float, bulge: float, offsets: Sequence[float]) -> list[float]:
    n = len(offsets)
    out = []
    for i, offset in enumerate(offsets):
        position = 2 * i / (n - 1) - 1 if n > 1 else 0.0
        log = TILT * tilt * position + TILT * bulge * (1 - 2 * abs(position)) + OFFSET * offset
        out.append(math.exp(log))
    return out


def _shape(name: str, n: int) -> list[float]:
    flat = [0.0] * n
    tilt, bulge = {
        "uniform": (0.0, 0.0),
        "increasing": (1.0, 0.0),
        "decreasing": (-1.0, 0.0),
        "spindle": (0.0, 1.0),
        "hourglass": (0.0, -1.0),
    }[name]
    return _profile(tilt, bulge, flat)


def _nearest_shape(weights: Sequence[float]) -> str:
    logs = _centred_logs(weights)

    def distance(name: str) -> float:
        profile = _centred_logs(_shape(name, len(weights)))
        return sum((a - b) ** 2 for a, b in zip(logs, profile, strict=True))

    return min(SHAPES, key=distance)


def _centred_logs(weights: Sequence[float]) -> list[float]:
    """Logarithms around 0; absent layers count as somewhat below the least present one."""
    floor = min(w for w in weights if w > 0) * math.exp(-2 * OFFSET)
    logs = [math.log(max(w, floor)) for w in weights]
    mean = sum(logs) / len(logs)
    return [value - mean for value in logs]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _clipped(value: float) -> float:
    return min(max(value, -1.0), 1.0)
