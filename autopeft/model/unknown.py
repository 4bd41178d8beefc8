"""Reading the anatomy of a model whose family is not in the table, from the names of its modules.

What is read is a guess until `check` has seen that ops that do nothing change nothing.
"""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.errors import DataError
from autopeft.model.families import Family, Layers

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


def read_family(model: PreTrainedModel, base: nn.Module) -> Family:
    """The row that a table would have for this model.

    Args:
        model: with a task head or without.
        base: the same without.

    Raises:
        DataError: naming what was found and what is missing.
    """
    kind = model.config.model_type
    at, layers = _layers(kind, base, int(getattr(model.config, "num_hidden_layers", 0)))
    weights = {
        name: module
        for name, module in layers[0].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    found = {role: name for role in _NAMES if (name := _named(role, weights))}
    missing = [role for role in _NAMES if role not in found and role != "gate"]
    if missing:
        told = ", ".join(f"{role} {name}" for role, name in found.items()) or "none of them"
        raise DataError(
            f"models of type `{kind}` are not known, and their anatomy cannot be read: in the "
            f"{len(layers)} layers `{at}` there is {told}, but nothing like {', '.join(missing)} "
            f"among {', '.join(weights) or 'no weight matrix at all'}"
        )
    q, k, v, o, up, down = (weights[found[r]] for r in ("q", "k", "v", "o", "up", "down"))
    d_model, fits = _sides(q)[0], {(_sides(m)[0]) for m in (k, v, up)} | {_sides(o)[1]}
    alike = fits | {_sides(down)[1]} == {d_model} and _sides(o)[0] == _sides(q)[1]
    if not (alike and _sides(k) == _sides(v) and _sides(up)[1] == _sides(down)[0]):
        shapes = ", ".join(f"{found[r]} {_sides(weights[found[r]])}" for r in found)
        raise DataError(
            f"models of type `{kind}` are not known, and what their layers `{at}` have does not "
            f"fit together: {shapes}"
        )
    embedding: nn.Module = base.get_input_embeddings()  # type: ignore[operator]
    if not (isinstance(embedding, nn.Embedding) and embedding.embedding_dim == d_model):
        raise DataError(
            f"models of type `{kind}` are not known, and this one's embeddings are not as wide as "
            f"its layers, {d_model}"
        )
    score = isinstance(getattr(model, "score", None), nn.Linear)
    return Family(
        embeddings=next(name for name, module in base.named_modules() if module is embedding),
        pool="last" if score else "first",
        head=("score",) if score else (),
        activation="",  # so that nothing is made part of a wider FFN
        heads=bool(type(model)._can_set_attn_implementation()),  # noqa: SLF001
        layers=Layers(at=at, attention=_parent([found[r] for r in ("q", "k", "v")]), **found),
    )


def told(kind: str, family: Family) -> str:
    """A note of what was read."""
    layers = family.layers
    names = ", ".join(f"{role} {getattr(layers, role)}" for role in _NAMES if getattr(layers, role))
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
        raise DataError(
            f"models of type `{kind}` are not known, and there is not one list of the {depth} "
            f"layers that the configuration tells of; lists: {', '.join(others) or 'none'}"
        )
    return outer[0], lists[outer[0]]


def _named(role: str, weights: dict[str, nn.Module]) -> str | None:
    for end in _NAMES[role]:
        fitting = [n for n in weights if n == end or n.endswith(f".{end}")]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _parent(names: list[str]) -> str:
    """The module that has all of these."""
    paths = [name.split(".")[:-1] for name in names]
    shared = [parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1]
    return ".".join(shared)


def _sides(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
