"""Image-to-image of scheduler configs: the samples of diffusers' loop from a noised image."""

import sys

import numpy as np
import pytest

from fewstep.plans.configs import plan_from_scheduler_config
from fewstep.plans.configs.diffusers import FROM_IMAGES
from fewstep.plans.errors import UserError
from tests.plans.execution import sample

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

SHAPE = (2, 1, 4, 4)
IMAGE, NOISE = np.random.default_rng(0).standard_normal((2, *SHAPE))
CONFIGS = {
    "FlowMatchEulerDiscreteScheduler": {"shift": 2.0},
    "DDIMScheduler": {"clip_sample": False},
    "DDIMParallelScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
    "DDPMParallelScheduler": {"clip_sample": False},
    "UniPCMultistepScheduler": {"final_sigmas_type": "sigma_min"},
}


def network(u, time):
    return np.tanh(u) + time / 3000


def by_their_loop(scheduler, steps: int, strength: float) -> np.ndarray:
    """As StableDiffusionImg2ImgPipeline.get_timesteps and its loop."""
    scheduler.set_timesteps(steps)
    first = max(steps - min(int(steps * strength), steps), 0)
    timesteps = scheduler.timesteps[first * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first * scheduler.order)
    image, noise = torch.from_numpy(IMAGE), torch.from_numpy(NOISE)
    start = timesteps[:1].repeat(len(image))
    x = scheduler.scale_noise(image, start, noise) if hasattr(scheduler, "scale_noise") else None
    x = scheduler.add_noise(image, noise, start) if x is None else x
    for t in timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(torch.from_numpy(network(seen.numpy(), float(t))), t, x).prev_sample
    return x.numpy()


@pytest.mark.parametrize("strength", [0.3, 0.65, 1.0])
@pytest.mark.parametrize("name", FROM_IMAGES)
def test_samples_are_those_of_the_pipeline_s_loop(name: str, strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All noise is one array: each draw comes where theirs does."""
    scheduler = getattr(diffusers, name)(**CONFIGS.get(name, {}))
    module = sys.modules[type(scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(NOISE))
    config = {**scheduler.config, "_class_name": name}
    plan = plan_from_scheduler_config(config, steps=10, strength=strength)
    made = sample(plan, lambda i, step, u: [network(u, step.time)], lambda number: NOISE, np.float64, {"image": IMAGE})
    expected = by_their_loop(scheduler, 10, strength)
    assert np.abs(made - expected).max() < 2e-3 * max(1.0, np.abs(expected).max())


def test_strengths_that_cannot_be() -> None:
    config = {"_class_name": "DDIMScheduler"}
    for strength in (0, 0.05, 1.5):
        with pytest.raises(UserError, match="leaves a step"):
            plan_from_scheduler_config(config, steps=10, strength=strength)
    with pytest.raises(UserError, match="strength with PNDMScheduler"):
        plan_from_scheduler_config({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, steps=10, strength=0.5)
