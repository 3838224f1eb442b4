"""A pipeline of an SCMScheduler, whose times are angles, as Sana Sprint: recorded in the variables of its flow."""

from math import cos, pi, sin
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers import SCMScheduler
from diffusers.utils.torch_utils import randn_tensor

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep
from fewstep.pipelines.recording.trigflow import to_flow
from fewstep.pipelines.source import load_pipeline
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from tests.own_pipeline import CHANNELS, SIDE, OwnNetwork, OwnPipeline

DEVIATION = 0.5  # sigma_data


class Sprint(OwnPipeline):
    """Feeds its network x and the time of a flow, as Sana Sprint does."""

    @torch.no_grad()
    def __call__(
        self, prompt: Any, num_inference_steps: int = 2, generator: Any = None, intermediate_timesteps: Any = 1.3
    ) -> tuple[Tensor]:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        x = DEVIATION * randn_tensor((len(prompts), CHANNELS, SIDE, SIDE), generator=generator)
        label = torch.tensor([[sum(map(ord, each)) % n / n for n in (7, 11, 13, 17)] for each in prompts])
        self.scheduler.set_timesteps(num_inference_steps, intermediate_timesteps=intermediate_timesteps)
        clean = x
        for angle in self.scheduler.timesteps[:-1]:
            sigma = angle.sin() / (angle.cos() + angle.sin())
            c = (sigma**2 + (1 - sigma) ** 2).sqrt()
            u = x / DEVIATION * c
            velocity = self.net(u, sigma.expand(len(x)) * 1000, label)
            made = DEVIATION * ((1 - 2 * sigma) * u + c**2 * velocity) / c
            x, clean = self.scheduler.step(made, angle.expand(len(x)), x, generator=generator, return_dict=False)
        return (clean / DEVIATION,)


def make() -> Sprint:
    torch.manual_seed(0)
    return Sprint(OwnNetwork(), SCMScheduler(sigma_data=DEVIATION))


def test_samples_are_those_of_the_pipeline(caplog: pytest.LogCaptureFixture) -> None:
    source = load_pipeline(make(), "mine", "0", {})
    assert "mine: samples of Sprint agree within" in caplog.text
    assert (source.spec.prediction, source.spec.schedule.kind) == ("flow", "flow")
    assert source.scheduler is not None
    plan = plan_from_scheduler_config(source.scheduler, steps=2)
    sigmas = [step.sigma for step in plan.steps]
    assert sigmas == pytest.approx([1.0, sin(1.3) / (sin(1.3) + cos(1.3))], abs=1e-5)


def test_x_and_velocity_of_a_step_are_those_of_the_flow() -> None:
    angle, x0, noise = pi / 3, 0.75, -0.25
    x = DEVIATION * (cos(angle) * x0 + sin(angle) * noise)
    made = DEVIATION * (cos(angle) * noise - sin(angle) * x0)  # dx / dt
    step = SchedulerStep((), torch.tensor([made]), angle, torch.tensor([x]), torch.tensor([DEVIATION * x0]))
    (found,) = to_flow(CallRecord((step,)), DEVIATION).steps
    sigma = found.time
    assert float(found.sample) == pytest.approx((1 - sigma) * x0 + sigma * noise, abs=1e-6)
    assert float(found.model_output) == pytest.approx(noise - x0, abs=1e-6)
    assert float(found.result) == pytest.approx(x0, abs=1e-6)
