"""Model shapes, small spaces and uniform draws for the tests of `autopeft.space`."""

import math
import random
from collections.abc import Callable

import hypothesis.strategies as st

from autopeft.errors import ConfigError
from autopeft.space import yaml
from autopeft.space.bind import bind
from autopeft.space.dimension import Categorical, Dimension, Integer, Params
from autopeft.space.genotype import Op
from autopeft.space.layout import LayoutKind
from autopeft.space.search_space import SearchSpace
from autopeft.space.shape import BERT_BASE, ModelShape, encoder_shape
from autopeft.space.shipped import load_space
from autopeft.space.spec import SpaceSpec

BY_CONSTRUCTION = (
    *("adapters", "hybrid", "lora", "mergeable", "prompts", "s3delta", "s4", "sparse"),
    *("unified", "weights"),
)
FILTERABLE = tuple(kind for kind in LayoutKind if kind is not LayoutKind.SHAPE)
"""The layouts that go with `draw: filter`."""

ROBERTA_BASE = encoder_shape(12, 768, 3072, 124_645_632)
MINILM = encoder_shape(6, 384, 1536, 22_713_216)
TINY = encoder_shape(2, 4, 8, 1000)
MODELS = {"bert-base": BERT_BASE, "minilm": MINILM}
NO_LIMIT = 10**9


def parse_space(text: str) -> SpaceSpec:
    return yaml.validate(SpaceSpec, yaml.loads(text, "space.yaml"))


def bind_text(text: str, shape: ModelShape = TINY, max_params: int = NO_LIMIT) -> SearchSpace:
    return bind(parse_space(text), shape, max_params)


def bind_shipped(name: str, shape: ModelShape, fraction: float) -> SearchSpace:
    return bind(load_space(name), shape, int(fraction * shape.backbone_params))


def one_slot(layout: str, draw: str = "budget") -> str:
    """A space of LoRA on q with two scales."""
    slot = "{name: a, form: lowrank, read: weight, write: q, size: [1, 2], scale: [1, 2]"
    return f"""
name: small
description: one slot
draw: {draw}
slots:
  - {slot}, layout: {layout}}}
training: {{learning_rate: {{low: 1e-4, high: 1e-2}}}}
"""


def two_slots(kind: str, draw: str = "budget") -> str:
    """A space of two slots that share a layout."""
    return f"""
name: small
description: two slots that share a layout
draw: {draw}
layouts: {{both: {kind}}}
slots:
  - {{name: a, form: lowrank, read: weight, write: [q, q+v], size: [1, 2], layout: both}}
  - {{name: b, form: bias, read: same, write: ffn_up, layout: both}}
training: {{learning_rate: 1e-3}}
"""


def draw_uniform(space: SearchSpace, rng: random.Random) -> Params:
    return {dim.name: _draw(dim, rng) for dim in space.dimensions()}


def _draw(dim: Dimension, rng: random.Random) -> str | float:
    if isinstance(dim, Categorical):
        return rng.choice(dim.choices)
    if isinstance(dim, Integer):
        return rng.randint(dim.low, dim.high)
    if dim.log:
        value = math.exp(rng.uniform(math.log(dim.low), math.log(dim.high)))
        return min(max(value, dim.low), dim.high)
    return rng.uniform(dim.low, dim.high)


def coordinates(space: SearchSpace) -> st.SearchStrategy[Params]:
    """Any coordinates inside the dimensions, their ends included."""
    return st.fixed_dictionaries({dim.name: _values(dim) for dim in space.dimensions()})


def _values(dim: Dimension) -> st.SearchStrategy[str | float]:
    if isinstance(dim, Categorical):
        return st.sampled_from(dim.choices)
    if isinstance(dim, Integer):
        return st.integers(dim.low, dim.high)
    return st.floats(dim.low, dim.high)


def is_inside(dim: Dimension, value: object) -> bool:
    if isinstance(dim, Categorical):
        return value in dim.choices
    return isinstance(value, int | float) and dim.low <= value <= dim.high


def refusal_of(call: Callable[..., object], *args: object) -> str | None:
    """The message of the ConfigError that a call raises, None if it raises nothing."""
    try:
        call(*args)
    except ConfigError as error:
        return str(error)
    return None


def op_set(ops: tuple[Op, ...]) -> frozenset[tuple[tuple[str, ...], tuple[int, ...]]]:
    return frozenset((op.kind, op.sizes) for op in ops)
