"""A device that is none: tensors "on" it are the CPU's, but behave as on a GPU.

What a GPU refuses is refused: an operation with tensors of two devices. What makes a program wait
for a GPU is noted: a number that is read, a tensor that is copied to the CPU, or from memory that
is not made for it, an outcome whose size depends on the data. And operations that a GPU would be
sent are counted. So the engine can be run as on a GPU where there is none, bit by bit as on the
CPU. It knows nothing of time, and nothing of CUDA's own kernels.

torch keeps such a device for the life of the process.
"""

import functools
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "strict"
ATEN = torch.ops.aten

READS = {
    ATEN._local_scalar_dense.default,
    ATEN._unique2.default,
    ATEN.equal.default,
    ATEN.is_nonzero.default,
    ATEN.masked_select.default,
    ATEN.nonzero.default,
    ATEN.unique_dim.default,
}
"""Their outcome is a number, or as long as the data say."""

INDEXED = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
"""With a mask they look for what is true first."""

NO_WORK = {
    "_unsafe_view",
    "alias",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}
"""Operations that only make a tensor; views are told by their schema."""


@dataclass
class Seen:
    """What was asked of the device.

    Attributes:
        waits: where the program had to wait for it, and for what.
        sent: operations, by name.
    """

    waits: list[str] = field(default_factory=list)
    sent: Counter = field(default_factory=Counter)

    @property
    def n_sent(self):
        """Operations in all."""
        return sum(self.sent.values())


_watching: list[Seen] = []


@contextmanager
def watch():
    """Note what is asked of the device meanwhile."""
    seen = Seen()
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


class Strict(torch.Tensor):
    """A tensor on the device; `raw` is where its numbers are."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=f"{NAME}:0",
        )

    def __init__(self, raw):
        self.raw = raw

    def __repr__(self):
        return f"Strict({self.raw!r})"

    def tolist(self):
        """Of a tensor of another class torch would not."""
        _wait("tolist")
        return self.raw.tolist()

    def untyped_storage(self):
        """Where the numbers are."""
        return self.raw.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})


def _run(op, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if op is ATEN._to_copy.default:
        target = torch.device(kwargs.get("device") or args[0].device)
        _note_copy(args[0].device, target, kwargs.get("non_blocking", False))
    elif op is ATEN.copy_.default:
        target = args[0].device
        _note_copy(args[1].device, target, args[2] if len(args) > 2 else False)
    else:
        target = torch.device(kwargs["device"]) if kwargs.get("device") else None
        _check(op, tensors)
        if op in READS or (op in INDEXED and _has_mask(args[1])):
            _wait(str(op))
    name = op._schema.name.removeprefix("aten::")
    if not op.is_view and name not in NO_WORK:
        for seen in _watching:
            seen.sent[name] += 1
    own = dict(kwargs)
    if own.get("device") is not None:
        own["device"] = torch.device("cpu")
    if op is ATEN.histc.default:  # of whole numbers, which the CPU counts as real ones alone
        out = op(args[0].raw.float(), *args[1:]).to(args[0].dtype)
    else:
        out = op(*tree_map(_raw, args), **tree_map(_raw, own))
    if op is ATEN.copy_.default:
        return args[0]
    if target is not None and target.type != NAME:
        # What is on the CPU already is given back as it is, and would go on being the same memory.
        return tree_map(lambda leaf: leaf.clone() if leaf is _raw(args[0]) else leaf, out)
    known = {id(tensor.raw): tensor for tensor in tensors if isinstance(tensor, Strict)}
    return tree_map(lambda leaf: _wrapped(leaf, known), out)


def _raw(leaf):
    return leaf.raw if isinstance(leaf, Strict) else leaf


def _wrapped(leaf, known):
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return known[id(leaf)] if id(leaf) in known else Strict(leaf)


def _check(op, tensors):
    """A number of the CPU may go with tensors of a device, and no other tensor."""
    for tensor in tensors:
        if not isinstance(tensor, Strict) and tensor.dim():
            raise RuntimeError(
                f"{op}: a tensor of shape {tuple(tensor.shape)} is on the CPU, others on the device"
            )


def _has_mask(indices):
    kinds = (torch.bool, torch.uint8)
    return any(index is not None and index.dtype in kinds for index in indices)


def _note_copy(source, target, non_blocking):
    if source.type != target.type and not non_blocking:
        _wait(f"{source.type} to {target.type}")


def _wait(what):
    for seen in _watching:
        seen.waits.append(f"{what}, {_place()}")


def _place():
    """The innermost line that is neither torch's nor of this file."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if f"{Path('torch')}/" not in file and file != __file__:
            return f"{Path(file).name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "backward"


class _Backend:
    """What torch asks of a device; it has no random numbers of its own."""

    def is_initialized(self):
        return True

    def is_available(self):
        return True

    def current_device(self):
        return 0

    def device_count(self):
        return 1

    def manual_seed_all(self, seed):
        pass

    def _is_in_bad_fork(self):
        return False

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def get_rng_state(self, device=None):
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state, device=None):
        pass


_libraries = []
"""Kept, or torch would forget what was registered."""


def can_register():
    """Whether torch is new enough for such a device."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


@functools.cache
def register():
    """Let this process have the device.

    Returns:
        The device.
    """
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    rest, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    for op in (ATEN.empty.memory_format, ATEN.empty_strided.default):
        overload = op._schema.name + (f".{op._overloadname}".removesuffix(".default"))
        aten.impl(overload, lambda *args, _op=op, **kwargs: _run(_op, args, kwargs), "PrivateUse1")
    _libraries.extend([rest, aten])
    # Or `torch.tensor` makes its tensor on the device at once, past all of this.
    torch._C._set_only_lift_cpu_tensors(True)
    return torch.device(NAME)
