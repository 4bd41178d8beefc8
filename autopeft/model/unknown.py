"""Reading the anatomy of a model whose family is not in the table, from the names of its modules.

What is read is a guess until `check` has seen that ops that do nothing change nothing.
"""

from collections.abc import Collection, Mapping
from itertools import takewhile

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.errors import DataError
from autopeft.model.experts import has_experts
from autopeft.model.families import FAMILIES, has_decoder
from autopeft.model.family import Family, Layers

_NAMES = {
    "q": ("q_proj", "query", "q_lin", "query_proj", "wq", "q"),
    "k": ("k_proj", "key", "k_lin", "key_proj", "wk", "k"),
    "v": ("v_proj", "value", "v_lin", "value_proj", "wv", "v"),
    "o": (
        *("out_proj", "o_proj", "out_lin", "wo", "o"),
        *("attention.output.dense", "self_attn.dense", "attn.dense"),
    ),
    "up": ("up_proj", "fc1", "c_fc", "lin1", "intermediate.dense", "dense_h_to_4h", "wi"),
    "down": ("down_proj", "fc2", "c_proj", "lin2", "dense_4h_to_h", "output.dense"),
    "gate": ("gate_proj",),
}
"""The ends of names that projections of a layer go by, the surest first."""

_OF_ATTENTION = ("q", "k", "v", "o")


_Roles = dict[str, tuple[str, tuple[int, int]]]
"""The projections of a layer by role: the name, and the widths of input and output."""


def read_family(model: PreTrainedModel, base: nn.Module) -> Family:
    """The row that a table would have for this model.

    Args:
        model: with a task head or without.
        base: the same without.

    Raises:
        DataError: naming what was found and what is missing.
    """
    kind = model.config.model_type
    if model.config.is_encoder_decoder:
        raise DataError(
            f"encoder-decoders of type `{kind}` are not known, and the anatomy of an "
            "encoder-decoder is not read from the names of its modules; known are "
            f"{', '.join(sorted(kind for kind in FAMILIES if has_decoder(kind)))}"
        )
    if (part := getattr(model.config, "text_config", None)) is not None:
        known = "is known" if part.model_type in FAMILIES else "may be read from its modules' names"
        raise DataError(
            f"models of type `{kind}` read more than texts, and cannot be used as a whole; their "
            f"part for texts is a `{part.model_type}`, which {known}: load it alone "
            "(docs/adding-a-family.md), as a study does where transformers can"
        )
    writes = model.get_output_embeddings() is not None
    if writes and base is model:
        raise DataError(
            f"models of type `{kind}` are not known, and this one has no part without its head"
        )
    at, layers = _layers(kind, base, int(getattr(model.config, "num_hidden_layers", 0)))
    mixture = _mixture(layers)
    roles = _read_layers(kind, at, layers, _OF_ATTENTION if mixture else tuple(_NAMES))
    names = {role: name for role, (name, _) in roles.items()}
    d_model = roles["q"][1][0]
    if mixture:
        _check_alone(kind, layers, [_parent([names[role] for role in _OF_ATTENTION]), mixture])
    score = isinstance(getattr(model, "score", None), nn.Linear)
    return Family(
        embeddings=_embedding(kind, base, d_model),
        positions=_positions(base),
        pool="last" if score else "first",
        head=("score",) if score else (),
        activation="",  # so that nothing is made part of a wider FFN
        heads=bool(type(model)._can_set_attn_implementation()),  # noqa: SLF001
        layers=Layers(
            at=at,
            attention=_parent([names[role] for role in ("q", "k", "v")]),
            ffn=_gated_ffn(kind, names) if "gate" in names else mixture,
            **names,
        ),
    )


def told(kind: str, family: Family) -> str:
    """A note of what was read."""
    layers = family.layers
    roles = _NAMES if layers.down else (*_OF_ATTENTION, "ffn")
    names = ", ".join(f"{role} {getattr(layers, role)}" for role in roles if getattr(layers, role))
    heads = "" if family.heads else "; prefixes cannot act in its attention"
    return (
        f"models of type `{kind}` are not known; read from the names of its modules: layers "
        f"{layers.at}, {names}{heads}; LayerNorms were not looked for"
    )


def _layers(kind: str, base: nn.Module, depth: int) -> tuple[str, nn.ModuleList]:
    lists = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    }
    outer = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    if depth < 1 or len(outer) != 1:
        modules = base.named_modules()
        others = [f"{name} ({len(m)})" for name, m in modules if isinstance(m, nn.ModuleList)]
        told = (
            f"there is not one list of the {depth} layers that the configuration tells of"
            if depth > 0
            else "their configuration has no `num_hidden_layers`"
        )
        raise DataError(
            f"models of type `{kind}` are not known, and {told}; lists: "
            f"{', '.join(others) or 'none'}"
        )
    return outer[0], lists[outer[0]]


