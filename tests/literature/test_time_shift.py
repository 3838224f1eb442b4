"""Corrections of a plan's inputs that calibration freezes: shifted times, and scaled noise."""

import msgspec
import numpy as np
import pytest

from fewstep.literature.noise_scale import scale_noise
from fewstep.literature.time_shift import estimate_shift, shift_times
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute, finish
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising
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


EDM, OU = ScheduleSpec("edm"), ScheduleSpec("ou")
Y = np.full(7, 0.3)


def scaling(denoiser, scales):
    """A network with the noise scaled around it by hand."""

    def network(index, step, u):
        time = Time(step.time, step.alpha, step.sigma)
        a, b = x0_coefficients(denoiser.prediction, time, denoiser.schedule)
        x = u / input_scale(denoiser.prediction, time, denoiser.schedule)
        x = x - (1 - step.alpha) * Y if denoiser.towards else x
        x0s = [a * x + b * output for output in plain(index, step, u)]
        eps = [(x - step.alpha * x0) / step.sigma / scales[index] for x0 in x0s]
        return [((x - step.sigma * each) / step.alpha - a * x) / b for each in eps]

    return network


def plain(index, step, u):
    return [np.tanh(u + step.time / 300 + k) for k in range(len(step.branches))]


@pytest.mark.parametrize(
    "denoiser",
    [
        denoising(LINEAR, "epsilon"),
        denoising(COSINE, "v"),
        DenoiserFacts(EDM, "edm"),
        denoising(LINEAR, "sample"),
        denoising(LINEAR, "score"),
        DenoiserFacts(OU, "score", towards="y"),
    ],
)
@pytest.mark.parametrize("shape", [None, Clip(-1, 1)])
@pytest.mark.parametrize("name", ["dpmpp_2m:4", "ddpm:4"])
def test_the_table_is_a_scaled_network(name, denoiser, shape):
    guidance = 2.0 if denoiser.schedule.kind in ("linear", "cosine") else None
    plan = compile_plan(name, denoiser, guidance=guidance, shaping=shape)
    scales, given = (1.03, 1.01, 1.002, 0.99), {"y": Y}
    draws = np.random.default_rng(0).standard_normal((5, 7))
    made = []
    for each, network in ((scale_noise(plan, denoiser, scales), plain), (plan, scaling(denoiser, scales))):
        states = list(execute(each, network, lambda k: draws[k], np.float64, given))
        made.append([*(state.x0 for state in states), finish(each, states, np.float64)])
    for one, other in zip(*made, strict=True):
        assert one == pytest.approx(other, rel=1e-7, abs=1e-7)


def test_one_scale_for_all_and_none_at_all():
    denoiser = denoising(FLOW, "flow")
    plan = compile_plan("unipc_2:4", denoiser)
    assert scale_noise(plan, denoiser, 1.0) == plan
    assert scale_noise(plan, denoiser, 1.02) == scale_noise(plan, denoiser, [1.02] * 4)


@pytest.mark.parametrize("scales", [[1.0, 1.0], 0.0, [1.0, -1.0, 1.0]])
def test_scales_must_fit(scales):
    denoiser = denoising(LINEAR, "epsilon")
    with pytest.raises(UserError, match="noise scales"):
        scale_noise(compile_plan("ddim:3", denoiser), denoiser, scales)


def test_a_restoration_that_predicts_no_noise_is_refused():
    denoiser = DenoiserFacts(OU, "sample", towards="y")
    with pytest.raises(UserError, match="restores 'y' and predicts sample"):
        scale_noise(compile_plan("ddim:3", denoiser), denoiser, 1.01)
