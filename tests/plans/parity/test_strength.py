"""Image-to-image of scheduler configs: the samples of diffusers' loop from a noised image."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewstep.plans.configs.classes import CLASSES
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from tests.plans.parity.counted_draws import SHAPE, START, our_sample, their_sample
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")
LATENT_CONSISTENCY = "diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_img2img"

IMAGE = np.random.default_rng(1).standard_normal(SHAPE)
CONFIGS = {
    "FlowMatchEulerDiscreteScheduler": {"shift": 2.0},
    "DDIMScheduler": {"clip_sample": False},
    "DDIMParallelScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
    "DDPMParallelScheduler": {"clip_sample": False},
    "UniPCMultistepScheduler": {"final_sigmas_type": "sigma_min"},
}


Loop = Callable[[Any, Any], np.ndarray]  # (scheduler, timesteps) -> sample


def by_stable_diffusion(scheduler, steps: int, strength: float, loop: Loop) -> np.ndarray:
    """Like StableDiffusionImg2ImgPipeline.get_timesteps."""
    scheduler.set_timesteps(steps)
    first = max(steps - min(int(steps * strength), steps), 0)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first * scheduler.order)
    return loop(scheduler, scheduler.timesteps[first * scheduler.order :])


def by_latent_consistency(scheduler, steps: int, strength: float, loop: Loop) -> np.ndarray:
    """Like LatentConsistencyModelImg2ImgPipeline, with the arguments that it passes to its own function."""
    latent_consistency = pytest.importorskip(LATENT_CONSISTENCY)  # a second that other processes need not spend
    timesteps, _ = latent_consistency.retrieve_timesteps(scheduler, steps, "cpu", None, strength=strength)
    return loop(scheduler, timesteps)


def compare(
    name: str,
    steps: int,
    strength: float,
    theirs,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any] | None = None,
    **ours: Any,
) -> Plan:
    """Compare our sample with theirs, and the place of each draw."""
    scheduler = getattr(diffusers, name)(**(CONFIGS.get(name, {}) | (changes or {})))

    def loop(scheduler, timesteps) -> np.ndarray:
        image, noise = torch.from_numpy(IMAGE), torch.from_numpy(START)
        start = timesteps[:1].repeat(len(image))
        scales = hasattr(scheduler, "scale_noise")
        x = scheduler.scale_noise(image, start, noise) if scales else scheduler.add_noise(image, noise, start)
        return their_sample(scheduler, x, timesteps, monkeypatch)

    config = {**scheduler.config, "_class_name": name}
    plan = plan_from_scheduler_config(config, steps=steps, strength=strength, **ours)
    made = our_sample(plan, {"image": IMAGE})
    expected = theirs(scheduler, steps, strength, loop)
    assert np.abs(made - expected).max() < 2e-3 * max(1.0, np.abs(expected).max())
    return plan


@pytest.mark.parametrize("strength", [0.3, 0.65, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(name for name, kind in CLASSES.items() if kind.starts_from_images))
def test_samples_are_those_of_the_pipeline_s_loop(name: str, strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = compare(name, 10, strength, by_stable_diffusion, monkeypatch)
    if strength == 0.65 and name in ("DDPMScheduler", "LCMScheduler", "EulerAncestralDiscreteScheduler"):
        assert [step.draws for step in plan.steps] == [(1,), (2,), (3,), (4,), (5,), ()]


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}),
        ("UniPCMultistepScheduler", {"disable_corrector": [0, 1, 8]}),
        ("UniPCMultistepScheduler", {"disable_corrector": [0, 7, 50]}),
    ],
)
def test_ends_and_correctors_are_those_of_the_whole_grid(
    name: str, changes: dict[str, Any], strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(name, 10, strength, by_stable_diffusion, monkeypatch, changes)


@pytest.mark.parametrize("field", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas"])
def test_sigmas_of_sa_solver_that_its_noised_images_lack_are_refused(field: str) -> None:
    """Its `add_noise` reads the table of betas: at strength 0.3, samples of a flow differed by half of the largest."""
    prediction = "flow_prediction" if field == "use_flow_sigmas" else "epsilon"
    config = {"_class_name": "SASolverScheduler", field: True, "prediction_type": prediction}
    assert len(plan_from_scheduler_config(config, steps=10).steps) == 10
    with refuses((f"{field} True", "SASolverScheduler")):
        plan_from_scheduler_config(config, steps=10, strength=0.5)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
def test_all_steps_run_in_the_pipeline_of_latent_consistency(
    name: str, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = "LatentConsistencyModelImg2ImgPipeline"
    plan = compare(name, 4, strength, by_latent_consistency, monkeypatch, pipeline=pipeline)
    assert len(plan.steps) == 4
    if strength == 0.5:
        assert [step.time for step in plan.steps] == [499, 379, 259, 139]
        cut = plan_from_scheduler_config(
            {"_class_name": name}, timesteps=[999, 759, 499, 259], strength=0.5, pipeline=pipeline
        )
        assert [step.time for step in cut.steps] == [499, 259]


@pytest.mark.parametrize("pipeline", ["FluxImg2ImgPipeline", "FluxPipeline", "StableDiffusion3Img2ImgPipeline"])
def test_flux_and_stable_diffusion_3_round_up(pipeline: str) -> None:
    """The timesteps of the pipeline's own get_timesteps, called with each strength of 20ths."""
    theirs = getattr(diffusers, pipeline.replace("FluxPipeline", "FluxImg2ImgPipeline"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    config = {**scheduler.config, "_class_name": "FlowMatchEulerDiscreteScheduler"}
    for steps in (1, 4, 28, 50):
        if "Flux" in pipeline:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
        else:
            scheduler.set_timesteps(steps)
        for strength in np.arange(1, 21) / 20:
            expected, _ = theirs.get_timesteps(SimpleNamespace(scheduler=scheduler), steps, strength, "cpu")
            plan = plan_from_scheduler_config(config, steps=steps, strength=strength, pipeline=pipeline)
            np.testing.assert_allclose([step.time for step in plan.steps], expected, rtol=1e-5)


def test_strengths_that_cannot_be() -> None:
    config = {"_class_name": "DDIMScheduler"}
    for strength in (0, 1.5):
        with pytest.raises(UserError, match="leaves a step"):
            plan_from_scheduler_config(config, steps=10, strength=strength)
    config, pipeline = {"_class_name": "LCMScheduler"}, "LatentConsistencyModelPipeline"
    with refuses("strength 0.1 leaves 5 of them", "give 0.12 or more, or at most 5 steps"):
        plan_from_scheduler_config(config, steps=6, strength=0.1, pipeline=pipeline)
    for strength in (0, 1.5, "half", float("nan")):
        with pytest.raises(UserError, match="leaves a step"):
            plan_from_scheduler_config(config, steps=6, strength=strength, pipeline=pipeline)
    fix = "name a solver, such as --plan dpmpp_2m:20$"
    with pytest.raises(UserError, match=f"PNDMScheduler does not accept a strength, .*; {fix}"):
        plan_from_scheduler_config({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, steps=10, strength=0.5)
