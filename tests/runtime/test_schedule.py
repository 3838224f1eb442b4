import math
from itertools import pairwise

import numpy as np
import pytest

from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import ScheduleSpec
from fewstep.runtime.schedule import CLEAN, NoiseSchedule, time_grid


def test_linear_schedule_is_the_product_of_its_betas():
    schedule = NoiseSchedule(ScheduleSpec("linear", 1000, 1e-4, 0.02))
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for t in (0, 1, 500, 999):
        assert schedule.alpha(t) == pytest.approx(math.sqrt(alphas_cumprod[t]), rel=1e-12)
        assert schedule.sigma(t) == pytest.approx(math.sqrt(1 - alphas_cumprod[t]), rel=1e-9)


def test_cosine_schedule_follows_equation_17():
    schedule = NoiseSchedule(ScheduleSpec("cosine"))
    f = lambda t: math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    assert schedule.alpha(499) ** 2 == pytest.approx(f(500) / f(0), rel=1e-9)


def test_flow_is_a_straight_path():
    time = NoiseSchedule(ScheduleSpec("flow")).time(250)
    assert (time.alpha, time.sigma) == (0.75, 0.25)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_lambda_falls_with_time_and_agrees_with_alpha_and_sigma(kind):
    schedule = NoiseSchedule(ScheduleSpec(kind))
    times = [schedule.time(t) for t in np.linspace(0, 999, 777)]
    assert all(a.lam > b.lam for a, b in pairwise(times))
    assert all(t.alpha**2 + t.sigma**2 == pytest.approx(1, abs=1e-12) for t in times)


def test_grid_is_trailing_and_ends_clean():
    grid = time_grid(NoiseSchedule(ScheduleSpec("linear")), 4)
    assert [time.network for time in grid[:-1]] == [999, 749, 499, 249]
    assert grid[-1] == CLEAN
    assert [t.network for t in time_grid(NoiseSchedule(ScheduleSpec("flow")), 4)[:-1]] == [1000, 750, 500, 250]


def test_all_timesteps_may_be_visited_but_no_more():
    schedule = NoiseSchedule(ScheduleSpec("linear", 100))
    assert [time.network for time in time_grid(schedule, 100)[:-1]] == list(range(99, -1, -1))
    with pytest.raises(UserError, match="101 steps on schedule linear-100"):
        time_grid(schedule, 101)


def test_fingerprint_names_the_schedule():
    first, same, other = (
        NoiseSchedule(ScheduleSpec("linear", 1000, 1e-4, end)).fingerprint for end in (0.02, 0.02, 0.01)
    )
    assert first == same != other
    assert len(first) == 16


def test_time_outside_the_schedule_is_refused():
    with pytest.raises(UserError, match="time 1000 is outside 0 .. 999"):
        NoiseSchedule(ScheduleSpec("cosine")).time(1000)
