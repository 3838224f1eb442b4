"""Plans from scheduler configs, compared with the schedulers themselves, over the fields of their classes."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fewstep.plans.configs.classes import CLASSES
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.plan import Plan
from tests.plans.parity.config_parity import NEEDS_TORCHSDE, compare, lacks_scipy
from tests.plans.parity.sampler_tables import run_plan

diffusers = pytest.importorskip("diffusers")

EXAMPLES = 15  # of each class


def some(*configs):
    return st.sampled_from(configs)


def fields(*parts, **choices):
    """Return random values of some fields, and of groups of fields, of which later ones win."""
    chosen = st.fixed_dictionaries({name: some(*values) for name, values in choices.items()})
    return st.tuples(chosen, *parts).map(lambda drawn: {key: value for part in drawn for key, value in part.items()})


OTHER_SIGMAS = some({}, *({f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta")))
BETAS = some(
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": np.linspace(1e-4, 0.03, 500).tolist(), "num_train_timesteps": 500},
)
LEADING, TRAILING = {"timestep_spacing": "leading", "steps_offset": 1}, {"timestep_spacing": "trailing"}
SPACING = some({"timestep_spacing": "linspace"}, {"timestep_spacing": "leading"}, LEADING, TRAILING)
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}
ZERO_SNR_TRAILING, THRESHOLD = {**TRAILING, **ZERO_SNR}, {"thresholding": True, "sample_max_value": 0.8}
FLOWS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
BOTH, TWO, THREE = (True, False), ("epsilon", "v_prediction"), ("epsilon", "sample", "v_prediction")
FINAL, TYPES = ("zero", "sigma_min"), ("midpoint", "heun")
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
K_DIFFUSION = (BETAS, SPACING, OTHER_SIGMAS)
MULTISTEP = {"prediction_type": THREE, "solver_order": (1, 2, 3), "lower_order_final": BOTH}
EDM = {"sigma_schedule": ("karras", "exponential"), "final_sigmas_type": FINAL, "prediction_type": TWO}

CLIPS = some({"clip_sample": False}, {"clip_sample_range": 0.7}, THRESHOLD)
ETAS = some({}, {"arguments": {"eta": 0.6}})
DDIM = fields(*(BETAS, SPACING, some({}, ZERO_SNR_TRAILING), CLIPS, ETAS), prediction_type=THREE, set_alpha_to_one=BOTH)
DDPM = fields(
    *(BETAS, SPACING, some({}, {"beta_schedule": "sigmoid"}, ZERO_SNR_TRAILING)),
    prediction_type=THREE,
    variance_type=("fixed_small", "fixed_small_log", "fixed_large"),
    clip_sample=BOTH,
)
SNR = {"snr_shift_scale": (1.0, 3.0), "set_alpha_to_one": BOTH, "clip_sample": (False,)}
COGVIDEOX = fields(BETAS, SPACING, some({}, ZERO_SNR_TRAILING), prediction_type=THREE, **SNR)
KDPM2 = fields(*K_DIFFUSION, prediction_type=TWO)

# What of its fields each class is tried with; arguments of its step are under "arguments"
FIELDS = {
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "PNDMScheduler": fields(
        BETAS, steps_offset=(0, 1), set_alpha_to_one=BOTH, skip_prk_steps=(True, True, False), prediction_type=TWO
    ),
    "IPNDMScheduler": st.just({}),
    "LCMScheduler": fields(
        prediction_type=THREE,
        clip_sample=BOTH,
        original_inference_steps=(50, 40),
        timestep_scaling=(10.0, 1.0),
        rescale_betas_zero_snr=(False,),
    ),
    "TCDScheduler": fields(prediction_type=THREE, arguments=({}, {"eta": 0.0}, {"eta": 1.0}, {"eta": 0.55})),
    "EulerDiscreteScheduler": fields(
        *K_DIFFUSION,
        some({}, ZERO_SNR, {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
        some({}, {"sigma_min": 0.05, "sigma_max": 12.0}),
        **{"final_sigmas_type": FINAL, "prediction_type": THREE},
    ),
    "EulerAncestralDiscreteScheduler": fields(BETAS, SPACING, some({}, ZERO_SNR), prediction_type=TWO),
    "HeunDiscreteScheduler": fields(*K_DIFFUSION, prediction_type=THREE, clip_sample=(False, False, True)),
    "KDPM2DiscreteScheduler": KDPM2,
    "KDPM2AncestralDiscreteScheduler": KDPM2,
    "DPMSolverSDEScheduler": KDPM2,
    "LMSDiscreteScheduler": fields(*K_DIFFUSION, prediction_type=THREE, arguments=({}, {"order": 1}, {"order": 3})),
    "DPMSolverMultistepScheduler": fields(
        *K_DIFFUSION,
        some({}, {}, {"use_lu_lambdas": True}, {"lambda_min_clipped": -3.0}, THRESHOLD, ZERO_SNR, FLOWS),
        **{**MULTISTEP, "final_sigmas_type": FINAL, "solver_type": TYPES},
        algorithm_type=ALGORITHMS,
        euler_at_final=(False, False, True),
    ),
    "DPMSolverSinglestepScheduler": fields(
        *(BETAS, OTHER_SIGMAS, some({}, {}, FLOWS)),
        **{**MULTISTEP, "final_sigmas_type": FINAL, "solver_type": TYPES},
        algorithm_type=ALGORITHMS[:3],
    ),
    "DEISMultistepScheduler": fields(*K_DIFFUSION, some({}, {}, THRESHOLD, FLOWS), **MULTISTEP),
    "UniPCMultistepScheduler": fields(
        *(*K_DIFFUSION, some({}, {}, ZERO_SNR, FLOWS, {**FLOWS, "shift_terminal": 0.1})),
        **{**MULTISTEP, "final_sigmas_type": FINAL, "solver_order": (1, 2, 3, 4), "solver_type": ("bh1", "bh2")},
        predict_x0=(True, True, False),
        disable_corrector=([], [], [0, 2]),
    ),
    "SASolverScheduler": fields(
        *(*K_DIFFUSION, some({}, {}, {"lambda_min_clipped": -3.0})),
        **{"prediction_type": THREE, "predictor_order": (1, 2, 3), "corrector_order": (2, 3, 4)},
        lower_order_final=BOTH,
    ),
    "EDMEulerScheduler": fields(**EDM, sigma_data=(0.5, 1.0)),
    "EDMDPMSolverMultistepScheduler": fields(
        **EDM, solver_order=(1, 2, 3), algorithm_type=ALGORITHMS[:2], solver_type=TYPES
    ),
    "CMStochasticIterativeScheduler": fields(clip_denoised=BOTH, num_train_timesteps=(40, 18), rho=(7.0, 3.0)),
    "FlowMatchEulerDiscreteScheduler": fields(
        *(OTHER_SIGMAS, some({}, {"use_dynamic_shifting": True, "arguments": {"mu": 0.8}})),
        **{"shift": (1.0, 3.0), "stochastic_sampling": BOTH, "shift_terminal": (None, 0.1)},
        time_shift_type=("exponential", "linear"),
    ),
    "FlowMatchHeunDiscreteScheduler": fields(shift=(1.0, 3.0)),
    "FlowMatchLCMScheduler": fields(OTHER_SIGMAS, shift=(1.0, 3.0), shift_terminal=(None, 0.1)),
    "LTXEulerAncestralRFScheduler": fields(
        OTHER_SIGMAS, eta=(1.0, 0.5, 0.0), shift=(1.0, 3.0), shift_terminal=(None, 0.1)
    ),
    "CogVideoXDDIMScheduler": COGVIDEOX,
    "CogVideoXDPMScheduler": COGVIDEOX,
    "CosineDPMSolverMultistepScheduler": fields(
        sigma_schedule=EDM["sigma_schedule"], final_sigmas_type=FINAL, solver_order=(1, 2), solver_type=TYPES
    ),
    "DDIMInverseScheduler": fields(
        *(BETAS, some(LEADING, TRAILING)), prediction_type=TWO, set_alpha_to_one=BOTH, clip_sample=BOTH
    ),
    "DPMSolverMultistepInverseScheduler": fields(
        *(BETAS, SPACING, some({}, {"lambda_min_clipped": -3.0}, THRESHOLD)),
        **MULTISTEP,
        algorithm_type=("dpmsolver++", "dpmsolver"),
        solver_type=TYPES,
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
    @given(FIELDS[name], some(3, 4, 5, 6, 9, 10, 16))
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
    """Return the distance of network inputs from alpha x0 + sigma z, for a network that always returns z."""
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
