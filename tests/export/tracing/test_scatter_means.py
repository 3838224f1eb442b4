"""Reductions of scattered elements are equal to torch's, also where no element, or many, are scattered to a place."""

import pytest
import torch
from torch import Tensor

from fewstep.graph.half_types import BFLOAT16
from tests.export.tracing.operations import Functions, assert_equal_in_16_bits, assert_equal_to_torch

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 3, 8, 6, generator=GENERATOR)
PLACES = torch.randint(0, 8, (1, 3, 5, 6), generator=GENERATOR)
ROWS = torch.tensor([0, 7, 0])


def scatter(x: Tensor, reduce: str, include_self: bool) -> Tensor:
    places = PLACES.expand(x.shape[0], -1, -1, -1)
    return x.scatter_reduce(2, places, x.flip(2)[:, :, :5], reduce, include_self=include_self)


def by_rows(x: Tensor, reduce: str, include_self: bool) -> Tensor:
    return x.index_reduce(2, ROWS, x[:, :, 2:5], reduce, include_self=include_self)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("reduce", ["mean", "amax", "amin", "prod"])
def test_they_are_equal_to_torch(reduce: str, include_self: bool) -> None:
    functions: Functions = {
        "scattered": lambda x: scatter(x, reduce, include_self),
        "by_rows": lambda x: by_rows(x, reduce, include_self),
    }
    assert_equal_to_torch(functions, X, 1e-6)
    assert_equal_in_16_bits(functions, X, 3e-2, BFLOAT16)  # onnxruntime's CPU has no such kernels of float16


def test_a_mean_is_that_of_its_elements() -> None:
    x = torch.tensor([[1.0, 2.0, 30.0]])
    mean = x.scatter_reduce(1, torch.tensor([[0, 0, 1]]), x, "mean")
    assert mean.tolist() == [[pytest.approx(4 / 3), 16.0, 30.0]]
    places = torch.tensor([[0, 0, 1]])
    means: Functions = {"y": lambda x: x.scatter_reduce(1, places.expand(x.shape[0], -1), x, "mean")}
    assert_equal_to_torch(means, x.expand(3, -1), 1e-6)


@pytest.mark.parametrize("include_self", [True, False])
def test_means_of_integers_are_rounded_down(include_self: bool) -> None:
    x = torch.tensor([[-1.0, -2.0, 4.0, 5.0], [2.0, 1.0, -3.0, 0.0]])
    places = torch.tensor([[0, 0, 2]])
    means: Functions = {
        "scattered": lambda x: x.int().scatter_reduce(
            1, places.expand(x.shape[0], -1), x[:, :3].int() * 3, "mean", include_self=include_self
        ),
        "by_rows": lambda x: x.int().index_reduce(1, places[0], x[:, :3].int() * 3, "mean", include_self=include_self),
        "largest": lambda x: x.int().index_reduce(1, places[0], x[:, :3].int() * 3, "amax", include_self=include_self),
    }
    assert means["scattered"](x)[0, 0].item() == (-4 if include_self else -5)  # of -1, -3 and -6, or the last two
    assert_equal_to_torch(means, torch.cat([x, -x]), 0.0)
