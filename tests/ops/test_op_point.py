"""Parts of what a weight matrix puts out."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.ops.point import Part, Point

WIDTHS = (6, 1, 3)


@pytest.mark.parametrize("module", [nn.Linear(5, 10), Conv1D(10, 5)], ids=["linear", "conv1d"])
@torch.no_grad()
def test_parts_need_not_be_equal(module):
    module.bias.normal_()
    parts = [Point(module, "out", Part(i, WIDTHS)) for i in range(3)]
    assert tuple(part.width for part in parts) == WIDTHS
    x = torch.randn(4, 5)
    computed = [x @ part.weight.T + part.bias for part in parts]
    torch.testing.assert_close(torch.cat(computed, -1), module(x))
    parts[1].weight.zero_(), parts[1].bias.fill_(7)
    assert module(x)[:, 6].tolist() == [7] * 4, "they are views"
