"""Search for the best combination of parameter-efficient fine-tuning methods under a budget.

`search` runs a study, `attach` puts a genotype into anybody's model. What is refused or given up is
an `AutopeftError`; its kinds are in `autopeft.errors`. Names are imported when they are used, so
that what needs no torch answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopeft.api import attach, search
    from autopeft.errors import AutopeftError
    from autopeft.export.bank import AdapterBank
    from autopeft.export.native import load
    from autopeft.front import Front
    from autopeft.handle import Study
    from autopeft.records import Record
    from autopeft.space.forms import Activation, Form
    from autopeft.space.genotype import Genotype, Op
    from autopeft.space.genotype_file import load_genotype
    from autopeft.space.methods import method
    from autopeft.space.taps import Tap

__version__ = "0.1.0"

_HOMES = {
    "Activation": "autopeft.space.forms",
    "AdapterBank": "autopeft.export.bank",
    "AutopeftError": "autopeft.errors",
    "Form": "autopeft.space.forms",
    "Front": "autopeft.front",
    "Genotype": "autopeft.space.genotype",
    "Op": "autopeft.space.genotype",
    "Record": "autopeft.records",
    "Study": "autopeft.handle",
    "Tap": "autopeft.space.taps",
    "attach": "autopeft.api",
    "load": "autopeft.export.native",
    "load_genotype": "autopeft.space.genotype_file",
    "method": "autopeft.space.methods",
    "search": "autopeft.api",
}

__all__ = [
    "Activation",
    "AdapterBank",
    "AutopeftError",
    "Form",
    "Front",
    "Genotype",
    "Op",
    "Record",
    "Study",
    "Tap",
    "attach",
    "load",
    "load_genotype",
    "method",
    "search",
]


if not TYPE_CHECKING:  # or a type checker would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'autopeft' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
