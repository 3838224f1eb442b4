"""Multistep samplers on the predicted noise, row by row: DEIS, LMS, PNDM."""

from math import sqrt

import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.name import parse_plan_name
from fewstep.plans.schedule import Time
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.parity.extract import assert_same_rows, extract, times_of, unroll

diffusers = pytest.importorskip("diffusers")
LINEAR = ScheduleSpec("linear")


def assert_same(name, scheduler, steps, times, prediction="epsilon", tolerance=1e-5):
    plan = trace_plan("test", parse_plan_name(f"{name}:1").solver, times, DenoiserFacts(LINEAR, prediction))
    assert_same_rows(unroll(plan).from_first_input(), extract(scheduler, steps).from_first_input(), tolerance)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(("order", "name"), [(2, "deis_log_rho_2"), (3, "deis_log_rho_3")])
def test_deis(order, name, lower):
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, lower_order_final=lower)
    assert_same(f"{name}(lower_order_final={lower})", scheduler, 9, times_of(scheduler, 9))


def test_deis_of_order_1_is_ddim():
    scheduler = diffusers.DEISMultistepScheduler(solver_order=1)
    assert_same("ddim", scheduler, 9, times_of(scheduler, 9))


def test_lms():
    """Its weights come from a numerical integral of few digits."""
    pytest.importorskip("scipy")
    scheduler = diffusers.LMSDiscreteScheduler()
    assert_same("lms_4", scheduler, 9, times_of(scheduler, 9), tolerance=1e-4)


def visited(scheduler, steps):
    """The times of PNDM's grid, each once, with the end it takes."""
    scheduler.set_timesteps(steps)
    bars = [float(scheduler.alphas_cumprod[int(t)]) for t in scheduler._timesteps[::-1]]
    bars.append(float(scheduler.final_alpha_cumprod))
    told = [*map(float, scheduler._timesteps[::-1]), 0.0]
    return [Time(time, sqrt(bar), sqrt(1 - bar)) for time, bar in zip(told, bars, strict=True)]


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize(("prediction", "theirs"), [("epsilon", "epsilon"), ("v", "v_prediction")])
@pytest.mark.parametrize(("skip", "name"), [(True, "pndm"), (False, "f_pndm")])
def test_pndm(skip, name, prediction, theirs, to_one):
    scheduler = diffusers.PNDMScheduler(
        skip_prk_steps=skip, prediction_type=theirs, set_alpha_to_one=to_one, steps_offset=1
    )
    given = f"{name}(on_v={prediction == 'v'})"
    assert_same(given, scheduler, 10, visited(scheduler, 10), prediction)
