"""Reductions of scattered elements are equal to torch's, or refused."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.export.tracing.operations import Functions, assert_equal_to_torch
from tests.refusals import refuses

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 3, 8, 6, generator=GENERATOR)
PLACES = torch.randint(0, 8, (1, 3, 5, 6), generator=GENERATOR)


def scatter(x: Tensor, reduce: str, include_self: bool) -> Tensor:
    places = PLACES.expand(x.shape[0], -1, -1, -1)
    return x.scatter_reduce(2, places, x.flip(2)[:, :, :5], reduce, include_self=include_self)


FUNCTIONS: Functions = {
    f"{reduce}_{include_self}": partial(scatter, reduce=reduce, include_self=include_self)
    for reduce in ("sum", "amax", "amin", "prod")
    for include_self in (True, False)
}


@pytest.mark.slow
def test_they_are_equal_to_torch() -> None:
    assert_equal_to_torch(FUNCTIONS, X, 1e-6)


@pytest.mark.parametrize(
    ("detail", "fix", "function"),
    [
        (" of means", "divide the sum", lambda x: scatter(x, "mean", True)),
        (" of means", "divide the sum", lambda x: scatter(x, "mean", False)),
        (
            " with a source larger than its indices",
            "scatter a part of it",
            lambda x: x.scatter_reduce(2, PLACES.expand(x.shape[0], -1, -1, -1), x, "amax"),
        ),
    ],
)
def test_it_is_refused_with_its_rewriting(detail: str, fix: str, function: Callable[[Tensor], Tensor]) -> None:
    with refuses(f"aten.scatter_reduce{detail} in AllOf has no ONNX equivalent", fix):
        assert_equal_to_torch({"y": function}, X, 0.0)


def test_a_part_of_a_larger_source_is_refused() -> None:
    places = PLACES[:, :, :2]
    with refuses("aten.scatter_add with a source larger than its indices in AllOf has no ONNX equivalent"):
        assert_equal_to_torch({"y": lambda x: x.scatter_add(2, places.expand(x.shape[0], -1, -1, -1), x)}, X, 0.0)


def test_the_rewriting_of_a_mean_is_torchs() -> None:
    x, places = torch.tensor([[1.0, 2.0, 30.0]]), torch.tensor([[0, 0, 1]])
    counts = torch.ones_like(x).scatter_add(1, places, torch.ones_like(x))
    mean = x.scatter_reduce(1, places, x, "mean")
    assert mean.tolist() == [[pytest.approx(4 / 3), 16.0, 30.0]]
    torch.testing.assert_close(x.scatter_add(1, places, x) / counts, mean)
