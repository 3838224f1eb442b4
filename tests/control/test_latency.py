"""Measured seconds, and the plan and the delay that follow from them."""

import math

from fewstep.control import LatencyWindow, choose_plan, ticks_of_delay


def test_the_window_slides_and_gives_the_quantile() -> None:
    window = LatencyWindow(size=100)
    assert window.seconds == math.inf
    for _ in range(99):
        window.add(0.002)
    window.add(0.5)  # one in a hundred
    assert window.seconds == 0.5 and len(window) == 100
    for _ in range(100):
        window.add(0.003)
    assert window.seconds == 0.003


def test_a_clock_that_jumped_is_no_latency() -> None:
    window = LatencyWindow()
    for seconds in (0.002, -5.0, math.nan, math.inf):
        window.add(seconds)
    assert len(window) == 1 and window.seconds == 0.002


def test_the_first_plan_that_keeps_the_deadline_is_chosen() -> None:
    assert choose_plan([0.012, 0.006, 0.003], 0.010) == 1
    assert choose_plan([0.008, 0.006, 0.003], 0.010) == 0
    assert choose_plan([0.011, 0.011, 0.025], 0.010) == 2  # none does: the cheapest, though others were cut short


def test_a_tick_that_is_begun_goes_by() -> None:
    assert ticks_of_delay(0.051, 20) == 2 and ticks_of_delay(0.05, 20) == 1 and ticks_of_delay(0.0, 20) == 0
