"""The variant of cpu-x86 for CPUs that add pairs of products in 16 bits."""

import numpy as np
import pytest

from fewstep.calibration.lowering.coverage import integer_kernels
from fewstep.calibration.lowering.encoding import integer_name
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.cpu_x86_7bit import CPU_X86_7BIT
from tests.calibration.lowering.bodies.small_body import EDGES, SELECTED, body, table

GREATEST_ACTIVATION = np.iinfo(np.uint8).max
GREATEST_SUM = np.iinfo(np.int16).max


@pytest.mark.parametrize("spatial", [1, 2])
def test_no_pair_of_products_can_saturate_16_bits(spatial: int) -> None:
    prepared = body(spatial)
    lowered = lower(prepared, table(prepared, EDGES), CPU_X86_7BIT)
    assert set(lowered.coverage.int8_ops) == set(SELECTED)
    weights = integer_kernels(lowered.graph)
    assert weights
    for name in weights:
        assert 2 * GREATEST_ACTIVATION * np.abs(lowered.graph.constants[name].astype(int)).max() <= GREATEST_SUM
    wide = lower(prepared, table(prepared, EDGES), CPU_X86).graph.constants
    assert any(2 * GREATEST_ACTIVATION * np.abs(wide[name].astype(int)).max() > GREATEST_SUM for name in weights)


def test_activations_are_coded_as_for_cpu_x86_and_weights_are_half_as_fine() -> None:
    prepared = body()
    seven, eight = (lower(prepared, table(prepared), target).graph for target in (CPU_X86_7BIT, CPU_X86))
    for name in ("scale(a1)", "zero_point(a1)"):
        np.testing.assert_array_equal(seven.constants[name], eight.constants[name])
    weight = integer_name("h2.weight")
    ratio = seven.constants["scale(h2.weight)"] / eight.constants["scale(h2.weight)"]
    np.testing.assert_allclose(ratio, 127 / 64, rtol=0.15)  # each searched for its own least error
    assert np.abs(seven.constants[weight].astype(int)).max() == 64
