"""Small terms stay in the graph: they keep a quotient of two zeros from being NaN."""

import pytest
import torch

from tests.export.tracing.operations import Functions, assert_equal_to_torch

pytestmark = pytest.mark.slow

X = torch.tensor([[0.0, -0.0, 1e-9, -3e-9, 2e-8, 1e-5, 1.0]] * 3)


@pytest.mark.parametrize("small", [1e-8, 1e-9, 1e-12])
def test_a_small_term_is_added(small: float) -> None:
    functions: Functions = {
        "quotient": lambda x: x / (x.abs() + small),
        "root": lambda x: torch.rsqrt(x * x + small),
        "term": lambda x: (x + small) / small,
        "first": lambda x: (small + x) / small,
        "difference": lambda x: (x - small) / small,
        "tensor": lambda x: (x + torch.tensor(small)) / small,
        "close": lambda x: torch.isclose(x, torch.zeros(()), atol=small).float(),
    }
    for place in range(X.shape[1]):  # relative to each number
        assert_equal_to_torch(functions, X[:, place : place + 1], 1e-5)


def test_a_factor_close_to_one_is_applied() -> None:
    functions: Functions = {"product": lambda x: x * 1.000009, "quotient": lambda x: x / 1.000009}
    assert_equal_to_torch(functions, torch.ones(3, 2), 1e-7)


def test_a_term_of_zero_and_a_factor_of_one_are_removed() -> None:
    graph = assert_equal_to_torch({"y": lambda x: (x + 0.0) * 1.0 - 0.0}, X, 0.0)
    assert {"Add", "Sub", "Mul"}.isdisjoint(graph.ops())


def test_a_number_among_doubles_is_not_rounded() -> None:
    """Such as pi in rotary positions, whose angles are large."""
    places = torch.linspace(0, 1, 16, dtype=torch.float64)
    functions: Functions = {"angle": lambda x: x + (10000.0**places * torch.pi / 2).float().sum()}
    assert_equal_to_torch(functions, torch.zeros(3, 1), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evenly_spaced_numbers_are_those_of_torch(dtype: torch.dtype) -> None:
    functions: Functions = {
        str(steps): lambda x, steps=steps: x + 10000 * torch.linspace(0, 1, steps, dtype=dtype).float()  # type: ignore[misc]
        for steps in (1, 2, 16, 33, 64)
    }
    assert_equal_to_torch(functions, torch.zeros(3, 1), 0.0)
