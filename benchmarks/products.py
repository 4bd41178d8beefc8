"""The frozen matrix products of one epoch alone: what no way of training can do without."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from common import Measured, peak_mib
from ours import Setup, load
from torch import Tensor, nn
from torch.nn.functional import linear

from autopeft.training.cohort import Cohort


@dataclass(frozen=True)
class Product:
    """How a frozen Linear is used by a cohort.

    Attributes:
        weight: [out, in].
        bias: [out].
        blocks: batches' worth of rows: trials, or 1 where trials share.
        every_token: it sees all tokens of a row, not the first one alone.
        backward: a gradient goes through it.
    """

    weight: Tensor
    bias: Tensor | None
    blocks: int
    every_token: bool
    backward: bool

    def rows(self, n_rows: int, n_tokens: int) -> int:
        """Rows of the product for a batch of so many rows of the data."""
        return self.blocks * n_rows * (n_tokens if self.every_token else 1)


def measure(args: argparse.Namespace, method_name: str, n_trials: int) -> Measured:
    """Time the products of one epoch at the shapes and in the precision of a cohort.

    Forward, and backward to the input where a gradient goes on; frozen weights need none.
    """
    setup = load(args, method_name)
    lengths = setup.train.lengths
    shapes = [(len(b), max(lengths[i] for i in b)) for b in setup.order()]
    products = seen(setup, n_trials)
    with torch.inference_mode():
        jobs = list(_jobs(products, shapes))
        start = time.perf_counter()
        for x, product, gradient in jobs:
            linear(x, product.weight, product.bias)
            if gradient is not None:
                gradient @ product.weight
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    flops = sum(
        2 * len(x) * product.weight.numel() * (1 if gradient is None else 2)
        for x, product, gradient in jobs
    )
    return {
        "seconds": seconds / n_trials,
        "cohort_seconds": seconds,
        "gflop": flops / n_trials / 1e9,
        "peak_mib": peak_mib(),
        "steps": len(shapes),
    }


def _jobs(
    products: list[Product], shapes: list[tuple[int, int]]
) -> Iterator[tuple[Tensor, Product, Tensor | None]]:
    """All products, their operands cut from one buffer for each width."""
    longest = max(product.rows(*shape) for product in products for shape in shapes)
    like = products[0].weight
    widths = {width for product in products for width in product.weight.shape}
    buffers = {
        width: torch.randn(longest, width, dtype=like.dtype, device=like.device) for width in widths
    }
    for shape in shapes:
        for product in products:
            rows = product.rows(*shape)
            d_out, d_in = product.weight.shape
            gradient = buffers[d_out][:rows] if product.backward else None
            yield buffers[d_in][:rows], product, gradient


def seen(setup: Setup, n_trials: int) -> list[Product]:
    """How a cohort uses each frozen Linear, found by looking on at one batch."""
    found: list[Product] = []
    indices = setup.order()[0][:2]
    genotypes, seeds = [setup.genotype] * n_trials, setup.seeds(n_trials)
    with Cohort(setup.backbone, genotypes, seeds, setup.task, setup.settings) as cohort:
        linears = [m for m in setup.backbone.model.modules() if isinstance(m, nn.Linear)]
        handles = [
            module.register_forward_pre_hook(partial(_note, found, len(indices)))
            for module in linears
        ]
        cohort.logits(setup.train, indices)
        for handle in handles:
            handle.remove()
    return found


def _note(found: list[Product], n_rows: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    assert isinstance(module, nn.Linear)
    x = args[0]
    every_token = x.ndim > 2 and x.shape[1] > 1  # noqa: PLR2004
    blocks = x.shape[0] // n_rows
    bias = None if module.bias is None else module.bias.detach()
    found.append(Product(module.weight.detach(), bias, blocks, every_token, x.requires_grad))
