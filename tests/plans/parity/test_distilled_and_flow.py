"""Samplers of distilled denoisers, and of flows, row by row."""

from math import sqrt

import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.name import parse_plan_name
from fewstep.plans.schedule import Time
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.parity.extract import assert_same_rows, extract, times_of, unroll

diffusers = pytest.importorskip("diffusers")

LATENT = DenoiserFacts(ScheduleSpec("scaled-linear", beta_start=0.00085, beta_end=0.012), "epsilon")
FLOW = DenoiserFacts(ScheduleSpec("flow"), "flow")
EDM = DenoiserFacts(ScheduleSpec("edm", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5), "consistency")


def assert_same(name, scheduler, steps, times, denoising, **options):
    plan = trace_plan("test", parse_plan_name(f"{name}:1").solver, times, denoising)
    assert_same_rows(unroll(plan).from_first_input(), extract(scheduler, steps, **options).from_first_input())


def to_timestep_zero(scheduler, steps):
    """The times of a scheduler whose last step goes to timestep 0 rather than to the clean end."""
    scheduler.set_timesteps(steps)
    told = [*(int(t) for t in scheduler.timesteps), 0]
    bars = [float(scheduler.alphas_cumprod[t]) for t in told]
    return [Time(float(t), sqrt(bar), sqrt(1 - bar)) for t, bar in zip(told, bars)]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd(gamma):
    scheduler = diffusers.TCDScheduler()
    assert_same(f"tcd(gamma={gamma})", scheduler, 4, to_timestep_zero(scheduler, 4), LATENT, eta=gamma)


def test_lcm():
    scheduler = diffusers.LCMScheduler(clip_sample=False)
    assert_same("lcm", scheduler, 4, times_of(scheduler, 4), LATENT)


def test_consistency_models():
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)
    scheduler.set_timesteps(timesteps=[39, 22, 6])
    told = [*(float(t) for t in scheduler.timesteps), 0.0]
    sigmas = [*(float(sigma) for sigma in scheduler.sigmas[:3]), 0.0]
    times = [Time(t, 1.0, sigma) for t, sigma in zip(told, sigmas, strict=True)]
    assert_same("consistency", scheduler, None, times, EDM, timesteps=[39, 22, 6])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("scheduler", "options", "name"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, "flow_euler"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "flow_sde"),
        ("FlowMatchHeunDiscreteScheduler", {}, "flow_heun"),
    ],
)
def test_flows(scheduler, options, name, shift):
    scheduler = getattr(diffusers, scheduler)(shift=shift, **options)
    assert_same(name, scheduler, 7, times_of(scheduler, 7), FLOW)
