"""cdist is equal to torch's."""

from functools import partial

import pytest
import torch
from torch import Tensor

from tests.export.tracing.operations import assert_equal_to_torch
from tests.refusals import refuses

pytestmark = pytest.mark.slow


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_distances_between_rows_are_equal_to_torch() -> None:
    assert_equal_to_torch({"y": partial(torch.cdist, x2=normal(7, 6))}, normal(4, 3, 8, 6), 1e-6)


def test_another_norm_is_refused() -> None:
    points = normal(7, 6)
    with refuses("aten.cdist with p other than 2 in AllOf has no ONNX equivalent", "write the norm of"):
        assert_equal_to_torch({"y": partial(torch.cdist, x2=points, p=1.0)}, normal(4, 8, 6), 0.0)


def test_many_rows_are_compared_by_a_matrix_product_as_torch_does() -> None:
    points = normal(30, 6, seed=1)  # apart from x: of equal rows, a matrix product gives torch's rounding errors
    modes = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
    distances = {mode: partial(torch.cdist, x2=points, compute_mode=mode) for mode in modes}
    graph = assert_equal_to_torch(distances, normal(4, 8, 6), 1e-5)
    assert graph.ops().count("MatMul") == 1  # the two that use it are one
