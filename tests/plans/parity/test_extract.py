"""The extraction itself, on samplers with known tables, and SCMScheduler in the loop of its pipeline."""

import numpy as np
import pytest

from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from tests.plans.parity.sampler_tables import (
    DRAWS,
    ROW_TOLERANCE,
    _basis,
    _noise,
    _unroll,
    assert_same_rows,
    assert_same_trajectory,
    extract,
    torch,
    unroll,
)

diffusers = pytest.importorskip("diffusers")


def test_ddim_in_one_step_is_its_formula():
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    rows = extract(scheduler, 1)
    bar = float(scheduler.alphas_cumprod[999])
    assert rows.times == [999]
    assert rows.inputs == pytest.approx(np.array([[1.0, 0.0]]))
    assert rows.sample == pytest.approx(np.array([1, -np.sqrt(1 - bar)]) / np.sqrt(bar), rel=1e-6)


def test_only_draws_that_are_used_have_a_column():
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    assert extract(scheduler, 3).sample.shape == (1 + 3,)
    assert extract(scheduler, 3, eta=1.0).sample.shape == (1 + 3 + 2,)


def test_a_wrong_solver_is_found_out():
    config = {"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "trailing"}
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing")
    plan = plan_from_scheduler_config({**config, "solver_order": 3}, steps=7)
    with pytest.raises(AssertionError, match="row"):
        assert_same_rows(unroll(plan), extract(scheduler, 7), ROW_TOLERANCE)
    with pytest.raises(AssertionError):
        assert_same_trajectory(plan, scheduler, 7)


@pytest.mark.parametrize("deviation", [0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 9])
def test_samples_are_those_of_the_pipeline(steps: int, deviation: float) -> None:
    scheduler = diffusers.SCMScheduler(sigma_data=deviation)
    scheduler.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    scheduler.set_begin_index(0)
    x, times, inputs = _column(_basis(0)) * deviation, [], []
    with _noise(scheduler, lambda j: _basis(-DRAWS + j)):
        for angle in scheduler.timesteps[:-1].double():
            time = torch.sin(angle) / (torch.cos(angle) + torch.sin(angle))
            seen = x / deviation * torch.sqrt(time**2 + (1 - time) ** 2)
            times.append(float(time))
            inputs.append(seen.numpy().ravel())
            velocity = (1 - 2 * time) * seen + (1 - 2 * time + 2 * time**2) * _column(_basis(len(inputs)))
            velocity = velocity / torch.sqrt(time**2 + (1 - time) ** 2) * deviation
            x, denoised = scheduler.step(velocity, angle, x, return_dict=False)
    plan = plan_from_scheduler_config({**scheduler.config, "_class_name": "SCMScheduler"}, steps=steps)
    assert_same_rows(unroll(plan), _unroll(times, inputs, (denoised / deviation).numpy().ravel()))


def _column(row: np.ndarray) -> "torch.Tensor":
    return torch.from_numpy(row)[None, :, None, None]
