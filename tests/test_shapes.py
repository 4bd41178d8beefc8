"""Annotated shapes are checked while tests run: of functions, methods, fields of dataclasses."""

import pytest
import torch
from jaxtyping import TypeCheckError

from autopeft.ops.affine import Affine
from autopeft.tasks.losses import mean_cross_entropy


def test_a_function_refuses_sizes_that_do_not_fit():
    logits = torch.zeros(2, 5, 3)
    assert mean_cross_entropy(logits, torch.zeros(5, dtype=torch.int64)).shape == (2,)
    with pytest.raises(TypeCheckError, match="labels"):
        mean_cross_entropy(logits, torch.zeros(4, dtype=torch.int64))


def test_a_method_refuses_another_number_of_dimensions():
    affine = Affine(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(TypeCheckError, match="vector"):
        affine.shifted(torch.zeros(3, 1))


def test_a_dataclass_refuses_fields_that_do_not_fit():
    with pytest.raises(TypeCheckError, match="bias"):
        Affine(torch.zeros(3, 2), torch.zeros(4))
