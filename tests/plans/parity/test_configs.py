"""Plans from scheduler configs against the schedulers themselves, over the fields their classes have."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fewstep.plans.configs.classes import CLASSES
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.plan import Plan
from tests.plans.parity.config_parity import NEEDS_TORCHSDE, compare, lacks_scipy
from tests.plans.parity.extract import run_plan

diffusers = pytest.importorskip("diffusers")

EXAMPLES = 15  # of each class

OTHER_SIGMAS = st.sampled_from(
    [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
)
BETAS = st.sampled_from(
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(1e-4, 0.03, 500).tolist(), "num_train_timesteps": 500},
    ]
)
SPACING = st.sampled_from(
    [
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "leading"},
        {"timestep_spacing": "leading", "steps_offset": 1},
        {"timestep_spacing": "trailing"},
    ]
)
FINAL = st.sampled_from([{"final_sigmas_type": "zero"}, {"final_sigmas_type": "sigma_min"}])
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}
THREE = ["epsilon", "sample", "v_prediction"]


def one_of(name, *values):
    return st.sampled_from([{name: value} for value in values])


def fields(*parts, **fixed):
    """Several strategies of fields, merged; later ones win."""

    def merged(drawn):
        return {**fixed, **{key: value for part in drawn for key, value in part.items()}}

    return st.tuples(*parts).map(merged)


K_DIFFUSION = (BETAS, SPACING, OTHER_SIGMAS)
FLOWS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
MULTISTEP = (
    BETAS,
    SPACING,
    one_of("prediction_type", *THREE),
    OTHER_SIGMAS,
    one_of("solver_order", 1, 2, 3),
    one_of("lower_order_final", True, False),
)
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
EDM = (one_of("sigma_schedule", "karras", "exponential"), FINAL, one_of("prediction_type", "epsilon", "v_prediction"))

DDIM = fields(
    BETAS,
    SPACING,
    one_of("prediction_type", *THREE),
    one_of("set_alpha_to_one", True, False),
    st.sampled_from([{}, {"timestep_spacing": "trailing", **ZERO_SNR}]),
    st.sampled_from(
        [{"clip_sample": False}, {"clip_sample_range": 0.7}, {"thresholding": True, "sample_max_value": 0.8}]
    ),
    st.sampled_from([{}, {"arguments": {"eta": 0.6}}]),
)
DDPM = fields(
    BETAS,
    SPACING,
    one_of("prediction_type", *THREE),
    one_of("variance_type", "fixed_small", "fixed_small_log", "fixed_large"),
    st.sampled_from([{"clip_sample": False}, {"clip_sample": True}]),
    st.sampled_from([{}, {"beta_schedule": "sigmoid"}, {"timestep_spacing": "trailing", **ZERO_SNR}]),
)

COGVIDEOX = fields(
    BETAS,
    SPACING,
    one_of("prediction_type", *THREE),
    one_of("snr_shift_scale", 1.0, 3.0),
    one_of("set_alpha_to_one", True, False),
    st.sampled_from([{}, {"timestep_spacing": "trailing", **ZERO_SNR}]),
    clip_sample=False,
)

# What of its fields each class is tried with; arguments of its step are under "arguments"
FIELDS = {
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "PNDMScheduler": fields(
        BETAS,
        one_of("steps_offset", 0, 1),
        one_of("set_alpha_to_one", True, False),
        one_of("skip_prk_steps", True, True, False),
        one_of("prediction_type", "epsilon", "v_prediction"),
    ),
    "IPNDMScheduler": st.just({}),
    "LCMScheduler": fields(
        one_of("prediction_type", *THREE),
        one_of("clip_sample", False, True),
        one_of("original_inference_steps", 50, 40),
        one_of("timestep_scaling", 10.0, 1.0),
        one_of("rescale_betas_zero_snr", False),
    ),
    "TCDScheduler": fields(
        one_of("prediction_type", *THREE), one_of("arguments", {}, {"eta": 0.0}, {"eta": 1.0}, {"eta": 0.55})
    ),
    "EulerDiscreteScheduler": fields(
        *K_DIFFUSION,
        FINAL,
        one_of("prediction_type", *THREE),
        st.sampled_from([{}, ZERO_SNR, {"timestep_type": "continuous", "prediction_type": "v_prediction"}]),
        st.sampled_from([{}, {"sigma_min": 0.05, "sigma_max": 12.0}]),
    ),
    "EulerAncestralDiscreteScheduler": fields(
        BETAS, SPACING, one_of("prediction_type", "epsilon", "v_prediction"), st.sampled_from([{}, ZERO_SNR])
    ),
    "HeunDiscreteScheduler": fields(
        *K_DIFFUSION, one_of("prediction_type", *THREE), one_of("clip_sample", False, False, True)
    ),
    "KDPM2DiscreteScheduler": fields(*K_DIFFUSION, one_of("prediction_type", "epsilon", "v_prediction")),
    "KDPM2AncestralDiscreteScheduler": fields(*K_DIFFUSION, one_of("prediction_type", "epsilon", "v_prediction")),
    "DPMSolverSDEScheduler": fields(*K_DIFFUSION, one_of("prediction_type", "epsilon", "v_prediction")),
    "LMSDiscreteScheduler": fields(
        *K_DIFFUSION, one_of("prediction_type", *THREE), one_of("arguments", {}, {"order": 1}, {"order": 3})
    ),
    "DPMSolverMultistepScheduler": fields(
        *MULTISTEP,
        FINAL,
        one_of("algorithm_type", *ALGORITHMS),
        one_of("solver_type", "midpoint", "heun"),
        one_of("euler_at_final", False, False, True),
        st.sampled_from(
            [
                {},
                {},
                {"use_lu_lambdas": True},
                {"lambda_min_clipped": -3.0},
                {"thresholding": True, "sample_max_value": 0.8},
                ZERO_SNR,
                FLOWS,
            ]
        ),
    ),
    "DPMSolverSinglestepScheduler": fields(
        MULTISTEP[0],
        *MULTISTEP[2:],
        FINAL,
        one_of("algorithm_type", *ALGORITHMS[:3]),
        one_of("solver_type", "midpoint", "heun"),
        st.sampled_from([{}, {}, FLOWS]),
    ),
    "DEISMultistepScheduler": fields(
        *MULTISTEP, st.sampled_from([{}, {}, {"thresholding": True, "sample_max_value": 0.8}, FLOWS])
    ),
    "UniPCMultistepScheduler": fields(
        *MULTISTEP,
        FINAL,
        one_of("solver_order", 1, 2, 3, 4),
        one_of("solver_type", "bh1", "bh2"),
        one_of("predict_x0", True, True, False),
        one_of("disable_corrector", [], [], [0, 2]),
        st.sampled_from([{}, {}, ZERO_SNR, FLOWS, {**FLOWS, "shift_terminal": 0.1}]),
    ),
    "SASolverScheduler": fields(
        *MULTISTEP[:4],
        one_of("predictor_order", 1, 2, 3),
        one_of("corrector_order", 2, 3, 4),
        one_of("lower_order_final", True, False),
        st.sampled_from([{}, {}, {"lambda_min_clipped": -3.0}]),
    ),
    "EDMEulerScheduler": fields(*EDM, one_of("sigma_data", 0.5, 1.0)),
    "EDMDPMSolverMultistepScheduler": fields(
        *EDM,
        one_of("solver_order", 1, 2, 3),
        one_of("algorithm_type", "dpmsolver++", "sde-dpmsolver++"),
        one_of("solver_type", "midpoint", "heun"),
    ),
    "CMStochasticIterativeScheduler": fields(
        one_of("clip_denoised", True, False), one_of("num_train_timesteps", 40, 18), one_of("rho", 7.0, 3.0)
    ),
    "FlowMatchEulerDiscreteScheduler": fields(
        one_of("shift", 1.0, 3.0),
        OTHER_SIGMAS,
        one_of("stochastic_sampling", False, True),
        one_of("shift_terminal", None, 0.1),
        st.sampled_from([{}, {"use_dynamic_shifting": True, "arguments": {"mu": 0.8}}]),
        one_of("time_shift_type", "exponential", "linear"),
    ),
    "FlowMatchHeunDiscreteScheduler": fields(one_of("shift", 1.0, 3.0)),
    "FlowMatchLCMScheduler": fields(one_of("shift", 1.0, 3.0), OTHER_SIGMAS, one_of("shift_terminal", None, 0.1)),
    "LTXEulerAncestralRFScheduler": fields(one_of("eta", 1.0, 0.5, 0.0)),
    "CogVideoXDDIMScheduler": COGVIDEOX,
    "CogVideoXDPMScheduler": COGVIDEOX,
    "CosineDPMSolverMultistepScheduler": fields(
        EDM[0], FINAL, one_of("solver_order", 1, 2), one_of("solver_type", "midpoint", "heun")
    ),
    "DDIMInverseScheduler": fields(
        BETAS,
        st.sampled_from([{"timestep_spacing": "leading", "steps_offset": 1}, {"timestep_spacing": "trailing"}]),
        one_of("prediction_type", "epsilon", "v_prediction"),
        one_of("set_alpha_to_one", True, False),
        st.sampled_from([{"clip_sample": False}, {"clip_sample": True}]),
    ),
    "DPMSolverMultistepInverseScheduler": fields(
        *MULTISTEP[:3],
        *MULTISTEP[4:],
        one_of("algorithm_type", "dpmsolver++", "dpmsolver"),
        one_of("solver_type", "midpoint", "heun"),
        st.sampled_from([{}, {"lambda_min_clipped": -3.0}, {"thresholding": True, "sample_max_value": 0.8}]),
    ),
}


def test_every_class_is_swept():
    assert {*FIELDS, "SCMScheduler"} == set(CLASSES)  # that one: test_extract.py


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELDS)
def test_plans_of_configs_are_what_the_schedulers_do(name):
    if lacks_scipy(name, {}):
        pytest.skip("diffusers needs scipy for it")

    @settings(
        max_examples=2 if name == "IPNDMScheduler" else EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(FIELDS[name], st.sampled_from([3, 4, 5, 6, 9, 10, 16]))
    def sweep(config, steps):
        assume(not lacks_scipy(name, config))
        compare(name, config, steps)

    sweep()


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddim_of_diffusers_takes_x_for_another_time(spacing):
    config = {"_class_name": "DDIMScheduler", "timestep_spacing": spacing, "clip_sample": False}
    assert distance_from_the_marginal(plan_from_scheduler_config(config, steps=7)) > 1e-3
    leading = plan_from_scheduler_config({**config, "timestep_spacing": "leading"}, steps=8)
    assert distance_from_the_marginal(leading) < 1e-6  # but for float32 tables


def distance_from_the_marginal(plan: Plan) -> float:
    """How far network inputs stray from alpha x0 + sigma z, for a network that always says z."""
    x0, z, seen = 0.4, 1.3, []

    def network(u, time):
        seen.append(float(u[0]))
        return np.full(1, z)

    on_it = [step.alpha * x0 + step.sigma * z for step in plan.steps]
    run_plan(plan, network, np.full((80, 1), on_it[0]))  # its start is the first draw
    return float(np.abs(np.array(seen) - on_it).max())


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(NEEDS_TORCHSDE)))
def test_the_file_that_a_scheduler_saves_is_read(name, tmp_path):
    if lacks_scipy(name, {}):
        pytest.skip("diffusers needs scipy for it")
    scheduler = getattr(diffusers, name)()
    scheduler.save_pretrained(tmp_path)
    given = {**scheduler.config, "_class_name": name}
    assert plan_from_scheduler_config(tmp_path, steps=10) == plan_from_scheduler_config(given, steps=10)
