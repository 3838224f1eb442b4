"""Which operations stay in float: those that gain most for their time, and those that the floor needs."""

from dataclasses import replace

import pytest

from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.policy import POLICY
from fewstep.calibration.precision.mixed_precision import default_float_count, float_times
from tests.calibration.lowering.bodies.uneven_channels_body import layer
from tests.calibration.precision.test_ranking import ranking


def operations_in_float(errors: tuple[float, ...], times: tuple[float, ...]) -> tuple[str, ...]:
    found = ranking(errors, times)
    return found.first_operations(default_float_count(found))


def test_an_operation_that_makes_most_of_the_error_stays_in_float() -> None:
    times = (0.002, 0.1, 0.1, 0.1)
    assert operations_in_float((1e-4, 1e-6, 1e-6, 1e-6), times) == ("a",)
    assert operations_in_float((1e-6, 1e-4, 1e-6, 1e-6), times) == ()  # 14 dB for 10 %, beyond what is nearly free


def test_two_halves_of_an_error_go_together() -> None:
    """Each alone gains 3 dB for 3 % of the time, which is enough. Three thirds gain 1.8 dB each, and all three the
    whole error.
    """
    assert operations_in_float((1e-4, 1e-4, 1e-9, 1e-9), (0.03, 0.03, 0.9, 0.9)) == ("a", "b")
    assert operations_in_float((1e-4, 1e-4, 1e-4, 1e-9), (0.025, 0.025, 0.025, 0.9)) == ("a", "b", "c")


def test_operations_that_are_dear_stay_in_int8() -> None:
    assert operations_in_float((1e-6, 1e-6, 1e-6, 1e-6), (0.1,) * 4) == ()


@pytest.mark.parametrize(("signal", "count"), [(1.0, 0), (1e-3, 2)])
def test_a_quiet_signal_has_more_in_float(signal: float, count: int) -> None:
    """43 dB relative to the peak are 37 dB for a variance of 1, and 7 dB for one of 0.001."""
    found = ranking((1e-4, 9e-5, 9e-6, 1e-6), (0.2, 0.2, 0.2, 0.9), signal)
    assert found.left[:3] == pytest.approx([2e-4, 1e-4, 1e-5]) and default_float_count(found) == count


@pytest.mark.parametrize(("changes", "count"), [({}, 1), ({"price": 2000.0}, 0), ({"nearly_free": 0.01}, 0)])
def test_the_policy_decides_what_quality_may_cost(changes: dict[str, float], count: int) -> None:
    """The first of three operations causes half of the error, 3 dB, for 2 % of a step."""
    found = ranking((1e-6, 5e-7, 5e-7), (0.02, 0.9, 0.9))
    assert default_float_count(found, replace(POLICY, **changes)) == count


def test_a_floor_out_of_reach_changes_nothing() -> None:
    found = ranking((0.5, 0.5), (POLICY.nearly_free / 100, POLICY.furthest + 0.1))
    assert default_float_count(found) == 1  # 3 dB for next to nothing


def test_time_is_that_of_products() -> None:
    graph = layer("Conv")
    (only,) = [name for name in count_operation_macs(graph) if name == "b"]
    share = count_operation_macs(graph)[only] / sum(count_operation_macs(graph).values())
    assert float_times(graph, [only]) == pytest.approx([POLICY.float_slowdown * share])


def test_what_int8_makes_slower_stays_in_float_whatever_its_error() -> None:
    """And so does the rest that causes much of the error."""
    graph = layer("Conv")
    (only,) = [name for name in count_operation_macs(graph) if name == "b"]
    assert float_times(graph, [only], {only}) == [0.0]
    assert operations_in_float((0.0, 1e-4, 1e-6, 1e-6), (0.0, 0.002, 0.1, 0.1)) == ("a", "b")
    assert operations_in_float((1e-9, 1e-4, 1e-4, 1e-4), (0.0, 0.5, 0.5, 0.5)) == ("a",)
