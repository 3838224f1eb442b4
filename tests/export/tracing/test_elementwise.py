"""Elementwise operations are equal to torch's, for NaN, infinities and zeros of both signs too."""

import pytest
import torch
from torch import Tensor, nn

from tests.export.tracing.operations import Functions, assert_equal_in_16_bits, assert_equal_to_torch

pytestmark = pytest.mark.slow

EDGES = [0.0, -0.0, 1.5, -2.25, float("inf"), float("-inf"), float("nan")]
PAIRS = torch.tensor([[a, b] for a in EDGES for b in EDGES])


def test_angles_are_equal_to_torch_on_the_axes_too() -> None:
    angles: Functions = {"y": lambda x: torch.atan2(x[:, 0], x[:, 1])}
    assert angles["y"](torch.tensor([[0.0, -1.0], [-0.0, -1.0]])).tolist() == pytest.approx([3.1415927, -3.1415927])
    assert_equal_to_torch(angles, PAIRS, 1e-6)
    assert_equal_to_torch(angles, torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), 1e-6)


def test_angles_of_integers_are_equal_to_torch() -> None:
    x = torch.tensor([[0.0, -1.0], [0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, -1.0]])
    angles: Functions = {
        "integers": lambda x: torch.atan2(x[:, 0].int(), x[:, 1].int()),
        "mixed": lambda x: torch.atan2(x[:, 0].int(), x[:, 1]),
    }
    assert angles["integers"](x)[0].item() == pytest.approx(3.1415927)
    assert_equal_to_torch(angles, x, 1e-6)


def test_log1p_and_expm1_keep_the_digits_of_small_numbers() -> None:
    small = torch.logspace(-12, -0.31, 60)
    each: Functions = {"log1p": lambda x: torch.log1p(x) / x, "expm1": lambda x: torch.expm1(x) / x}
    assert each["log1p"](torch.tensor(1e-8)).item() == pytest.approx(1.0, rel=1e-6)
    assert_equal_to_torch(each, torch.cat([small, -small])[:, None], 1e-6)
    ends = torch.tensor([[-0.249], [-0.2], [0.249]])  # of the series
    assert_equal_to_torch({"log1p": each["log1p"]}, ends, 4e-7)


def test_log1p_and_expm1_of_large_numbers_are_torchs() -> None:
    x = torch.tensor([[0.25], [0.5], [3.0], [40.0], [100.0], [1e30], [float("inf")], [float("nan")], [-0.999], [-40.0]])
    functions: Functions = {"expm1": torch.expm1, "log1p": torch.log1p}
    for numbers in (x[:4], x[4:], torch.tensor([[-1.0], [-2.0], [float("-inf")]])):
        assert_equal_to_torch(functions, numbers, 1e-6)


def test_a_clamp_with_one_limit_keeps_the_other_infinity() -> None:
    clamps: Functions = {
        "max": lambda x: x.clamp(max=0.5),
        "clamp_max": lambda x: x.clamp_max(-2),
        "clip": lambda x: torch.clip(x, max=1.0),
        "min": lambda x: x.clamp(min=0.5),
        "clamp_min": lambda x: x.clamp_min(-2),
        "normalize": lambda x: nn.functional.normalize(x, dim=1),
    }
    assert clamps["min"](torch.tensor(float("inf"))).isinf() and clamps["max"](torch.tensor(float("-inf"))).isinf()
    assert_equal_to_torch(clamps, PAIRS, 1e-6)
    del clamps["normalize"]
    assert_equal_in_16_bits(clamps, PAIRS, 0.0)


def test_booleans_are_selected() -> None:
    selected: Functions = {
        "where": lambda x: torch.where(x > 0, x > 1, x < -2).float(),
        "numbers": lambda x: torch.where(x > 0, True, False).float(),
        "number": lambda x: torch.where(x > 1, False, x > 0).float(),
        "other_number": lambda x: torch.where(x > 1, x < 1, True).float(),
        "filled": lambda x: (x > 0).masked_fill(x > 1, False).float(),
        "filled_with_true": lambda x: (x > 0).masked_fill(x < -2, True).float(),
        "sort": lambda x: torch.sort(x > 0, 1)[0].float(),
    }
    x = torch.tensor([[2.0, -3.0], [0.5, 0.5], [-3.0, 2.0], [-1.0, -1.0]])
    assert selected["where"](x).tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert_equal_to_torch(selected, x, 0.0)


def test_a_sum_of_booleans_is_true_if_one_is() -> None:
    def add_in_place(x: Tensor) -> Tensor:
        either = x > 1
        either += x < -1
        return x * either

    sums: Functions = {
        "sum": lambda x: x * ((x > 1) + (x < -1)),
        "number": lambda x: x * ((x > 1) + True),
        "with_integers": lambda x: (x > 1) + (x < 2).int(),
    }
    x = torch.tensor([[-2.0, 0.0, 0.5, 1.5]]).expand(3, -1)
    assert sums["sum"](x)[0].tolist() == [-2.0, 0.0, 0.0, 1.5]
    assert_equal_to_torch(sums, x, 0.0)
    in_place: Functions = {"in_place": add_in_place}  # alone: of one operation, all are decomposed
    assert_equal_to_torch(in_place, x, 0.0)
