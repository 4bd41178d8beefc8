"""A trained genotype as a plain transformers model: every op becomes part of a weight."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.errors import ConfigError
from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.model.layer_ops import LayerOps
from autopeft.model.quantized import dequantize
from autopeft.ops.affine import Affine
from autopeft.ops.bottleneck import Bottleneck
from autopeft.ops.point import Point
from autopeft.space.genotype import Genotype
from autopeft.space.merge import CONSUMERS, ELEMENTWISE, NORMS, obstacles
from autopeft.space.taps import LINEAR_INPUT, Tap


@torch.no_grad()
def merge(
    model: PreTrainedModel, genotype: Genotype, seed: int, tensors: Mapping[str, Tensor]
) -> PreTrainedModel:
    """A model that computes without ops what another one computes with them.

    Products are summed in double precision and rounded once. Weights in few bits become the numbers
    that they stand for.

    Args:
        model: without ops; unchanged afterwards.
        genotype: to merge into it.
        seed: of the trial, for what is random and not stored.
        tensors: the parameters of the ops, by full name.

    Raises:
        ConfigError: naming each op that no weight can do.
    """
    anatomy = Anatomy(model)
    if found := obstacles(genotype, anatomy.shape()):
        raise ConfigError("this cannot be merged: " + "; ".join(found))
    plain = copy.deepcopy(model)
    dequantize(plain)
    injection = Injection(model, [genotype], [seed], "eager")
    try:
        injection.load(0, tensors)
        folded = {i: FoldedLayer(anatomy, i, ops) for i, ops in injection.layers.items()}
    finally:
        injection.remove()
    into = Anatomy(plain)
    for layer in folded.values():
        layer.write(into)
    n_more = max((layer.n_neurons for layer in folded.values()), default=0)
    if n_more:
        for i in range(len(into.layers)):
            _widen(into, i, folded.get(i), n_more)
        for name in into.family.ffn_width:
            setattr(plain.config, name, into.point(0, Tap.FFN_MID).width)
    return plain


class FoldedLayer:
    """The weights of one layer with its ops folded in.

    Args:
        anatomy: of a model that has the ops.
        index: of the layer.
        ops: of the layer, for one trial.

    Attributes:
        weights: of the weight matrices and LayerNorms that are changed, by the tap they put out.
        neurons: what the FFN gets in addition, as the map from its input.
    """

    def __init__(self, anatomy: Anatomy, index: int, ops: LayerOps) -> None:
        self._anatomy, self._index, self._ops = anatomy, index, ops
        self._taps = anatomy.shape().widths
        self.weights: dict[Tap, Affine] = {}
        for tap, norm in NORMS.items():
            if tap in ops.writes:
                self.weights[norm] = self._written(tap, self.weights.get(norm) or self._own(norm))
        for tap in LINEAR_INPUT:
            if tap in ops.writes:
                self.weights[tap] = self._written(tap, self._own(tap))
        self.neurons = self._neurons()
        for read, takers in CONSUMERS.items():
            if read in ops.writes:
                self._take_in(read, takers)

    @property
    def n_neurons(self) -> int:
        """How many the FFN gets in addition."""
        return 0 if self.neurons is None else len(self.neurons.bias)

    def write(self, anatomy: Anatomy) -> None:
        """Put the weights into a model of the same shape; neurons in addition stay out."""
        for tap, affine in self.weights.items():
            point = anatomy.point(self._index, tap)
            if point.is_weight:
                point.weight.copy_(affine.weight[:, : point.weight.shape[1]])
            else:
                point.module.get_parameter("weight").copy_(affine.weight[:, 0])
            if point.bias is not None:
                point.bias.copy_(affine.bias)

    def _own(self, tap: Tap) -> Affine:
        return affine_of(self._anatomy.point(self._index, tap))

    def _written(self, tap: Tap, h: Affine) -> Affine:
        """What becomes of h by the ops that write at a tap, in their order."""
        for read, op in self._ops.writes[tap]:
            h = op.fold(0, h, sequential=read == tap)
        return h

    def _neurons(self) -> Affine | None:
        ops = [op for _, op in self._ops.writes.get(Tap.FFN_OUT, []) if isinstance(op, Bottleneck)]
        if not ops:
            return None
        weight = torch.cat([op.own("down", 0) for op in ops])
        bias = torch.cat([op.own("down_bias", 0)[:, 0] for op in ops])
        return Affine(weight.double(), bias.double())

    def _take_in(self, read: Tap, takers: tuple[Tap, ...]) -> None:
        """Let all that read a tap do what is written there."""
        width = self._ops.writes[read][0][1].d_write
        vectors = all(op.form in ELEMENTWISE for _, op in self._ops.writes[read])
        nothing = torch.ones(width, 1) if vectors else torch.eye(width)
        change = self._written(read, Affine(nothing.double(), torch.zeros(width).double()))
        for tap in takers:
            if tap in self._taps:
                self.weights[tap] = _after(change, self.weights.get(tap) or self._own(tap))
        if read is Tap.FFN_IN and self.neurons is not None:
            self.neurons = _after(change, self.neurons)


def affine_of(point: Point) -> Affine:
    """What a weight matrix computes, or what a LayerNorm does last."""
    own = point.weight if point.is_weight else point.module.get_parameter("weight")[:, None]
    weight, bias = own.double(), point.bias
    return Affine(weight, weight.new_zeros(len(weight)) if bias is None else bias.double())


def _after(change: Affine, affine: Affine) -> Affine:
    """An affine map of what a change makes of its input, further columns left aside."""
    width = len(change.bias)
    own, more = affine.weight[:, :width], affine.weight[:, width:]
    vector = change.weight.shape[1] == 1
    moved = own * change.weight[:, 0] if vector else own @ change.weight
    return Affine(torch.cat([moved, more], 1), affine.bias + own @ change.bias)


def _widen(anatomy: Anatomy, index: int, folded: FoldedLayer | None, n_more: int) -> None:
    """Give the FFN of a layer its neurons in addition, and silent ones up to `n_more`."""
    up, down = anatomy.point(index, Tap.FFN_UP), anatomy.point(index, Tap.FFN_OUT)
    n_own = down.weight.shape[1]
    rows = up.weight.new_zeros(n_more, up.weight.shape[1])
    bias = rows.new_zeros(n_more)
    columns = rows.new_zeros(len(down.weight), n_more)
    if folded is not None and folded.neurons is not None:
        n_new = folded.n_neurons
        rows[:n_new], bias[:n_new] = folded.neurons.weight, folded.neurons.bias
        columns[:, :n_new] = folded.weights[Tap.FFN_OUT].weight[:, n_own:]
    _replace(up, "weight", torch.cat([up.weight, rows]))
    _replace(up, "bias", torch.cat([up.module.get_parameter("bias"), bias]))
    _replace(down, "weight", torch.cat([down.weight, columns], 1))


def _replace(point: Point, name: str, wider: Tensor) -> None:
    """Put a wider parameter into a weight matrix, which keeps its kind."""
    module = point.module
    turned = name == "weight" and isinstance(module, Conv1D)
    wider = wider.T.contiguous() if turned else wider
    module.register_parameter(name, nn.Parameter(wider, requires_grad=False))
    if isinstance(module, Conv1D):
        module.nx, module.nf = module.weight.shape
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
