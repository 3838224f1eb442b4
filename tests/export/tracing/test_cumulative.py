"""Cumulative maxima, minima and products are equal to torch's."""

import pytest
import torch

from fewstep.export.tracing.cumulative import LONGEST_PRODUCT
from fewstep.plans.errors import UserError
from tests.export.tracing.operations import Functions, assert_equal_in_16_bits, assert_equal_to_torch
from tests.refusals import refuses

INF, NAN = float("inf"), float("nan")
X = torch.randn(4, 3, 6, 3, generator=torch.Generator().manual_seed(0))
EDGES = X.round()  # many equal elements
EDGES[0, 0, 3], EDGES[1, 1, 5], EDGES[2, :, 2], EDGES[3, 0, :, 1] = NAN, INF, -INF, NAN
EXTREMES: Functions = {
    "max": lambda x: x.cummax(2)[0],
    "its_index": lambda x: x.cummax(2)[1],
    "min": lambda x: x.cummin(-1)[0],
    "index_of_min": lambda x: x.cummin(1)[1],
    "of_one": lambda x: x[:, :, :1].cummax(2)[0],
    "of_integers": lambda x: x.nan_to_num(0, 9, -9).int().cummin(2)[0].float(),
}
PRODUCTS: Functions = {
    "product": lambda x: x.cumprod(2),
    "of_one": lambda x: x[..., :1].cumprod(-1),
    "of_integers": lambda x: x.int().cumprod(2).float(),
}


@pytest.mark.slow
@pytest.mark.parametrize("x", [X, EDGES], ids=["random", "edges"])
def test_extremes_and_their_places_are_equal_to_torch(x: torch.Tensor) -> None:
    assert_equal_to_torch(EXTREMES, x, 0.0)
    assert_equal_in_16_bits(EXTREMES, x, 0.0)


@pytest.mark.slow
def test_products_are_equal_to_torch() -> None:
    assert_equal_to_torch(PRODUCTS, X, 1e-6)
    assert_equal_in_16_bits({"product": PRODUCTS["product"]}, X, 2e-2)


def test_a_product_of_later_elements_may_overflow() -> None:
    x = torch.tensor([[1e-30, 1e-5, 1e30, 1e25]] * 3)
    assert_equal_to_torch({"product": lambda x: x.cumprod(1)}, x, 1e-6)


def test_a_product_of_very_many_elements_is_refused_by_name() -> None:
    x = torch.ones(3, LONGEST_PRODUCT + 1)
    with refuses(("aten.cumprod in AllOf", "no ONNX equivalent")):
        assert_equal_to_torch({"product": lambda x: x.cumprod(1)}, x, 1e-6)


def test_running_sums_of_exponentials_are_torchs_for_large_numbers() -> None:
    x = torch.tensor(
        [[-104.0, -100.0, 2.0, 3.0, -1e4], [1e4, 0.0, 89.0, 1e4, 5.0], [float("-inf"), -1.0, 0.0, 1.0, 2.0]]
    )
    assert torch.logcumsumexp(x, 1)[0, 0].item() == -104.0
    sums: Functions = {"y": lambda x: torch.logcumsumexp(x, 1)}
    for rows in (x[:1].expand(3, 5), x):
        assert_equal_to_torch(sums, rows, 1e-6)


def test_a_running_sum_along_a_free_axis_is_refused() -> None:
    said = r"aten.logcumsumexp along an axis of free size in AllOf has no ONNX equivalent"
    with pytest.raises(UserError, match=said):
        assert_equal_to_torch({"y": lambda x: x.logcumsumexp(0)}, torch.zeros(4, 2), 0.0)
