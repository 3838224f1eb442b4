"""Measured seconds, and the delay that follows from them."""

from fewstep.robots.control import ticks_of_delay
from fewstep.robots.control.latency import quantile


def test_one_slow_call_in_a_hundred_is_the_quantile() -> None:
    assert quantile([*[0.002] * 99, 0.5]) == 0.5
    assert quantile([*[0.003] * 199, 0.5]) == 0.003


def test_a_tick_that_is_begun_goes_by() -> None:
    assert ticks_of_delay(0.051, 20) == 2 and ticks_of_delay(0.05, 20) == 1 and ticks_of_delay(0.0, 20) == 0
