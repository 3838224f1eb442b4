"""Operations whose form in torch.onnx differs from torch."""

import torch
from torch import Tensor

from tests.export.tracing.operations import Functions, assert_equal_to_torch


def test_indices_may_be_int32() -> None:
    places = torch.tensor([2, 0], dtype=torch.int32)

    def put(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, places] = x[:, 1:] * 2
        return x

    indexed: Functions = {
        "constants": lambda x: x[:, places],
        "computed": lambda x: x[torch.arange(x.shape[0]), (x[:, 0] > 0).int()],
        "of_themselves": lambda x: x + (lambda each: each[each])((x[0] > 0).int()),
        "put": put,
        "add": lambda x: x.index_add(1, places, x[:, 1:], alpha=2),
    }
    x = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    assert indexed["constants"](x)[0].tolist() == [3.0, 1.0]
    assert_equal_to_torch(indexed, x, 0.0)


def test_the_number_of_repetitions_may_be_a_free_size() -> None:
    repeats: Functions = {
        "first_axis": lambda x: x.repeat_interleave(x.shape[0], dim=0),
        "last_axis": lambda x: x.repeat_interleave(x.shape[0], dim=-1),
        "flat": lambda x: x.repeat_interleave(x.shape[0]),
        "fixed": lambda x: x.repeat_interleave(2, dim=1),
    }
    assert_equal_to_torch(repeats, torch.arange(12.0).reshape(4, 3), 0.0)
