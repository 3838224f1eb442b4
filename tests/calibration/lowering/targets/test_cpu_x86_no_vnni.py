"""The variants of cpu-x86 and openvino for CPUs that add pairs of products in 16 bits."""

import numpy as np
import pytest

from fewstep.calibration.lowering.coverage import integer_kernels
from fewstep.calibration.lowering.encoding import integer_name
from fewstep.calibration.lowering.quantize import lower, lower_graph
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.cpu_x86_no_vnni import CPU_X86_NO_VNNI
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.calibration.lowering.targets.openvino_no_vnni import OPENVINO_NO_VNNI
from fewstep.graph.weight_pairs import LARGEST_SUM
from tests.calibration.lowering.bodies.small_body import EDGES, SELECTED, body, table
from tests.exact_int8 import largest_pair_sum


def largest_sums(target: Target, spatial: int) -> dict[str, int]:
    """Return the largest sum of a pair of each int8 weight."""
    prepared = body(spatial)
    graph, ops, _ = lower_graph(prepared, table(prepared, EDGES), target)
    return {op.name: largest_pair_sum(graph.constants[integer_name(op.code)], op.axis) for op in ops}


@pytest.mark.parametrize("spatial", [1, 2])
@pytest.mark.parametrize(
    ("target", "wide"), [(CPU_X86_NO_VNNI, CPU_X86), (OPENVINO_NO_VNNI, OPENVINO)], ids=["onnxruntime", "OpenVINO"]
)
def test_no_pair_of_products_can_saturate_16_bits(target: Target, wide: Target, spatial: int) -> None:
    limited = largest_sums(target, spatial)
    assert set(limited) == set(SELECTED) and max(limited.values()) <= LARGEST_SUM
    assert all(largest > LARGEST_SUM for largest in largest_sums(wide, spatial).values())


def test_it_has_the_kernels_and_codes_of_cpu_x86_and_weights_beyond_half_of_the_range() -> None:
    prepared = body()
    limited, wide = (lower(prepared, table(prepared), target).graph for target in (CPU_X86_NO_VNNI, CPU_X86))
    assert integer_kernels(limited) == integer_kernels(wide)
    for name in ("scale(a1)", "zero_point(a1)"):
        np.testing.assert_array_equal(limited.constants[name], wide.constants[name])
    ratio = limited.constants["scale(h2.weight)"] / wide.constants["scale(h2.weight)"]
    assert ratio.mean() < 1.5  # 2 with 7 bits
    assert np.abs(limited.constants[integer_name("h2.weight")].astype(int)).max() > 120
