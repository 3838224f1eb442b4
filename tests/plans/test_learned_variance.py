"""Noise of a variance that the network predicts, as DDPMScheduler scales it."""

from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.continuation.staircase import staircase
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Branches, Cfg
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec, Stairs
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer
from fewstep.plans.transforms.repeat import repeat_plan
from fewstep.report.drawing.plan_view import extract_recurrence, step_equations
from tests.plans.execute_plan import sample
from tests.refusals import refuses

IF: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "variance_type": "learned_range",
    "beta_schedule": "squaredcos_cap_v2",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}
SHAPE = (2, 3, 4, 4)


def predict(x: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a prediction and a variance, which is between -1 and 1."""
    return np.tanh(x) + time / 1000, np.sin(3 * x)


def draws(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=SHAPE)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_samples_are_those_of_the_scheduler(spacing: str) -> None:
    """With the spacing trailing, it adds noise in the last step too."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    config = {**IF, "timestep_spacing": spacing}
    scheduler = diffusers.DDPMScheduler.from_config(config)
    scheduler.set_timesteps(6)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    x, number = draws(0), 0
    patched = pytest.MonkeyPatch()
    with patched.context() as change:
        for time in scheduler.timesteps.tolist():
            number += 1
            module = diffusers.schedulers.scheduling_ddpm
            change.setattr(module, "randn_tensor", lambda *_, n=number, **__: torch.from_numpy(draws(n)))
            output = np.concatenate(predict(x, time), axis=1)
            x = scheduler.step(torch.from_numpy(output), time, torch.from_numpy(x)).prev_sample.numpy()
    plan = plan_from_scheduler_config(config, steps=6)
    found = sample(plan, lambda _, step, u: [*predict(u, step.time)], draws, np.float64)
    assert bool(plan.steps[-1].draws) == (spacing == "trailing")
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)


def test_the_variance_is_that_of_the_conditional_branch() -> None:
    plans = [
        plan_from_scheduler_config(IF, steps=4, guidance=form)
        for form in (Cfg(3.0), Branches({"uncond": -2.0, "cond": 3.0}))
    ]
    cond, uncond = predict(draws(7), 1), predict(draws(8), 1)
    of = {"cond": [*cond], "uncond": [*uncond]}
    found = [
        sample(plan, lambda _, step, u: [each for name in step.branches for each in of[name]], draws, np.float64)
        for plan in plans
    ]
    changed = [*uncond[:1], -uncond[1]]
    other = sample(
        plans[0],
        lambda _, step, u: [each for name in step.branches for each in (changed if name == "uncond" else of[name])],
        draws,
        np.float64,
    )
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    np.testing.assert_array_equal(other, found[0])


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_from_scheduler_config(IF, steps=3)


def test_a_plan_file_has_the_variance(plan: Plan) -> None:
    assert decode(encode(plan)) == plan


def test_a_plan_with_a_fixed_variance_is_written_as_before() -> None:
    assert b"log_scale" not in encode(plan_from_scheduler_config({**IF, "variance_type": "fixed_small"}, steps=3))


def test_a_damaged_variance_is_refused(plan: Plan) -> None:
    first, *others = plan.steps
    short, idle = (msgspec.structs.replace(first, **changes) for changes in ({"log_scale": (1.0,)}, {"draws": ()}))
    with refuses("plan is damaged: steps[0].log_scale is not 1 x 3", ""):
        decode(encode(msgspec.structs.replace(plan, steps=(short, *others))))
    with refuses("plan is damaged: steps[0] scales noise that it does not draw", ""):
        decode(encode(msgspec.structs.replace(plan, steps=(idle, *others))))


def test_the_equations_of_a_step_show_the_variance(plan: Plan) -> None:
    assert any(line.startswith("z1 = z1 exp(") and "cond.1" in line for line in step_equations(plan, 0))


def test_a_repeated_run_starts_with_noise_of_variance_1(plan: Plan) -> None:
    repeated = repeat_plan(plan, 2)
    assert [bool(step.log_scale) for step in repeated.steps] == [True, True, False] * 2


def test_a_rolling_plan_and_a_plot_are_refused() -> None:
    plan = plan_from_scheduler_config({**IF, "thresholding": False, "clip_sample": False}, steps=3)
    steps = plan.steps[:2]  # the last one has no noise
    with refuses("has shaping, a learned variance or tensor coefficients", "--show"):
        extract_recurrence(plan)
    with refuses("draws noise of a learned variance"):
        staircase(msgspec.structs.replace(plan, steps=steps), Stairs(-2, 4, 1), NoiseSchedule(ScheduleSpec("cosine")))


def one_step(trace: Tracer, times: Any) -> Lin:
    x, x0 = trace.denoise(trace.start(), times[0])
    return x0 + trace.noise_of_learned_variance(0.01, 0.1)


def test_a_denoiser_with_one_output_has_no_variance() -> None:
    schedule = ScheduleSpec("cosine")
    times = [NoiseSchedule(schedule).noisiest, Time(0.0, 1.0, 0.0)]
    with pytest.raises(UserError, match="needs a learned variance, and the denoiser has one output"):
        trace_plan("test:1", one_step, times, DenoiserFacts(schedule, "v"))
    trace_plan("test:1", one_step, times, DenoiserFacts(schedule, "v", heads=2))
