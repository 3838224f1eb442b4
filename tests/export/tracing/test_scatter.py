"""Reductions of scattered elements are equal to torch's, even where no elements or several are scattered."""

from functools import partial

import pytest
import torch
from torch import Tensor

from fewstep.graph.half_types import BFLOAT16
from tests.export.tracing.operations import Functions, assert_equal_in_16_bits, assert_equal_to_torch

pytestmark = pytest.mark.slow

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 3, 8, 6, generator=GENERATOR)
PLACES = torch.randint(0, 8, (1, 3, 5, 6), generator=GENERATOR)
ROWS = torch.tensor([0, 7, 0])


def scatter(x: Tensor, reduce: str, include_self: bool) -> Tensor:
    places = PLACES.expand(x.shape[0], -1, -1, -1)
    return x.scatter_reduce(2, places, x.flip(2)[:, :, :5], reduce, include_self=include_self)


def by_rows(x: Tensor, reduce: str, include_self: bool) -> Tensor:
    return x.index_reduce(2, ROWS, x[:, :, 2:5], reduce, include_self=include_self)


FUNCTIONS: Functions = {
    f"{function.__name__}_{reduce}_{include_self}": partial(function, reduce=reduce, include_self=include_self)
    for function in (scatter, by_rows)
    for reduce in ("mean", "amax", "amin", "prod")
    for include_self in (True, False)
}


@pytest.mark.slow
def test_they_are_equal_to_torch() -> None:
    assert_equal_to_torch(FUNCTIONS, X, 1e-6)


def test_they_are_equal_to_torch_in_16_bits() -> None:
    assert_equal_in_16_bits(FUNCTIONS, X, 3e-2, BFLOAT16)  # onnxruntime's CPU has no such kernels of float16


def test_a_mean_is_that_of_its_elements() -> None:
    x = torch.tensor([[1.0, 2.0, 30.0]])
    mean = x.scatter_reduce(1, torch.tensor([[0, 0, 1]]), x, "mean")
    assert mean.tolist() == [[pytest.approx(4 / 3), 16.0, 30.0]]
    places = torch.tensor([[0, 0, 1]])
    means: Functions = {"y": lambda x: x.scatter_reduce(1, places.expand(x.shape[0], -1), x, "mean")}
    assert_equal_to_torch(means, x.expand(3, -1), 1e-6)


@pytest.mark.slow
def test_means_of_integers_are_rounded_down() -> None:
    x = torch.tensor([[-1.0, -2.0, 4.0, 5.0], [2.0, 1.0, -3.0, 0.0]])
    places = torch.tensor([[0, 0, 2]])

    def scatter_integers(x: Tensor, include_self: bool) -> Tensor:
        index = places.expand(x.shape[0], -1)
        return x.int().scatter_reduce(1, index, x[:, :3].int() * 3, "mean", include_self=include_self)

    def reduce_rows(x: Tensor, reduce: str, include_self: bool) -> Tensor:
        return x.int().index_reduce(1, places[0], x[:, :3].int() * 3, reduce, include_self=include_self)

    means: Functions = {
        "scattered": partial(scatter_integers, include_self=True),
        "scattered_alone": partial(scatter_integers, include_self=False),
        "by_rows": partial(reduce_rows, reduce="mean", include_self=True),
        "by_rows_alone": partial(reduce_rows, reduce="mean", include_self=False),
        "largest": partial(reduce_rows, reduce="amax", include_self=True),
        "largest_alone": partial(reduce_rows, reduce="amax", include_self=False),
    }
    assert means["scattered"](x)[0, 0].item() == -4  # of -1, -3 and -6
    assert means["scattered_alone"](x)[0, 0].item() == -5  # of -3 and -6
    assert_equal_to_torch(means, torch.cat([x, -x]), 0.0)


def test_scatter_with_a_reduction_is_equal_to_torch() -> None:
    x = torch.tensor([[2.0, 3.0, 5.0], [1.0, 1.0, 2.0], [0.0, 1.0, 2.0]])

    def places(x: Tensor) -> Tensor:
        return torch.tensor([[0, 0, 1]]).expand(x.shape[0], -1)

    reduced: Functions = {
        "product": lambda x: torch.ones_like(x).scatter(1, places(x), x, reduce="multiply"),
        "sum_in_place": lambda x: torch.ones_like(x).scatter_(1, places(x), x, reduce="add"),
        "one_number": lambda x: x.scatter(1, places(x), 10.0, reduce="multiply"),
    }
    assert reduced["product"](x)[0].tolist() == [6.0, 5.0, 1.0]
    assert_equal_to_torch(reduced, x, 0.0)


def test_a_part_of_a_larger_tensor_is_scattered() -> None:
    def places(x: Tensor) -> Tensor:
        return torch.tensor([[2, 0]]).expand(x.shape[0], -1)

    parts: Functions = {
        "replaced": lambda x: torch.zeros_like(x).scatter(1, places(x), x),
        "added": lambda x: torch.ones_like(x).scatter_add(1, places(x), x),
        "multiplied": lambda x: torch.ones_like(x).scatter(1, places(x), x, reduce="multiply"),
        "largest": lambda x: torch.ones_like(x).scatter_reduce(1, places(x), x, "amax", include_self=False),
        "mean": lambda x: torch.ones_like(x).scatter_reduce(1, places(x), x, "mean"),
    }
    x = torch.tensor([[2.0, 3.0, 5.0], [1.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert parts["replaced"](x)[0].tolist() == [3.0, 0.0, 2.0]
    assert_equal_to_torch(parts, x, 0.0)
