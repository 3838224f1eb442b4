from typing import Any

import numpy as np
import pytest

from fewstep.graph.passes.transposed import write_transposed
from fewstep.graph.prepare import simplify
from tests.graph.small import assert_same, node, small, value

RNG = np.random.default_rng(0)


def transposed(kernel: tuple[int, ...], made: tuple[int, ...], **attributes: Any) -> Any:
    """x [B, 3, 5, ...] to y [B, 2, *made], with a bias."""
    return small(
        [value("x", "batch", 3, *[5] * len(kernel))],
        [value("y", "batch", 2, *made)],
        [node("ConvTranspose", "x w b", "y", kernel_shape=list(kernel), **attributes)],
        w=RNG.standard_normal((3, 2, *kernel)).astype(np.float32),
        b=RNG.standard_normal(2).astype(np.float32),
    )


@pytest.mark.parametrize(
    ("kernel", "made", "attributes", "ops"),
    [
        ((2, 2), (10, 10), {"strides": [2, 2]}, ("Conv", "DepthToSpace", "Add")),
        ((4, 4), (10, 10), {"strides": [2, 2], "pads": [1] * 4}, ("Conv", "DepthToSpace", "Slice", "Add")),
        ((3, 3), (10, 10), {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}, None),
        ((3, 5), (12, 13), {"strides": [2, 2], "pads": [0, 0, 1, 0], "output_padding": [2 - 1, 0]}, None),
        ((3, 3), (5, 5), {"pads": [1] * 4}, ("Conv", "Slice", "Add")),
        ((4,), (10,), {"strides": [2], "pads": [1, 1]}, ("Conv", "Reshape", "Transpose", "Reshape", "Slice", "Add")),
        ((3,), (15,), {"strides": [3]}, ("Conv", "Reshape", "Transpose", "Reshape", "Add")),
    ],
)
def test_a_transposed_convolution_becomes_one_whose_channels_are_phases(
    kernel: tuple[int, ...], made: tuple[int, ...], attributes: dict[str, Any], ops: tuple[str, ...] | None
) -> None:
    before = transposed(kernel, made, **attributes)
    after = write_transposed(before)
    assert ops is None or after.ops() == ops
    assert "ConvTranspose" not in after.ops()
    assert_same(before, after, rtol=1e-6)
    assert_same(before, simplify(before), rtol=1e-6)


@pytest.mark.parametrize("attributes", [{"dilations": [2, 2]}, {"auto_pad": b"SAME_UPPER"}, {"strides": [1, 2]}])
def test_other_forms_stay(attributes: dict[str, Any]) -> None:
    before = transposed((2, 2), (5, 5), **attributes)
    assert write_transposed(before).nodes == before.nodes
