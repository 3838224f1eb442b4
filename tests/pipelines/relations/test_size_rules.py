"""Constant arguments that follow the height and width of x."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.pipelines.relations.size_rules import GridOfSize, NumbersOfSize, find_size_rule, may_follow

SIZES = ((8, 8), (16, 8), (8, 16), (16, 16))
FACTORS = (8, 2, 1)


def values(of: Callable[[int, int], Any]) -> dict[tuple[int, int], Any]:
    return {(height, width): of(height, width) for height, width in SIZES}


def time_ids(height: int, width: int) -> Tensor:
    return torch.tensor([[8.0 * height, 8.0 * width, 0.0, 0.0, 8.0 * height, 8.0 * width]])


def positions(height: int, width: int) -> Tensor:
    """As FLUX numbers its tokens of 2 x 2 latents."""
    places = torch.zeros(height // 2, width // 2, 3)
    places[..., 1] += torch.arange(height // 2)[:, None]
    places[..., 2] += torch.arange(width // 2)[None, :]
    return places.reshape(-1, 3)


@pytest.mark.parametrize(
    "of",
    [
        time_ids,
        lambda height, width: torch.tensor([height / width]),
        lambda height, width: torch.tensor([height // 2, width // 2]),
        lambda height, width: height // 2,
        lambda height, width: torch.tensor([height / 16]),
        lambda height, width: height / width,
        lambda height, width: height * width // 4,
    ],
)
def test_numbers_follow_their_rule_at_an_unseen_size(of: Callable[[int, int], Any]) -> None:
    rule = find_size_rule(values(of), None)
    assert isinstance(rule, NumbersOfSize)
    expected, own = of(20, 40), rule.value(20, 40)
    if isinstance(expected, Tensor):
        assert torch.equal(own, expected) and own.dtype == expected.dtype
    else:
        assert own == expected and type(own) is type(expected)


@pytest.mark.parametrize("of", [positions, lambda *sizes: positions(*sizes)[None].long()])
def test_positions_of_tokens_follow_their_rule_at_an_unseen_size(of: Callable[[int, int], Tensor]) -> None:
    rule = find_size_rule(values(of), (2, 2))
    assert isinstance(rule, GridOfSize)
    own = rule.value(24, 40)
    assert torch.equal(own, of(24, 40)) and own.dtype == of(24, 40).dtype


@pytest.mark.parametrize(
    "of",
    [
        lambda height, width: torch.tensor([3.0]),
        lambda height, width: torch.tensor([8.0 * height + 1]),
        lambda height, width: torch.randn(height * width, 2),
        lambda height, width: float(height + 1),
    ],
)
def test_constants_and_other_functions_have_no_rule(of: Callable[[int, int], Any]) -> None:
    assert find_size_rule(values(of), (1, 1)) is None


@pytest.mark.parametrize(
    "value, block, may",
    [
        (time_ids(8, 8), None, True),
        (4, None, True),
        (5, None, False),
        (True, None, False),
        ("8", None, False),
        (torch.ones(1, 8, dtype=torch.bool), None, False),
        (torch.ones(16, 4, dtype=torch.complex64), (2, 2), False),
        (positions(8, 8), (2, 2), True),
        (torch.full((16, 3), 0.5), None, False),
    ],
)
def test_what_may_follow_a_size(value: Any, block: tuple[int, int] | None, may: bool) -> None:
    assert may_follow(value, (8, 8), FACTORS, block) is may
