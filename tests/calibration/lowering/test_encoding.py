"""8-bit codes of activations."""

import numpy as np
import pytest

from fewstep.calibration.lowering.encoding import (
    LEAST_FINER,
    Encoding,
    asymmetric_int8,
    asymmetric_uint8,
    choose_int8,
    symmetric_int8,
    symmetric_int16,
)
from fewstep.calibration.ranges.table import Range, Ranges


def ranges(*ends: tuple[float, float]) -> Ranges:
    groups = tuple(Range(low, high) for low, high in ends)
    pooled = Range(min(r.low for r in groups), max(r.high for r in groups))
    amax = tuple(max(-r.low, r.high) for r in groups)
    return Ranges(pooled, groups, max(amax), amax)


@pytest.mark.parametrize(
    "low, high", [(-1.0, 3.0), (-0.2785, 6.0), (0.0, 2.0), (-5.0, 0.0), (-1e-9, 1e-9), (-7.0, 1e-3)]
)
def test_a_pooled_code_covers_its_range_within_half_a_step(low: float, high: float) -> None:
    code = asymmetric_uint8(ranges((low, high)), grouped=False)
    least, greatest = (code.scales * (end - float(code.zero_point)) for end in (0, 255))
    assert least <= low + 1e-12 and greatest >= high - 1e-12
    assert code.scales[0] == pytest.approx((high - low) / 255, rel=1 / 200)  # the zero point is an integer
    assert code.zero_point.dtype == np.uint8


def test_one_zero_point_covers_every_group() -> None:
    wanted = ranges((-0.28, 1.5), (-0.28, 4.0), (-0.2, 7.0))
    code = asymmetric_uint8(wanted, grouped=True)
    for scale, group in zip(code.scales, wanted.per_group, strict=True):
        assert scale * (0 - float(code.zero_point)) <= group.low + 1e-12
        assert scale * (255 - float(code.zero_point)) >= group.high - 1e-12


def test_groups_that_differ_by_a_factor_lose_nothing_to_the_shared_zero_point() -> None:
    code = asymmetric_uint8(ranges((-1.0, 3.0), (-0.1, 0.3), (-4.0, 12.0)), grouped=True)
    np.testing.assert_allclose(code.scales * 255, [4.0, 0.4, 16.0], rtol=2e-3)  # the zero point is an integer


def test_the_shared_zero_point_is_the_best_of_all() -> None:
    wanted = ranges((-0.28, 1.5), (-2.0, 4.0), (-0.2, 7.0))
    code = asymmetric_uint8(wanted, grouped=True)
    for zero in range(1, 255):
        scales = [max(-group.low / zero, group.high / (255 - zero)) for group in wanted.per_group]
        assert np.log(code.scales).sum() <= np.log(scales).sum() + 1e-12


def test_the_symmetric_code_maps_amax_to_127() -> None:
    code = symmetric_int8(ranges((-1.0, 3.0), (-8.0, 2.0)), grouped=True)
    np.testing.assert_allclose(code.scales * 127, [3.0, 8.0])
    assert code.zero_point == 0 and code.zero_point.dtype == np.int8
    np.testing.assert_allclose(symmetric_int8(ranges((-1.0, 3.0), (-8.0, 2.0)), grouped=False).scales * 127, [8.0])


@pytest.mark.parametrize("grouped", [True, False])
def test_a_code_is_centred_where_its_scales_become_finer(grouped: bool) -> None:
    """After a SiLU they nearly halve; around zero a zero point would gain nothing."""
    silu, sums = ranges((-0.28, 4.0), (-0.28, 6.0)), ranges((-4.0, 4.5), (-7.0, 6.0))
    found, symmetric = choose_int8(silu, grouped), symmetric_int8(silu, grouped)
    assert found.zero_point == asymmetric_int8(silu, grouped).zero_point < -100
    assert (symmetric.scales / found.scales > 1.8).all()
    assert choose_int8(sums, grouped).zero_point == 0
    np.testing.assert_array_equal(choose_int8(sums, grouped).scales, symmetric_int8(sums, grouped).scales)


def test_scales_finer_by_the_least_factor_decide() -> None:
    """For [-low, 1], the symmetric step is 1/127 and the centred one (1 + low) / 255."""
    turn = 255 / 127 / LEAST_FINER - 1
    assert choose_int8(ranges((-turn * 0.97, 1.0)), False).zero_point != 0
    assert choose_int8(ranges((-turn * 1.03, 1.0)), False).zero_point == 0


@pytest.mark.parametrize(("zero", "reach"), [(20_000, 2**16 - 1 - 20_000), (50_000, 50_000)])
def test_the_largest_code_of_int16_is_the_end_of_the_uint16_range(zero: int, reach: int) -> None:
    code = symmetric_int16(Encoding(np.array([0.5]), np.uint16(zero)))
    assert code.scales[0] * (2**15 - 1) == pytest.approx(0.5 * reach, rel=1e-12) and code.zero_point == 0
