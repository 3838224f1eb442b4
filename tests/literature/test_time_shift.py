"""Time shift: the frozen argmin over timesteps, and nothing else changed."""

import msgspec
import numpy as np
import pytest

from fewstep.literature.time_shift import measured_shift, shift_times
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import ScheduleSpec
from tests.plans.gaussian import LINEAR, denoising

PLAN = compile_plan("ddim:10", denoising(LINEAR, "epsilon"))
SCHEDULE = NoiseSchedule(LINEAR)


def test_the_shift_is_where_the_schedule_has_the_variance():
    looks = [step.time - 13 for step in PLAN.steps]
    variances = [SCHEDULE.sigma(max(t, 0.0)) ** 2 for t in looks]
    times = measured_shift(PLAN, SCHEDULE, variances, window=40)
    above = [step.time > 200 for step in PLAN.steps]
    assert times[0] == PLAN.steps[0].time
    assert [t for t, shifts in zip(times[1:], above[1:]) if shifts] == [t for t, s in zip(looks[1:], above[1:]) if s]
    assert [t for t, shifts in zip(times, above) if not shifts] == [s.time for s in PLAN.steps if s.time <= 200]


def test_it_stays_within_the_window_and_the_table():
    times = measured_shift(PLAN, SCHEDULE, [9.0] * 10, window=30)
    for time, step in zip(times[1:], PLAN.steps[1:]):
        assert time == (min(step.time + 15, 999) if step.time > 200 else step.time)


def test_only_what_the_network_is_told_changes():
    times = np.arange(10.0)
    shifted = shift_times(PLAN, times)
    assert [step.time for step in shifted.steps] == list(times)
    back = shift_times(shifted, [step.time for step in PLAN.steps])
    assert msgspec.structs.asdict(back) == msgspec.structs.asdict(PLAN)


def test_what_cannot_be_shifted_is_refused():
    with pytest.raises(UserError, match="1 times for 10 evaluations"):
        shift_times(PLAN, [1.0])
    with pytest.raises(UserError, match="1 variances for 10 evaluations"):
        measured_shift(PLAN, SCHEDULE, [1.0])


@pytest.mark.parametrize("kind", ["edm", "flow", "residual-shift"])
def test_a_schedule_without_a_generators_timesteps_is_refused(kind):
    with pytest.raises(UserError, match="no table of a generator's timesteps"):
        measured_shift(PLAN, NoiseSchedule(ScheduleSpec(kind)), [1.0] * 10)
