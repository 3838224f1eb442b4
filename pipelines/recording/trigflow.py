"""Recordings of an SCMScheduler in the variables of the flow that its network is trained on, as in Sana Sprint.

x at an angle t is sigma_data (cos t + sin t) times the x of a flow at sigma = sin t / (cos t + sin t). From the
velocity o of that flow, which the network returns, a pipeline computes what it passes to the scheduler:

    sigma_data ((1 - 2 sigma) x + c^2 o) / c, where c^2 = sigma^2 + (1 - sigma)^2

(Chen et al. 2025, arXiv 2503.09641, section 3.1).
"""

from collections.abc import Mapping
from dataclasses import replace
from math import cos, sin, sqrt
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep

CLASS = "SCMScheduler"
ANGLE = 1.5708  # of the first step in plans
OF_TIMES = {"max_timesteps": ANGLE, "intermediate_timesteps": None}  # arguments that a plan's times imply


def is_trigflow(scheduler: Any) -> bool:
    """Return True for a scheduler whose times are angles. The last of its times is 0, where no step is computed."""
    return type(scheduler).__name__ == CLASS


def to_flow(record: CallRecord, sigma_data: float) -> CallRecord:
    """Return the recording with x, times and outputs of the flow."""
    angles = [*(step.time for step in record.steps[1:]), 0.0]
    steps = tuple(_to_flow(step, angle, sigma_data) for step, angle in zip(record.steps, angles, strict=True))
    return replace(record, steps=steps, times=_drop_implied(record.times))


def _to_flow(step: SchedulerStep, following: float, sigma_data: float) -> SchedulerStep:
    angle = step.time
    sigma = sin(angle) / (cos(angle) + sin(angle))
    x = _scale(step.sample, angle, sigma_data)
    c = sqrt(sigma**2 + (1 - sigma) ** 2)
    velocity = (c / sigma_data * step.model_output.double() - (1 - 2 * sigma) * x.double()) / c**2
    return replace(
        step,
        model_output=velocity.float(),
        time=sigma,
        sample=x,
        result=_scale(step.result, following, sigma_data),
    )


def _scale(x: Tensor, angle: float, sigma_data: float) -> Tensor:
    return (x.double() / (sigma_data * (cos(angle) + sin(angle)))).to(torch.float32)


def _drop_implied(times: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the pipeline passes to its scheduler, without the values that plans use anyway."""
    return {name: value for name, value in times.items() if name not in OF_TIMES or value != OF_TIMES[name]}
