"""What `autopeft spaces` and `autopeft methods` list, as plain rows."""

from typing import Any

from autopeft.front import Front
from autopeft.space.bind import bind
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.merge import obstacles
from autopeft.space.methods import method, methods
from autopeft.space.shape import BERT_BASE, ModelShape
from autopeft.space.shipped import load_space, shipped_spaces
from autopeft.space.words import describe


def space_rows() -> list[dict[str, Any]]:
    """Name, kind, size and description of each shipped space, counted on a BERT-base."""
    rows = []
    for name in shipped_spaces():
        spec = load_space(name)
        bound = bind(spec, BERT_BASE, BERT_BASE.backbone_params)
        rows.append(
            {
                "name": name,
                "draw": spec.draw,
                "slots": len(bound.slots),
                "dimensions": len(bound.dimensions()),
                "cardinality": bound.cardinality(),
                "description": " ".join(spec.description.split()),
            }
        )
    return rows


def method_rows(name: str | None, model: str | None) -> list[dict[str, Any]]:
    """The named methods, or one, with parameters on a model.

    Args:
        name: one of them; all if None.
        model: Hub name or folder; a BERT-base if None.

    Returns:
        Rows; what of a row depends on the model is None if the method does not fit it, and
        `misfit` says why.

    Raises:
        ConfigError: there is no method of this name, or it does not fit the model.
        DataError: the model cannot be loaded.
    """
    chosen = {name: method(name)} if name else methods()
    shape = _shape(model)
    rows = []
    for key, item in chosen.items():
        misfit = item.misfit(shape)
        genotype = None if misfit and name is None else item.genotype(shape)
        count = None if genotype is None else genotype.count_params(shape)
        rows.append(
            {
                "name": key,
                "title": item.title,
                "params": count,
                "trained": None if genotype is None else genotype.count_trained(shape),
                "fraction": None if count is None else count / shape.backbone_params,
                "summary": None if genotype is None else describe(genotype),
                "lacking": list(item.lacking(shape)),
                "misfit": misfit,
                "formula": item.formula,
                "source": item.source,
                "model": model or "BERT-base",
                "genotype": None if genotype is None else genotype.to_dict(),
            }
        )
    return rows


def merging(front: Front, shape: ModelShape | None) -> dict[int, tuple[str, ...]] | None:
    """For each trial of a front what is in the way of merging it into the weights.

    Args:
        front: of a study.
        shape: of its model; None if it is not known.
    """
    if shape is None:
        return None
    return {
        point.trial: obstacles(genotype_from_dict(point.genotype), shape) for point in front.points
    }


def _shape(model: str | None) -> ModelShape:
    if model is None:
        return BERT_BASE
    from autopeft.model.backbone import load_backbone

    return load_backbone(model, 2).shape
