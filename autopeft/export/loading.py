"""How transformers loads the backbone of an export, as code."""

from autopeft.export.adapter import Outputs
from autopeft.model.part import NAMES, Part, told_beside

_PART = """\
# Of a model that reads more than texts, the part for texts.
text = AutoConfig.from_pretrained({backbone}, revision={revision}).text_config
{settings}
names = {{
{names}
}}
"""


def loading_code(
    outputs: Outputs, part: Part | None, backbone: str, revision: str
) -> dict[str, str]:
    """What a script says to load the backbone.

    Args:
        outputs: of the model.
        part: what it is of the checkpoint's model.
        backbone: code that names the checkpoint.
        revision: code that names its revision.

    Returns:
        `auto`, the class; `classes` to import; `before`, lines that come first; `arguments`, what
        the class is told beside the checkpoint.
    """
    told = "".join(
        f", {name}={'names' if value is NAMES else repr(value)}"
        for name, value in told_beside(outputs.n_outputs, outputs.loaded_as, part).items()
    )
    if part is None:
        return {"auto": outputs.auto, "classes": outputs.auto, "before": "", "arguments": told}
    code = {
        "settings": [f"text.{name} = {value!r}" for name, value in part.settings.items()],
        "names": [f"    {name!r}: {value!r}," for name, value in NAMES.items()],
    }
    lines = {key: "\n".join(each) for key, each in code.items()}
    return {
        "auto": outputs.auto,
        "classes": f"AutoConfig, {outputs.auto}",
        "before": _PART.format(backbone=backbone, revision=revision, **lines),
        "arguments": f", config=text{told}",
    }