def _mixture(layers: nn.ModuleList) -> str | None:
    """The FFN as a whole, if it is a mixture of experts in some layer."""
    found = {
        name
        for layer in layers
        for name, part in layer.named_children()
        if has_experts(part) and "q" not in _roles(part)
    }
    everywhere = [name for name in found if all(hasattr(layer, name) for layer in layers)]
    return everywhere[0] if len(found) == len(everywhere) == 1 else None


def _check_alone(kind: str, layers: nn.ModuleList, known: list[str]) -> None:
    """See that layers have weights in these modules alone, of which one is an FFN as a whole.

    Raises:
        DataError: what is beside them may read or change what they do.
    """
    inside = tuple(f"{name}." for name in known)
    for i, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            if parameter.ndim > 1 and not name.startswith(inside):
                raise DataError(
                    f"models of type `{kind}` are not known, and layer {i} of this one has "
                    f"{name} beside {' and '.join(known)}"
                )


def _read_layers(kind: str, at: str, layers: nn.ModuleList, wanted: tuple[str, ...]) -> _Roles:
    """The projections that every layer has, of those that are wanted."""
    found = _roles(layers[0], wanted)
    missing = [role for role in wanted if role not in found and role != "gate"]
    if missing:
        told = ", ".join(f"{role} {name}" for role, (name, _) in found.items()) or "none of them"
        raise DataError(
            f"models of type `{kind}` are not known, and their anatomy cannot be read: in the "
            f"{len(layers)} layers `{at}` there is {told}, but nothing like {', '.join(missing)} "
            f"among {', '.join(_weights(layers[0])) or 'no weight matrix at all'}"
        )
    for i, layer in enumerate(layers):
        other = _roles(layer, wanted)
        if unlike := [role for role in wanted if found.get(role) != other.get(role)]:
            raise DataError(
                f"models of type `{kind}` are not known, and the layers `{at}` of this one are not "
                f"alike: layer 0 has {_shapes(found, unlike)}, and layer {i} "
                f"{_shapes(other, unlike)}; only models whose layers are alike can be used"
            )
    (d_model, inner), value = found["q"][1], found["v"][1][1]
    d_ffn = found["up"][1][1] if "up" in found else 0
    fitting = {
        "q": (d_model, inner),
        "k": (d_model, value),
        "v": (d_model, value),
        "o": (inner, d_model),
        "up": (d_model, d_ffn),
        "gate": (d_model, d_ffn),
        "down": (d_ffn, d_model),
    }
    if any(sides != fitting[role] for role, (_, sides) in found.items()):
        raise DataError(
            f"models of type `{kind}` are not known, and what their layers `{at}` have does not "
            f"fit together: {_shapes(found, found)}"
        )
    return found


def _shapes(roles: _Roles, some: Collection[str]) -> str:
    told = ((role, *roles[role]) for role in some if role in roles)
    return ", ".join(f"{role} {name} {sides}" for role, name, sides in told) or "nothing like it"


def _roles(layer: nn.Module, wanted: Collection[str] = _OF_ATTENTION) -> _Roles:
    weights = _weights(layer)
    names = {role: name for role in wanted if (name := _named(role, weights))}
    return {role: (name, _sides(weights[name])) for role, name in names.items()}


def _weights(layer: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear | Conv1D)}


def _named(role: str, weights: Collection[str]) -> str | None:
    for end in _NAMES[role]:
        if end in weights:  # and not behind a dot, as `output.dense` is in attention, too
            return end
        fitting = [n for n in weights if _ends(n, end)]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _gated_ffn(kind: str, names: Mapping[str, str]) -> str:
    """The module that has both projections that a gated FFN begins with."""
    if not (found := _parent([names[role] for role in ("gate", "up", "down")])):
        raise DataError(
            f"models of type `{kind}` are not known, and their {names['gate']} and {names['up']} "
            "are in no module of their own, so that there is no input of both to act at"
        )
    return found


def _embedding(kind: str, base: nn.Module, d_model: int) -> str:
    """The module that words are embedded by."""
    try:
        embedding = base.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:
        embedding = None
    for name, module in _tables(base):
        if module is embedding and module.embedding_dim == d_model:
            return name
    raise DataError(
        f"models of type `{kind}` are not known, and this one's embeddings are not as wide as its "
        f"layers, {d_model}"
    )


def _positions(base: nn.Module) -> str | None:
    """The embeddings of positions that begin behind that of padding, as in RoBERTa."""
    for name, module in _tables(base):
        if _ends(name, "position_embeddings") and module.padding_idx is not None:
            return name
    return None


def _tables(base: nn.Module) -> list[tuple[str, nn.Embedding]]:
    return [(name, m) for name, m in base.named_modules() if isinstance(m, nn.Embedding)]


def _parent(names: list[str]) -> str:
    """The module that has all of these."""
    paths = [name.split(".")[:-1] for name in names]
    levels = zip(*paths, strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, levels)]
    return ".".join(shared)


def _sides(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
