"""Remainders and floor division of floats equal torch's, even if the quotient is almost a whole number."""

import pytest
import torch

from tests.export.tracing.operations import Functions, assert_equal_in_16_bits, assert_equal_to_torch

pytestmark = pytest.mark.slow

TIMES = torch.cat([torch.arange(-40.0, 40.0), torch.arange(-200.0, 200.0) / 100])[:, None]
DIVISIONS: Functions = {
    "floor_of_a_number": lambda x: x // 0.1,
    "floor_of_a_tensor": lambda x: torch.div(x, torch.full_like(x, 0.05), rounding_mode="floor"),
    "floor_below_zero": lambda x: torch.floor_divide(x, -0.3),
    "floor_of_integers": lambda x: x.round().int() // 0.1,
    "rest_of_a_number": lambda x: x % 0.1,
    "rest_of_a_tensor": lambda x: torch.remainder(x, torch.full_like(x, -0.3)),
    "number_by_a_tensor": lambda x: 7.0 % (x + 0.01),
}


def test_quotients_that_are_almost_whole_are_rounded_down() -> None:
    assert (torch.tensor(1.0) // 0.1).item() == 9.0
    assert_equal_to_torch(DIVISIONS, TIMES, 1e-6)


def test_a_divisor_of_zero_gives_infinities_and_nan() -> None:
    zeros: Functions = {"floor": lambda x: x // 0.0, "rest": lambda x: x % (x - x)}
    assert_equal_to_torch(zeros, torch.tensor([[1.0], [-2.0], [0.0], [0.3]]), 0.0)


def test_a_power_of_two_needs_no_remainder() -> None:
    halves: Functions = {"floor": lambda x: x // 0.5, "rest": lambda x: x % 2.0}
    graph = assert_equal_to_torch(halves, TIMES, 0.0)
    assert "Mod" not in {node.op for node in graph.nodes}


def test_they_are_torchs_in_16_bits() -> None:
    exact: Functions = {"floor": lambda x: x // 3, "rest": lambda x: x % 3}
    assert_equal_in_16_bits(exact, torch.arange(-40.0, 40.0)[:, None], 0.0)
