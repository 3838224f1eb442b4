"""Network times that are shifted by the variance of x, and frozen."""

import msgspec
import numpy as np
import pytest

from fewstep.literature.time_shift import estimate_shift, shift_times
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import ScheduleSpec
from tests.plans.gaussian import LINEAR, denoising
from tests.refusals import refuses

PLAN = compile_plan("ddim:10", denoising(LINEAR, "epsilon"))
SCHEDULE = NoiseSchedule(LINEAR)


def test_the_shift_is_where_the_schedule_has_the_variance():
    looks = [step.time - 13 for step in PLAN.steps]
    variances = [SCHEDULE.sigma(max(t, 0.0)) ** 2 for t in looks]
    times = estimate_shift(PLAN, SCHEDULE, variances, window=40)
    above = [step.time > 200 for step in PLAN.steps]
    assert times[0] == PLAN.steps[0].time
    assert [t for t, shifts in zip(times[1:], above[1:]) if shifts] == [t for t, s in zip(looks[1:], above[1:]) if s]
    assert [t for t, shifts in zip(times, above) if not shifts] == [s.time for s in PLAN.steps if s.time <= 200]


def test_it_stays_within_the_window_and_the_table():
    """By default a window of 40 timesteps."""
    late = shift_times(PLAN, [999.0, 990.0, *(step.time for step in PLAN.steps[2:])])
    for given, half in (({"window": 30}, 15), ({}, 20)):
        for variance, way in ((9.0, half), (0.0, -half)):
            times = estimate_shift(late, SCHEDULE, [variance] * 10, **given)
            for time, step in zip(times[1:], late.steps[1:]):
                assert time == (min(step.time + way, 999) if step.time > 200 else step.time)


def test_the_time_at_the_cutoff_is_kept():
    times = estimate_shift(PLAN, SCHEDULE, [9.0] * 10, cutoff=PLAN.steps[4].time)
    assert [step.time < time for step, time in zip(PLAN.steps, times, strict=True)] == [
        False,
        *[True] * 3,
        *[False] * 6,
    ]


def test_only_the_network_times_change():
    times = np.arange(10.0)
    shifted = shift_times(PLAN, times)
    assert [step.time for step in shifted.steps] == list(times)
    back = shift_times(shifted, [step.time for step in PLAN.steps])
    assert msgspec.structs.asdict(back) == msgspec.structs.asdict(PLAN)


def test_what_cannot_be_shifted_is_refused():
    with refuses(("1 network times", "10 evaluations"), "one time for each"):
        shift_times(PLAN, [1.0])
    with pytest.raises(UserError, match="got 1 variances for 10 evaluations"):
        estimate_shift(PLAN, SCHEDULE, [1.0])


@pytest.mark.parametrize("kind", ["edm", "flow", "residual-shift"])
def test_a_schedule_without_a_generators_timesteps_is_refused(kind):
    with pytest.raises(UserError, match="needs a generative schedule with discrete timesteps"):
        estimate_shift(PLAN, NoiseSchedule(ScheduleSpec(kind)), [1.0] * 10)
