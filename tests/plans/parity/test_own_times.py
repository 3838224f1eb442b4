"""User-supplied times, `timesteps=` and `sigmas=` of set_timesteps: the samples of diffusers' own loop."""

from itertools import pairwise

import numpy as np
import pytest

from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.errors import UserError
from tests.plans.parity.counted_draws import START, our_sample, their_sample

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

TIMESTEPS = [999, 850, 600, 480, 200, 40]
CASES = [
    ("DPMSolverMultistepScheduler", {}, {"timesteps": TIMESTEPS}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "beta_schedule": "scaled_linear"}, {"timesteps": TIMESTEPS}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {"timesteps": TIMESTEPS}),
    ("EulerDiscreteScheduler", {}, {"timesteps": TIMESTEPS}),
    ("HeunDiscreteScheduler", {}, {"timesteps": TIMESTEPS}),
    ("DDPMScheduler", {"clip_sample": False}, {"timesteps": TIMESTEPS}),
    ("LCMScheduler", {}, {"timesteps": TIMESTEPS}),
    ("TCDScheduler", {}, {"timesteps": TIMESTEPS}),
    ("TCDScheduler", {}, {"timesteps": np.array(TIMESTEPS)}),
    ("EulerDiscreteScheduler", {}, {"sigmas": [120.0, 30.0, 8.0, 2.0, 0.5, 0.0]}),
    (
        "EulerDiscreteScheduler",
        {"timestep_type": "continuous", "prediction_type": "v_prediction"},
        {"sigmas": [10.0, 1.0, 0.0]},
    ),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {"sigmas": [1.0, 0.7, 0.5, 0.2]}),
]


@pytest.mark.parametrize(("name", "config", "own"), CASES, ids=lambda each: str(each)[:40])
def test_samples_are_those_of_the_scheduler(
    name: str, config: dict, own: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each draw is a different array, used in the same place as theirs."""
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(**own)
    start = torch.from_numpy(START) * getattr(scheduler, "init_noise_sigma", 1.0)
    expected = their_sample(scheduler, start, scheduler.timesteps, monkeypatch)
    plan = plan_from_scheduler_config({**scheduler.config, "_class_name": name}, **own)
    made = our_sample(plan)
    assert np.abs(made - expected).max() < 2e-3 * max(1.0, np.abs(made).max())
    assert all(s.time >= t.time for s, t in pairwise(plan.steps))


@pytest.mark.parametrize(
    ("name", "own", "line"),
    [
        (
            "DDIMScheduler",
            {"timesteps": [900, 1]},
            "does not accept timesteps; give steps, or use DDPMScheduler, DPMSolver",
        ),
        ("EulerDiscreteScheduler", {"timesteps": [900, 1], "steps": 2}, "give one of them"),
        ("EulerDiscreteScheduler", {"timesteps": [1, 900]}, "from noisy to clean"),
        ("LCMScheduler", {"timesteps": [900.5, 1]}, "are not integers"),
        ("TCDScheduler", {"timesteps": [2000, 1]}, "beyond the table of 1000"),
        ("TCDScheduler", {"timesteps": [1e30, 5]}, r"timestep 1e\+30 is beyond the table of 1000; give .* 999 to 0"),
        ("EulerDiscreteScheduler", {"timesteps": [2000, 1]}, "timestep 2000 is beyond the table of 1000"),
        ("LCMScheduler", {"timesteps": [5, -1]}, "from noisy to clean"),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"sigmas": [1.5, 0.5]},
            "sigma 1.5 of a flow is above 1; give sigmas from 1 to 0",
        ),
        ("EulerDiscreteScheduler", {"timesteps": [999, "a"]}, r"timesteps \[999, 'a'\] is not a list of numbers"),
        ("EulerDiscreteScheduler", {"timesteps": [999, None]}, r"timesteps \[999, None\] is not a list of numbers"),
        ("EulerDiscreteScheduler", {"timesteps": 5}, "timesteps 5 is not a list of numbers; give decreasing numbers"),
        ("EulerDiscreteScheduler", {"timesteps": [float("nan")]}, "from noisy to clean"),
        ("EulerDiscreteScheduler", {"timesteps": []}, "from noisy to clean"),
        ("EulerDiscreteScheduler", {}, "steps=None is not an integer"),
    ],
)
def test_times_that_cannot_be(name: str, own: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        plan_from_scheduler_config({"_class_name": name}, **own)


@pytest.mark.parametrize(
    ("name", "config", "line"),
    [
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas .*: it excludes timesteps"),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "use_lu_lambdas .*: it excludes timesteps"),
        (
            "DPMSolverMultistepScheduler",
            {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
            "use_flow_sigmas .*: it excludes timesteps",
        ),
        (
            "EulerDiscreteScheduler",
            {"timestep_type": "continuous", "prediction_type": "v_prediction"},
            r"the network's times are log\(sigma\) / 4; give sigmas",
        ),
    ],
)
def test_configs_that_exclude_timesteps_of_a_caller(name: str, config: dict, line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        getattr(diffusers, name)(**config).set_timesteps(timesteps=TIMESTEPS)
    with pytest.raises(UserError, match=line):
        plan_from_scheduler_config({"_class_name": name, **config}, timesteps=TIMESTEPS)
