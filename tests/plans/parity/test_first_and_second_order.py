"""DDIM, DDPM, and k-diffusion's Euler, Heun and DPM2, row by row."""

import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.name import parse_plan_name
from fewstep.plans.schedule import Time
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.parity.extract import assert_same_rows, extract, times_of, unroll

diffusers = pytest.importorskip("diffusers")
LINEAR = ScheduleSpec("linear")
KARRAS_LINEAR = ScheduleSpec("linear", beta_start=0.00085, beta_end=0.012)  # what theirs default to


def assert_same(name, scheduler, steps, times, spec=LINEAR, **options):
    plan = trace_plan("test", parse_plan_name(f"{name}:1").solver, times, DenoiserFacts(spec, "epsilon"))
    assert_same_rows(unroll(plan).from_first_input(), extract(scheduler, steps, **options).from_first_input())


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim(eta):
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    assert_same(f"ddim(eta={eta})", scheduler, 9, times_of(scheduler, 9), eta=eta)


@pytest.mark.parametrize(("variance", "large"), [("fixed_small", False), ("fixed_large", True)])
def test_ddpm(variance, large):
    scheduler = diffusers.DDPMScheduler(clip_sample=False, variance_type=variance)
    assert_same(f"ddpm(large_variance={large})", scheduler, 9, times_of(scheduler, 9))


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [("EulerDiscreteScheduler", "euler"), ("EulerAncestralDiscreteScheduler", "euler_ancestral")]
    + [("HeunDiscreteScheduler", "edm_heun")],
)
def test_euler_and_heun(scheduler, name):
    scheduler = getattr(diffusers, scheduler)()
    assert_same(name, scheduler, 9, times_of(scheduler, 9))


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [("KDPM2DiscreteScheduler", "dpm_2"), ("KDPM2AncestralDiscreteScheduler", "dpm_2_ancestral")],
)
def test_dpm_2(scheduler, name):
    scheduler = getattr(diffusers, scheduler)()
    scheduler.set_timesteps(9)
    told = [float(t) for t in scheduler.timesteps[::2]]  # between them it is told the times halfway
    sigmas = [float(scheduler.sigmas[0]), *map(float, scheduler.sigmas[1::2])]
    times = [Time(t, (1 + rho**2) ** -0.5, rho * (1 + rho**2) ** -0.5) for t, rho in zip([*told, 0.0], sigmas)]
    assert_same(name, scheduler, 9, times, KARRAS_LINEAR)
