"""The difference of an argument that a plan passes to a network from the recorded one."""

from math import inf

import pytest
import torch

from fewstep.pipelines.network_outputs import _difference

MASK = torch.tensor([[0.0, -2.0, -inf]])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MASK.clone(), 0.0),
        (torch.tensor([[0.5, -2.0, -inf]]), 0.25),  # of 2, the largest finite number
        (torch.tensor([[0.0, -2.0, -1e4]]), inf),
        (torch.tensor([[-inf, -2.0, -inf]]), inf),
    ],
)
def test_equal_infinities_of_a_mask_do_not_differ(value: torch.Tensor, expected: float) -> None:
    assert _difference(value, MASK) == expected


def test_a_last_time_of_zero_is_compared_with_the_largest_time() -> None:
    assert _difference(torch.tensor([1e-7]), torch.zeros(1)) > 1e4
    assert _difference(torch.tensor([1e-7]), torch.zeros(1), 1.0) == pytest.approx(1e-7)
