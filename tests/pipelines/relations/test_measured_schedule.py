"""Noise schedules and predictions of unknown schedulers, measured at any time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.pipelines.relations.measured_schedule import find_noise_schedule, measure_schedule
from fewstep.plans.configs.recorded import RecordedStep, RecordedSteps
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from tests.refusals import refuses

TIMES = (1.0, 0.6, 0.2)


class Cosine:
    """A cosine schedule of times in [0, 1], whose ends are clipped."""

    config = {"num_train_timesteps": 1000}
    timesteps = torch.tensor(TIMES)

    def level(self, time: Tensor) -> Tensor:
        return torch.cos(time * torch.pi / 2).square().clamp(1e-4, 0.9999)

    def add_noise(self, sample: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        bar = self.level(times)[:, None]
        return bar.sqrt() * sample + (1 - bar).sqrt() * noise


def levels(time: float) -> tuple[float, float]:
    bar = float(Cosine().level(torch.tensor(time, dtype=torch.float64)))
    return bar**0.5, (1 - bar) ** 0.5


def posterior_steps() -> RecordedSteps:
    """Ancestral steps of a network that predicts the noise, to the clipped end of the schedule."""
    steps = []
    for number, (s, t) in enumerate(zip(TIMES, (*TIMES[1:], 0.0), strict=True)):
        (alpha, sigma), (after, sigma_after) = levels(s), levels(t)
        kept = alpha / after
        x0 = after * (1 - kept**2) / sigma**2
        of_x = kept * sigma_after**2 / sigma**2 + x0 / alpha
        steps.append(RecordedStep(s, of_x, (-x0 * sigma / alpha,), ((number, 0.1),) if t else ()))
    return RecordedSteps(1.0, tuple(steps))


def test_a_schedule_of_any_time_is_a_table() -> None:
    spec = find_noise_schedule(Cosine(), TIMES)
    point = NoiseSchedule(spec).time(0.37)
    assert spec.kind == "table" and (point.alpha, point.sigma) == pytest.approx(levels(0.37), abs=1e-4)


def test_steps_of_the_posterior_show_the_prediction() -> None:
    assert measure_schedule(Cosine(), posterior_steps())[1] == "epsilon"


def test_steps_of_no_known_form_are_refused() -> None:
    found = posterior_steps()
    other = RecordedSteps(1.0, tuple(RecordedStep(step.time, 0.5, (0.3,), step.noise) for step in found.steps))
    with refuses(("Cosine", "predicts")):
        measure_schedule(Cosine(), other)


def test_a_scheduler_without_add_noise_is_refused() -> None:
    with pytest.raises(UserError, match="SimpleNamespace has no scale_noise or add_noise"):
        find_noise_schedule(SimpleNamespace(config={}), np.array(TIMES).tolist())
