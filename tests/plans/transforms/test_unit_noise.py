"""Plans from unit noise: the published loops of DDPM and DDIM, number for number."""

import math

import numpy as np
import pytest

from fewstep.plans.compile import DenoiserFacts, compile_plan
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.transforms import use_unit_noise
from tests.plans.execute_plan import sample
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising

DIFFWAVE = ScheduleSpec("linear", timesteps=50, beta_start=1e-4, beta_end=0.05)  # sigma_T is 0.85
Z = np.random.default_rng(0).standard_normal((51, 3))


def network(index, step, u):
    return [np.tanh(u + step.time / 50)]


def test_ddpms_loop_begins_with_unit_noise():
    """Algorithm 2 of Ho et al. 2020 over all timesteps, which is also DiffWave's sampling."""
    plan = use_unit_noise(compile_plan("ddpm:50", DenoiserFacts(DIFFWAVE, "epsilon")))
    made = sample(plan, network, lambda draw: Z[draw], np.float64)
    betas = np.linspace(1e-4, 0.05, 50)
    bars = np.cumprod(1 - betas)
    x = Z[0]
    for i, t in enumerate(range(49, -1, -1)):
        x = (x - betas[t] / math.sqrt(1 - bars[t]) * np.tanh(x + t / 50)) / math.sqrt(1 - betas[t])
        if t:
            x = x + math.sqrt((1 - bars[t - 1]) / (1 - bars[t]) * betas[t]) * Z[i + 1]
    assert made == pytest.approx(x, rel=1e-9)


def test_by_name_a_plan_starts_from_sigma_times_noise():
    plan = compile_plan("ddim:8", DenoiserFacts(DIFFWAVE, "epsilon"))
    sigma = math.sqrt(1 - np.prod(1 - np.linspace(1e-4, 0.05, 50)))
    assert plan.steps[0].sigma == pytest.approx(sigma) == pytest.approx(0.85, abs=5e-3)
    same = sample(plan, network, lambda draw: Z[draw] / sigma, np.float64)
    assert sample(use_unit_noise(plan), network, lambda draw: Z[draw], np.float64) == pytest.approx(same, rel=1e-12)
    assert abs(sample(plan, network, lambda draw: Z[draw], np.float64) - same).max() > 0.05


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc_3", "bdia", "edict", "rfpp", "sa_solver", "ddim"])
def test_only_the_start_changes(name):
    plan = compile_plan(f"{name}:6", DenoiserFacts(DIFFWAVE, "epsilon"))
    unit = use_unit_noise(plan)
    assert unit.start == tuple((float(index == 0),) for index in range(plan.rows)) and unit.steps == plan.steps
    assert use_unit_noise(unit) == unit


@pytest.mark.parametrize(
    ("cls", "unit"), [("DDIMScheduler", True), ("DPMSolverMultistepScheduler", True), ("EulerDiscreteScheduler", False)]
)
def test_plans_of_scheduler_configs_start_as_diffusers_has_it(cls, unit):
    plan = plan_from_scheduler_config({"_class_name": cls, "beta_start": 1e-4, "beta_end": 0.002}, steps=4)
    sigma = plan.steps[0].sigma
    assert sigma < 0.81
    assert plan.start[0][0] == pytest.approx(1.0 if unit else sigma, rel=1e-5)


def test_where_unit_noise_is_none_it_is_refused():
    for plan, says in (
        (compile_plan("ddim:4", denoising(COSINE, "v"), strength=0.5), "does not start from noise only"),
        (compile_plan("ddim:4@linspace", DenoiserFacts(ScheduleSpec("ou"), "score", towards="y")), "from noise only"),
        (compile_plan("ddim:4", DenoiserFacts(ScheduleSpec("edm"), "edm")), "sigma 80, too far from unit noise"),
    ):
        with pytest.raises(UserError, match=says):
            use_unit_noise(plan)
    flow = compile_plan("ddim:4", denoising(FLOW, "flow"))
    assert use_unit_noise(flow) == flow  # pure noise: sigma is 1
    assert use_unit_noise(compile_plan("ddim:4", denoising(LINEAR, "epsilon"))).start == ((1.0,),)
