"""Every function with a shape in its annotations, checked at each call, as `jaxtyped` does.

`jaxtyping.install_import_hook` wraps all functions, and a third of the time of tests of ops went
to those without any shape.
"""

import inspect
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from typing import get_args

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped


def _has_shapes(annotation):
    return (inspect.isclass(annotation) and issubclass(annotation, AbstractArray)) or any(
        map(_has_shapes, get_args(annotation))
    )


def _function(member):
    """What is called behind a method, or nothing."""
    if isinstance(member, property):
        return member.fget
    member = getattr(member, "__func__", member)  # of a static method or one of a class
    return member if inspect.isfunction(member) else None


def _check(owner, module):
    for name, member in list(vars(owner).items()):
        if inspect.isclass(member) and member.__module__ == module:
            _check(member, module)
        function = _function(member)
        if (
            function is not None
            and function.__module__ == module
            and any(map(_has_shapes, inspect.get_annotations(function).values()))
        ):
            setattr(owner, name, jaxtyped(member, typechecker=beartype))


class _Loader(SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        _check(module, module.__name__)


class _Finder(MetaPathFinder):
    def __init__(self, packages):
        self._packages = packages

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(self._packages):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def check_shapes_in(*packages):
    """Check what is imported of these packages from here on."""
    sys.meta_path.insert(0, _Finder(tuple(f"{package}." for package in packages)))
