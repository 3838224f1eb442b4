"""The cpu-arm target: what cpu-x86 computes, with signed activations."""

import numpy as np
import pytest

from fewstep.calibration.lowering.encoding import asymmetric_int8, asymmetric_uint8
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.cpu_arm import CPU_ARM
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.graph.graph import GROUP
from tests.calibration.lowering.bodies.small_body import EDGES, FACTORS, body, feeds, table
from tests.exact_int8 import open_exact


@pytest.mark.parametrize("spatial", [1, 2])
@pytest.mark.parametrize("edges", [EDGES, ()])
def test_samples_are_bitwise_those_of_cpu_x86(spatial: int, edges: tuple[float, ...]) -> None:
    """Codes differ by 128 everywhere, and sums are exact in 32 bits, so nothing else can differ."""
    prepared = body(spatial)
    arm, x86 = (
        open_exact(lower(prepared, table(prepared, edges), target).graph, optimize=True)
        for target in (CPU_ARM, CPU_X86)
    )
    for group in range(len(FACTORS) if edges else 1):
        given = feeds(prepared) | ({GROUP: np.array([group])} if edges else {})
        np.testing.assert_array_equal(arm(given)["output"], x86(given)["output"])


def test_activations_and_their_zero_points_are_signed_and_constant() -> None:
    prepared = body()
    graph = lower(prepared, table(prepared, EDGES), CPU_ARM).graph
    convolutions = [node for node in graph.nodes if node.op == "QLinearConv"]
    assert len(convolutions) == 3
    for node in convolutions:
        for zero_point in (node.inputs[2], node.inputs[5], node.inputs[7]):
            assert graph.constants[zero_point].dtype == np.int8
        assert not graph.constants[node.inputs[5]].any()  # weights are symmetric: the fast kernels ask for it


def test_the_code_is_the_unsigned_one_shifted() -> None:
    ranges = table(body(), EDGES)["tokens"]
    signed, unsigned = asymmetric_int8(ranges, True), asymmetric_uint8(ranges, True)
    np.testing.assert_array_equal(signed.scales, unsigned.scales)
    assert int(signed.zero_point) == int(unsigned.zero_point) - 128 and signed.zero_point.dtype == np.int8
