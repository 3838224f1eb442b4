"""Shapes of fused operations."""

import json

from benchmarks.nvidia.cudnn.operation_graphs import operand_shape, strides_of
from benchmarks.nvidia.cudnn.operations import Operation, decode

STRIDED = Operation((2, 6, 9, 8), (4, 3, 3, 2), "int8", ("scale", "residual"), (2, 1), (1, 0, 1, 1), (1, 2))
PRODUCT = Operation((1, 98, 128), (1, 128, 384), "int8", ("scale", "factor", "bias"))


def test_a_convolution_has_the_shape_of_its_windows() -> None:
    assert STRIDED.y == (2, 4, 5, 7)  # (9 + 2 - 3) // 2 + 1, and 8 + 1 - 2 for a window of 1 and its dilation


def test_multiplications_are_those_of_a_group_of_channels() -> None:
    assert STRIDED.macs == 2 * 4 * 5 * 7 * 3 * 3 * 2


def test_multiplications_of_a_product() -> None:
    assert PRODUCT.macs == 98 * 128 * 384


def test_a_name_says_what_decides_the_plans() -> None:
    assert STRIDED.name == "6->4 3x2 at 9x8, stride 2x1, dilation 1x2, pads 1x0x1x1, groups 2, batch 2"
    assert PRODUCT.name == "128->384, 98 rows"


def test_the_type_of_a_result_follows_from_the_epilogue() -> None:
    results = [
        Operation(PRODUCT.x, PRODUCT.weights, "int8", steps).result for steps in ((), ("scale",), ("inverse_step",))
    ]
    assert results == ["int32", "half", "int8"]


def test_operations_pass_through_json() -> None:
    assert decode(json.loads(json.dumps(STRIDED.encode()))) == STRIDED


def test_operands_are_one_number_a_channel_or_the_whole_result() -> None:
    assert operand_shape(STRIDED, "scale") == (1, 4, 1, 1)
    assert operand_shape(STRIDED, "residual") == STRIDED.y
    assert operand_shape(PRODUCT, "bias") == (1, 1, 384)
    assert operand_shape(PRODUCT, "factor") == (1, 1, 1)


def test_channels_lie_next_to_each_other() -> None:
    assert strides_of((2, 6, 9, 8)) == [432, 1, 48, 6]


def test_weights_of_a_product_lie_column_by_column() -> None:
    assert strides_of((1, 128, 384), is_column_major=True) == [49152, 1, 128]
