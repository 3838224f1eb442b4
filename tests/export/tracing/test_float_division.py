"""Remainders and floor division of floats are exact, or refused if the quotient may be rounded up."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.export.tracing.operations import Functions, assert_equal_to_torch
from tests.refusals import refuses

TIMES = torch.cat([torch.arange(-40.0, 40.0), torch.arange(-200.0, 200.0) / 100])[:, None]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("floor_divide", lambda x: x // 0.1),
        ("div", lambda x: torch.div(x, torch.full_like(x, 0.05), rounding_mode="floor")),
        ("remainder", lambda x: x % 0.1),
        ("remainder", lambda x: torch.remainder(x, x + 1)),
        ("remainder", lambda x: 7.0 % (x + 0.01)),
    ],
)
def test_a_quotient_that_may_be_rounded_up_is_refused(name: str, function: Callable[[Tensor], Tensor]) -> None:
    assert (torch.tensor(1.0) // 0.1).item() == 9.0
    with refuses(f"aten.{name} of floats in AllOf has no ONNX equivalent", "write a % b as rest = torch.fmod(a, b)"):
        assert_equal_to_torch({"y": function}, TIMES, 0.0)


@pytest.mark.slow
def test_the_rewriting_is_torchs() -> None:
    def divide(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        rest = torch.fmod(a, b)
        rest = torch.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)
        return rest, torch.round((a - rest) / b)

    step = torch.tensor(-0.3)
    rest, quotient = divide(TIMES, step)
    assert torch.equal(rest, TIMES % step) and torch.equal(quotient, TIMES // step)
    rewritten: Functions = {"rest": lambda x: divide(x, step)[0], "quotient": lambda x: divide(x, step)[1]}
    assert_equal_to_torch(rewritten, TIMES, 1e-6)


@pytest.mark.slow
def test_integers_are_divided() -> None:
    assert_equal_to_torch({"floor": lambda x: x.int() // 3, "rest": lambda x: x.int() % 3}, TIMES, 0.0)


@pytest.mark.slow
def test_a_power_of_two_needs_no_remainder() -> None:
    halves: Functions = {"floor": lambda x: x // 0.5, "rest": lambda x: x % 2.0}
    graph = assert_equal_to_torch(halves, TIMES, 0.0)
    assert "Mod" not in {node.op for node in graph.nodes}
