"""Adaptive pooling to sizes that do not divide the input's is equal to torch's."""

from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from tests.export.tracing.operations import Functions, assert_equal_in_16_bits, assert_equal_to_torch

X = torch.randn(4, 3, 5, 4, generator=torch.Generator().manual_seed(0))
EDGES = X.round()  # windows with several maxima
EDGES[0, 0, 2], EDGES[1] = float("inf"), float("-inf")
SIZES: Mapping[str, tuple[int, int]] = {"smaller": (3, 3), "larger": (7, 5), "one_divides": (5, 3), "one": (1, 3)}
MAXIMA: Functions = {name: partial(F.adaptive_max_pool2d, output_size=size) for name, size in SIZES.items()} | {
    "line": lambda x: F.adaptive_max_pool1d(x.flatten(1, 2), 3),
    "volume": lambda x: F.adaptive_max_pool3d(x.unsqueeze(1), (2, 3, 3)),
}
PLACES: Functions = {
    "picture": lambda x: F.adaptive_max_pool2d(x, (3, 3), return_indices=True)[1],
    "line": lambda x: F.adaptive_max_pool1d(x.flatten(1, 2), 3, return_indices=True)[1],
    "volume": lambda x: F.adaptive_max_pool3d(x.unsqueeze(1), (2, 3, 3), return_indices=True)[1],
}
MEANS: Functions = {
    "picture": lambda x: F.adaptive_avg_pool2d(x, (3, 3)),
    "volume": lambda x: F.adaptive_avg_pool3d(x.unsqueeze(1), (2, 3, 3)),
    "larger": lambda x: F.adaptive_avg_pool3d(x.unsqueeze(1), (5, 7, 4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("x", [X, EDGES], ids=["random", "edges"])
@pytest.mark.parametrize("functions", [MAXIMA, PLACES], ids=["maxima", "places"])
def test_maxima_and_their_first_places_are_equal_to_torch(functions: Functions, x: torch.Tensor) -> None:
    assert_equal_to_torch(functions, x, 0.0)
    assert_equal_in_16_bits(functions, x, 0.0)


@pytest.mark.slow
def test_means_are_equal_to_torch() -> None:
    assert_equal_to_torch(MEANS, X, 1e-6)
    assert_equal_in_16_bits(MEANS, X, 2e-2)


def test_sums_of_windows_are_divided_by_the_number_that_is_given() -> None:
    pools: Functions = {
        "picture": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        "padded": lambda x: F.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False, divisor_override=5),
        "volume": lambda x: F.avg_pool3d(x.unsqueeze(1), 2, 1, divisor_override=1),
        "picture_of_a_sample": lambda x: F.avg_pool2d(x[:, 0], (2, 1), divisor_override=3),
        "volume_of_a_sample": lambda x: F.avg_pool3d(x, 2, divisor_override=3),
    }
    assert_equal_to_torch(pools, X, 1e-6)
