"""Samplers of distilled and rectified denoisers, and EDM's churn: the times of the network, and the noise that they
add.
"""

import math

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers import rfpp
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.execute_plan import sample, solver
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising


def plan_of(name, spec, prediction, times):
    schedule = NoiseSchedule(spec)
    points = [schedule.time(t) for t in times]
    return trace_plan("test", solver(name), points, denoising(spec, prediction))


def rho(step):
    return step.sigma / step.alpha


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_ctm_tells_the_network_where_its_jump_ends(gamma):
    """At sqrt(1 - gamma^2) of the next sigma / alpha; new noise replaces the difference."""
    plan = plan_of(f"ctm(gamma={gamma})" if gamma else "ctm", COSINE, "sample", (900, 500, 200))
    schedule = NoiseSchedule(COSINE)
    low = math.exp(-schedule.lam(500)) * math.sqrt(1 - gamma**2)
    (x, x0, *noise), t = plan.steps[0].update[0], schedule.time(500)
    if gamma == 1:
        assert plan.steps[0].to == 0
    else:
        assert math.exp(-schedule.lam(plan.steps[0].to)) == pytest.approx(low)
    s = schedule.time(900)
    assert x == pytest.approx(t.alpha * low / s.sigma)
    assert x0 == pytest.approx(t.alpha * (1 - low * s.alpha / s.sigma))
    assert noise == ([] if gamma == 0 else [pytest.approx(gamma * t.sigma)])


@pytest.mark.parametrize(("spec", "stated"), [(FLOW, 0.0), (ScheduleSpec("edm"), math.log(0.002) / 4)])
def test_the_clean_end_is_stated_as_the_cleanest_time_that_networks_know(spec, stated):
    """EDM's is log(sigma) / 4, which is minus infinity where sigma is 0 and 0 where it is 1."""
    plan = compile_plan("ctm:2", denoising(spec, "sample"))
    assert plan.steps[-1].to == pytest.approx(stated)
    assert plan.steps[0].to == pytest.approx(plan.steps[1].time)


def test_only_ctm_tells_a_second_time():
    assert all(step.to is None for step in compile_plan("tcd:4", denoising(COSINE, "v")).steps)


def test_tcd_goes_back_to_a_share_of_the_next_timestep():
    """alpha_t / alpha_u of x there, u = floor(0.7 x 505) = 353, and noise up to t: Zheng et al., whose gamma is 0.3."""
    plan = plan_of("tcd", LINEAR, "epsilon", (900, 505, 200))
    schedule = NoiseSchedule(LINEAR)
    s, t, u = (schedule.time(each) for each in (900, 505, 353))
    x, eps, z = plan.steps[0].update[0]
    assert x == pytest.approx(t.alpha / s.alpha)
    assert eps == pytest.approx(t.alpha / u.alpha * (u.sigma - u.alpha * s.sigma / s.alpha))
    assert z == pytest.approx(math.sqrt(1 - (t.alpha / u.alpha) ** 2))


@pytest.mark.parametrize(("t", "c_skip", "c_out"), [(1e-6, 1, 0), (0.05, 0.5, 0.5**0.5), (100, 0, 1)])
def test_lcm_ties_x0_to_x_at_timestep_0(t, c_skip, c_out):
    """c_skip is sigma_data^2 / ((10 t)^2 + sigma_data^2) with sigma_data 0.5: a half at t = 0.05."""
    end = NoiseSchedule(COSINE).time(t / 2)
    x, x0, _ = plan_of("lcm", COSINE, "sample", (t, t / 2)).steps[0].update[0]
    assert (x, x0) == pytest.approx((end.alpha * c_skip, end.alpha * c_out), abs=1e-4)


def test_consistency_models_leave_the_noise_that_the_data_have():
    """Noise of variance sigma_t^2 - sigma_min^2, and none at the end."""
    spec = ScheduleSpec("edm", sigma_min=0.5, sigma_max=80.0)
    schedule = NoiseSchedule(spec)
    times = [schedule.time_at_rho(each) for each in (80.0, 2.0, 0.5)]
    plan = trace_plan("test", solver("consistency"), times, DenoiserFacts(spec, "consistency"))
    assert plan.steps[0].update[0][-1] == pytest.approx(math.sqrt(2.0**2 - 0.5**2))
    assert plan.steps[1].draws == ()


