"""The loops of other code bases, written out in float64, and the plans that docs/samplers.md names for them."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.guidance import UNCOND
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.execute_plan import sample

X = np.random.default_rng(5).standard_normal((3, 4))
TRAINED = 1000  # the time of noise, in units of the network
FLOW = DenoiserFacts(ScheduleSpec("flow", TRAINED), "flow", True, grid="arctan")
DENOISER = DenoiserFacts(ScheduleSpec("edm", sigma_min=0.002, sigma_max=80.0), "sample", grid="arctan")
ROWS = [row for row in (Path(__file__).parents[2] / "docs/samplers.md").read_text().splitlines() if row.startswith("|")]
Velocity = Callable[[np.ndarray, float], np.ndarray]


def toward_noise(x: np.ndarray, sigma: float, branch: str = "cond") -> np.ndarray:
    """A nonlinear velocity, noise minus data, at sigma in [0, 1]."""
    return np.tanh(x) * (1 + sigma) - (0.3 if branch == UNCOND else 0.7) * np.cos(3 * sigma + x)


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    """A nonlinear prediction of the sample at a sigma from 0.002 to 80."""
    return np.tanh(x / math.hypot(1, sigma)) + 0.1 * np.cos(np.log(sigma))


def plan_sample(name: str, guidance: float | None = None, facts: DenoiserFacts = FLOW) -> np.ndarray:
    """Return the sample of a plan that starts from X, times the sigma of its first step."""

    def network(index, step, u):
        if facts is DENOISER:
            return [denoise(u, math.exp(4 * step.time))]
        return [toward_noise(u, step.time / TRAINED, branch) for branch in step.branches]

    return sample(compile_plan(name, facts, guidance), network, lambda number: X, np.float64)


def from_noise_to_data(times: np.ndarray, velocity: Velocity) -> np.ndarray:
    """Return the end of Euler steps over times from 0, which is noise, to 1, along a velocity towards the data."""
    x = X
    for time, later in pairwise(times):
        x = x + (later - time) * velocity(x, time)
    return x


def row_of(start: str) -> str:
    """Return the row of the page that begins so."""
    (row,) = [row for row in ROWS if row.startswith(f"| {start}")]
    return row


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_euler_of_a_flow_is_the_loop_of_the_papers(steps: int) -> None:
    x, dt = X, 1 / steps
    for step in range(steps):
        x = x - dt * toward_noise(x, 1 - step * dt)
    assert np.abs(plan_sample(f"euler:{steps}") - x).max() < 1e-12


def test_another_grid_than_that_of_the_papers_is_far_from_their_loop() -> None:
    assert np.abs(plan_sample("ddim:4") - plan_sample("euler:4")).max() > 0.05


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_euler_keeps_the_shift_that_the_spec_of_a_flow_names(steps: int) -> None:
    """As pipelines of flows do: the sigmas 1, 1 - 1 / N, ..., 1 / N are shifted, and 0 is appended."""
    even = np.linspace(1.0, 1 / steps, steps)
    sigmas = np.append(3 * even / (1 + 2 * even), 0.0)
    x = X
    for sigma, later in pairwise(sigmas):
        x = x + (later - sigma) * toward_noise(x, sigma)
    shifted = DenoiserFacts(FLOW.schedule, "flow", True, grid="flow_shift(shift=3)")
    assert np.abs(plan_sample(f"euler:{steps}", facts=shifted) - x).max() < 1e-12
    assert np.abs(plan_sample(f"euler:{steps}@flow_shift(shift=3)") - x).max() < 1e-12
    assert "`euler:N@flow_shift(shift=3)`" in row_of("diffusers, FLUX.1")


def test_stable_diffusion_3_ends_its_steps_near_the_data() -> None:
    """Its pipeline leaves the times to the scheduler, which shifts sigmas from 1 to 0.001 twice."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    plan = plan_from_scheduler_config(config, steps=10, pipeline="StableDiffusion3Pipeline")
    assert plan.steps[0].time == TRAINED and plan.steps[-1].time == pytest.approx(8.93, abs=0.01)
    assert "`scheduler:N`" in row_of("diffusers, Stable Diffusion 3") and "0.009" in row_of("diffusers, Stable")


def test_matcha_has_even_times() -> None:
    there = from_noise_to_data(np.linspace(0, 1, 11), lambda x, time: -toward_noise(x, 1 - time))
    assert np.abs(plan_sample("euler:10") - there).max() < 1e-12
    assert "`euler:N`" in row_of("Matcha-TTS")


def test_f5_has_sway_sampling_and_adds_its_strength_to_a_weight_of_1() -> None:
    even, strength = np.linspace(0, 1, 33), 2.0

    def predict(x: np.ndarray, time: float) -> np.ndarray:
        predicted, null = (-toward_noise(x, 1 - time, branch) for branch in ("cond", UNCOND))
        return predicted + (predicted - null) * strength

    there = from_noise_to_data(even - (np.cos(np.pi / 2 * even) - 1 + even), predict)
    assert np.abs(plan_sample("euler:32@sway", 1 + strength) - there).max() < 1e-10
    assert "`euler:32@sway`" in row_of("F5-TTS") and "1 + `cfg_strength`" in row_of("F5-TTS")


def test_cosyvoice_has_cosine_times_and_adds_its_rate_to_a_weight_of_1() -> None:
    rate = 0.7

    def predict(x: np.ndarray, time: float) -> np.ndarray:
        predicted, null = (-toward_noise(x, 1 - time, branch) for branch in ("cond", UNCOND))
        return (1 + rate) * predicted - rate * null

    there = from_noise_to_data(1 - np.cos(np.linspace(0, 1, 11) * 0.5 * np.pi), predict)
    assert np.abs(plan_sample("euler:10@sway", 1.7) - there).max() < 1e-12
    assert "`euler:10@sway`" in row_of("CosyVoice") and "1 + `inference_cfg_rate`" in row_of("CosyVoice")


@pytest.mark.parametrize("name", ["openpi", "LeRobot, pi0"])
def test_openpi_and_lerobot_step_down_from_time_1(name: str) -> None:
    x, time, dt = X, 1.0, -1 / 10
    while time >= -dt / 2:
        x, time = x + dt * toward_noise(x, time), time + dt
    assert np.abs(plan_sample("euler:10") - x).max() < 1e-12
    assert "`euler:10`" in row_of(name)


def karras_sigmas(steps: int) -> np.ndarray:
    ramp, low, high = np.linspace(0, 1, steps), 0.002 ** (1 / 7), 80 ** (1 / 7)
    return np.append((high + ramp * (low - high)) ** 7, 0.0)


def test_euler_of_k_diffusion_is_on_the_sigmas_that_it_gets() -> None:
    x = 80 * X
    for sigma, later in pairwise(karras_sigmas(10)):
        x = x + (later - sigma) * (x - denoise(x, sigma)) / sigma
    assert np.abs(plan_sample("euler:10@karras", facts=DENOISER) - x).max() < 1e-10
    assert "`euler:N@karras`" in row_of("k-diffusion")


def test_the_sampler_of_edm_is_heun_on_its_own_sigmas() -> None:
    x = 80 * X
    for sigma, later in pairwise(karras_sigmas(18)):
        slope = (x - denoise(x, sigma)) / sigma
        end = x + (later - sigma) * slope
        if later:
            end = x + (later - sigma) * 0.5 * (slope + (end - denoise(end, later)) / later)
        x = end
    assert np.abs(plan_sample("edm_heun:18@edm", facts=DENOISER) - x).max() < 1e-10
    assert "`edm_heun:18@edm`" in row_of("EDM")
