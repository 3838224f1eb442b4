"""Convergence, cost and exactness of every deterministic solver, in float64 on exact denoisers."""

import math
from functools import cache

import numpy as np
import pytest
from gaussian import COSINE, FAMILIES, FLOW, LINEAR, denoising, run, uniform_lambda
from mixture import WIDE, compiled, rms

from fewstep.runtime import solvers
from fewstep.runtime.errors import UserError
from fewstep.runtime.plan import compile_plan
from fewstep.runtime.schedule import NoiseSchedule
from fewstep.runtime.step import sample

STARTS = np.linspace(-2, 2, 9)

# Slope of the error over uniform steps in lambda, rows, evaluations in 10 steps from the noisiest timestep to clean.
DETERMINISTIC = {
    "ddim": (1.0, 1, 10),
    "heun": (2.0, 2, 19),
    "dpm_2": (2.0, 2, 19),
    "dpm_3": (3.0, 3, 28),
    "dpmpp_2s": (2.0, 2, 19),
    "dpmpp_2m": (2.0, 2, 10),
    "dpmpp_3m": (2.0, 3, 10),
    "dpmpp_3m_exact": (3.0, 3, 10),
    "lms_2": (2.0, 2, 10),
    "lms_3": (2.9, 3, 10),
    "lms_4": (3.85, 4, 10),
    "deis_t_2": (2.0, 2, 10),
    "deis_t_3": (3.0, 3, 10),
    "deis_t_4": (3.8, 4, 10),
    "deis_log_rho_2": (2.0, 2, 10),
    "deis_log_rho_3": (3.0, 3, 10),
    "ipndm": (2.0, 4, 10),
    "unipc_1": (2.0, 2, 10),
    "unipc_2": (3.0, 3, 10),
    "unipc_2_bh1": (3.0, 3, 10),
    "unipc_3": (4.0, 4, 10),
}
STOCHASTIC = {"ddpm": (1, 10), "dpmpp_2m_sde": (2, 10)}

grid = cache(uniform_lambda)


@cache
def exact_ends(spec, steps):
    times = grid(spec, steps, 995, 10)
    return WIDE.flow_map(times[0].sigma * STARTS, times[0], times[-1])


def error(name, spec, prediction, steps):
    plan = compiled(getattr(solvers, name), grid(spec, steps, 995, 10), spec, prediction)
    return rms(WIDE.run(plan, spec, STARTS) - exact_ends(spec, steps))


def test_every_solver_is_tested_here():
    assert sorted({**DETERMINISTIC, **STOCHASTIC}) == sorted(solvers.__all__)


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_solver_converges_with_its_order(name, spec, prediction):
    """Averaged over 64 to 256 steps: where the schedule is a table, its corners make single slopes uneven."""
    few, many = (error(name, spec, prediction, steps) for steps in (64, 256))
    assert math.log2(few / many) / 2 == pytest.approx(DETERMINISTIC[name][0], abs=0.25)


@pytest.mark.parametrize("bend", [-0.5, 0.5])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_solver_keeps_its_order_on_uneven_grids(name, bend):
    """Steps in lambda that grow or shrink threefold from start to end."""
    schedule = NoiseSchedule(FLOW)
    errors = []
    for steps in (64, 256):
        u = np.linspace(0, 1, steps + 1)
        lams = schedule.lam(995) + (u + bend * u * (1 - u)) * (schedule.lam(10) - schedule.lam(995))
        times = [schedule.at_lam(float(lam)) for lam in lams]
        exact = exact_ends(FLOW, 64)  # the same ends
        errors.append(rms(WIDE.run(compiled(getattr(solvers, name), times, FLOW, "flow"), FLOW, STARTS) - exact))
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(DETERMINISTIC[name][0], abs=0.25)


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_rows_and_evaluations_are_what_the_method_needs(name):
    *_, rows, evaluations = {**DETERMINISTIC, **STOCHASTIC}[name]
    plan = compile_plan(f"{name}:10", denoising(COSINE, "v"), guidance=2.0)
    assert plan.rows == rows
    assert len(plan.steps) == evaluations


@pytest.mark.parametrize(("spec", "prediction"), FAMILIES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_data_that_is_one_point_is_reached_exactly_in_any_number_of_steps(name, spec, prediction):
    """From the noisiest time (pure noise in a flow) to the clean end: x0 and eps stay what they are all the way."""
    schedule = NoiseSchedule(spec)
    point = 0.7

    def network(index, step, u):
        time = schedule.time(step.time)
        eps = (u - time.alpha * point) / time.sigma
        x0 = np.full_like(u, point)
        return [{"epsilon": eps, "sample": x0, "v": time.alpha * eps - time.sigma * x0, "flow": eps - x0}[prediction]]

    for steps in (1, 2, 3, 6):
        plan = compile_plan(f"{name}:{steps}", denoising(spec, prediction))
        assert sample(plan, network, lambda k: STARTS, np.float64) == pytest.approx(np.full(9, point), abs=1e-9)


@pytest.mark.parametrize("steps", [8, 50])
@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_float32_costs_little(name, spec, prediction, steps):
    """Except where DPM-Solver multiplies differences of noise by the cosine schedule's sigma / alpha = 20 000."""
    plan = compile_plan(f"{name}:{steps}", denoising(spec, prediction))
    x = np.linspace(-3, 3, 101).astype(np.float32)
    off = np.abs(run(plan, spec, [x], np.float32) - run(plan, spec, [x.astype(np.float64)])).max()
    assert off < (5e-3 if name in ("dpm_2", "dpm_3") and spec == COSINE else 3e-5)


@pytest.mark.parametrize("name", solvers.__all__)
def test_no_solver_starts_a_flow_on_predicted_noise(name):
    with pytest.raises(UserError, match="epsilon prediction says nothing"):
        compile_plan(f"{name}:4", denoising(FLOW, "epsilon"))


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_times_between_lie_on_the_schedule(spec, prediction):
    """The middle evaluation of a singlestep solver: halfway in lambda, told the network time that the schedule has."""
    plan = compile_plan("dpm_2:5", denoising(spec, prediction))
    lams = [-math.inf if step.lam is None else step.lam for step in plan.steps]
    first = 1 if spec == FLOW else 0  # a step from pure noise has no middle
    for before, middle, after in zip(lams[first::2], lams[first + 1 :: 2], lams[first + 2 :: 2]):
        assert middle == pytest.approx((before + after) / 2, abs=1e-12)
    schedule = NoiseSchedule(spec)
    for step, lam in zip(plan.steps, lams):
        assert schedule.lam(step.time) == pytest.approx(lam, abs=1e-9)