def test_rectified_flow_keeps_the_noise_that_it_began_with():
    """Between x0 and z at every time, whatever the network returns."""
    plan = compile_plan("rfpp:4", denoising(FLOW, "sample"))
    z, seen = np.array([1.7]), []

    def network(index, step, u):
        seen.append((step.sigma, u[0]))
        return [np.array([0.1 * (index + 1)])]

    x = sample(plan, network, lambda number: z, np.float64)
    assert x == pytest.approx(0.4)
    for index, (sigma, u) in enumerate(seen[1:]):
        assert u == pytest.approx((1 - sigma) * 0.1 * (index + 1) + sigma * 1.7)


def test_churn_raises_the_noise_before_the_network_sees_it():
    """gamma = min(s_churn / N, sqrt(2) - 1), within s_tmin and s_tmax only; N = 3 steps here."""
    times, free = (900, 500, 200, 20), "s_tmin=0.5, s_tmax=5"
    calm = plan_of("edm_euler", COSINE, "v", times)
    churned = plan_of(f"edm_euler(s_churn=0.3, s_noise=1.1, {free})", COSINE, "v", times)
    most = plan_of(f"edm_euler(s_churn=30, {free})", COSINE, "v", times)
    raised = [rho(a) / rho(b) for a, b in zip(churned.steps, calm.steps, strict=True)]
    inside = [0.5 <= rho(step) <= 5 for step in calm.steps]
    assert sorted(inside) == [False, False, True]
    assert raised == pytest.approx([1.1 if each else 1.0 for each in inside])
    assert max(rho(a) / rho(b) for a, b in zip(most.steps, calm.steps)) == pytest.approx(math.sqrt(2))
    (index,) = [k for k, each in enumerate(inside) if each]
    before = churned.steps[index - 1]
    added = rho(calm.steps[index]) * math.sqrt(1.1**2 - 1) * 1.1 * churned.steps[index].alpha
    assert before.update[0][-1] == pytest.approx(added)
    assert len(before.draws) == 1


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_a_solver_that_counts_in_timesteps_refuses_a_schedule_without(name):
    with pytest.raises(UserError, match=f"{name} needs timesteps, which schedule edm"):
        compile_plan(f"{name}:4", DenoiserFacts(ScheduleSpec("edm"), "edm"))


def test_rfpp_from_an_image_puts_back_the_noise_that_was_put_on_it():
    """On a straight path x0 and z are known everywhere, from pure noise and from any later start."""
    image, point, noise = 0.2, 0.7, 1.3
    schedule = NoiseSchedule(FLOW)
    for first in (1000.0, 600.0):
        times = [schedule.time(t) for t in (first, 300.0, 100.0)]
        z = noise + times[0].alpha / times[0].sigma * (image - point)  # what a straight path from `point` has there
        plan = trace_plan("test", rfpp, times, denoising(FLOW, "sample"), strength=1.0)
        given = {"image": np.full(1, image)}
        made = sample(plan, lambda i, step, u: [np.full(1, point)], lambda k: np.full(1, noise), np.float64, given)
        assert made == pytest.approx([times[-1].alpha * point + times[-1].sigma * z], abs=1e-12)


def test_stochastic_distilled_goes_two_intervals_and_one_back():
    """Meng et al.: DDIM from t to t - 2 / N, then the forward process to t - 1 / N; at the end DDIM alone."""
    times, rng = (1000, 600, 300, 0), np.random.default_rng(0)
    plan = plan_of("stochastic_distilled", FLOW, "sample", times)
    x0s, draws, schedule = rng.standard_normal((3, 4)), rng.standard_normal((4, 4)), NoiseSchedule(FLOW)
    seen: list[np.ndarray] = []
    samples = sample(plan, lambda i, step, u: seen.append(u) or [x0s[i]], lambda k: draws[k], np.float64)
    x, at = draws[0], [schedule.time(t) for t in times]
    for i, (s, t) in enumerate(zip(at, at[1:], strict=False)):
        assert seen[i] == pytest.approx(x, abs=1e-12)  # the end forgets all but the last prediction
        low = at[min(i + 2, 3)]
        x = low.alpha * x0s[i] + low.sigma * (x - s.alpha * x0s[i]) / s.sigma
        if i < 2:
            kept = t.alpha / low.alpha
            x = kept * x + math.sqrt(t.sigma**2 - (kept * low.sigma) ** 2) * draws[i + 1]
    assert samples == pytest.approx(x, abs=1e-12)
    assert [len(step.draws) for step in plan.steps] == [1, 1, 0]
