"""Scheduler configs without a plan give one line that names the field, and never another error."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.plans.configs.classes import CLASSES
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.errors import UserError
from tests.refusals import refuses

DYNAMIC = {"use_dynamic_shifting": True}
OPTIONS = {"steps", "arguments", "pipeline", "x_shape", "guidance", "guided"}  # the rest are fields of the config


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("New", {}, "unknown scheduler class 'NewScheduler'.*DDIMScheduler"),
        ("DDIM", {"_class_name": None}, "unknown scheduler class None"),
        ("CosineDPMSolverMultistep", {"prediction_type": "epsilon"}, "other sign; set v_prediction"),
        ("CosineDPMSolverMultistep", {"sigma_data": 0.5}, "standard deviation 1; set 1"),
        ("CosineDPMSolverMultistep", {"solver_order": 3}, "does not have this order; set 2"),
        ("CogVideoXDDIM", {"snr_shift_scale": 0.0}, "is divided by it; give 0.001"),
        ("DDIMInverse", {"prediction_type": "sample"}, "do not determine the noise; set epsilon"),
        ("DDIMInverse", {"timestep_spacing": "linspace"}, "does not support this value; set leading"),
        ("DPMSolverMultistepInverse", {"use_karras_sigmas": True}, "may drop steps"),
        ("DPMSolverMultistepInverse", {"lambda_min_clipped": 4.4}, "two steps are at one"),
        ("DPMSolverMultistepInverse", {"algorithm_type": "sde-dpmsolver++"}, "does not support this value"),
        ("FlowMatchLCM", {"scale_factors": [0.5, 1.0]}, "samples keep their size; leave it"),
        ("LTXEulerAncestralRF", {"s_noise": 0.5}, "noise of standard deviation 1; leave it out"),
        ("SCM", {"sigma_data": 0.0}, "it is a standard deviation; give a number above 0"),
        ("DDIM", {"beta_schedule": "laplace"}, "beta_schedule 'laplace' of DDIMScheduler is not one of linear"),
        ("DDIM", {"beta_start": "0.1"}, "beta_start '0.1' of DDIMScheduler is not a number"),
        ("DDIM", {"clip_sample": "no"}, "clip_sample 'no' of DDIMScheduler is not true or false"),
        ("DDIM", {"num_train_timesteps": 1e3}, "num_train_timesteps 1000.0 of DDIMScheduler is not an integer"),
        ("DDIM", {"trained_betas": [0.1, "x"]}, "trained_betas .* is not a list of numbers"),
        ("DDIM", {"trained_betas": [0.1, 1.5]}, "betas has values outside"),
        (
            "DDIM",
            {"prediction_type": "flow_prediction"},
            "a velocity needs the schedule of a flow; set use_flow_sigmas",
        ),
        (
            "DDIM",
            {"steps_offset": 1, "steps": 1000},
            "timesteps 1 .. 1000 are beyond the table of 1000; use fewer steps",
        ),
        ("DDIM", {"steps_offset": -1, "steps": 4}, "timesteps -1 .. 749 are beyond the table"),
        ("DDIM", {"steps": 0}, "0 steps are out of range; use 1 to 10000"),
        ("DDIM", {"steps": 1001}, "1001 steps do not fit 1000 timesteps"),
        ("DDIM", {"arguments": {"mu": 1.0}}, "DDIMScheduler has no argument 'mu'; give one of eta"),
        ("DDIM", {"arguments": {"eta": 2.0}}, "eta"),
        ("DDIM", {"arguments": {"eta": "a"}}, "argument 'eta' is 'a', not a finite number; give eta a number"),
        ("DDIM", {"arguments": {"eta": True}}, "argument 'eta' is True, not a finite number"),
        ("DDIM", {"arguments": {"eta": float("nan")}}, "argument 'eta' is nan, not a finite number"),
        ("DDIM", {"arguments": 3}, "arguments 3 is not a mapping"),
        ("DDIM", {"steps": "5"}, "steps='5' is not an integer"),
        ("LMSDiscrete", {"arguments": {"order": 2.5}}, "LMSDiscreteScheduler has no order=2.5"),
        ("UniPCMultistep", {"disable_corrector": [-1]}, "a list of steps, counted from 0"),
        ("FlowMatchEulerDiscrete", DYNAMIC | {"arguments": {"tokens": 10**400}}, "argument 'tokens' is 1000"),
        ("FlowMatchEulerDiscrete", DYNAMIC | {"arguments": {"tokens": -5}}, "tokens=-5 is not a number of tokens"),
        ("FlowMatchEulerDiscrete", DYNAMIC | {"pipeline": "FluxPipeline", "x_shape": (16,)}, r"x_shape \(16,\)"),
        ("DDIM", {"pipeline": "MyPipeline"}, "unknown pipeline 'MyPipeline'"),
        (
            "DDIM",
            {"pipeline": "FluxInpaintPipeline"},
            "FluxInpaintPipeline passes sigmas, which a plan of DDIMScheduler does not accept; name a solver",
        ),
        ("DDIM", {"guidance": 2.0, "guided": False}, "needs an unconditional branch"),
        (
            "DDIM",
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            "epsilon .* x0 at time 999",
        ),
        ("DDPM", {"variance_type": "learned"}, "of the network's output, which may be negative; set fixed_small"),
        ("DDPM", {"variance_type": "fixed_large_log"}, "of a logarithm; set fixed_small"),
        ("PNDM", {"timestep_spacing": "trailing"}, "set leading, or use the plan pndm:N"),
        ("PNDM", {"steps": 3}, "3 steps .*, or are fewer than 4"),
        ("PNDM", {"steps": 8}, "8 steps have no whole timesteps halfway"),
        ("LCM", {"steps": 51}, "original_inference_steps 50 of LCMScheduler: 51 of them"),
        ("UniPCMultistep", {"disable_corrector": ["x"]}, "it must be a list of steps"),
        ("DEISMultistep", {"solver_order": 7}, "solver_order 7 .* set 1 to 3"),
        ("SASolver", {"algorithm_type": "noise_prediction"}, "set data_prediction"),
        ("CMStochasticIterative", {"s_noise": 1.1}, "noise of standard deviation 1"),
        ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "noise would increase"),
        ("FlowMatchEulerDiscrete", DYNAMIC, "it needs mu, or the image"),
        (
            "EulerDiscrete",
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            "use_beta_sigmas True of EulerDiscreteScheduler: it excludes use_karras_sigmas",
        ),
        ("DDIM", {"_use_default_values": 3}, "_use_default_values 3 is not a list"),
        ("DPMSolverMultistep", {"use_flow_sigmas": True, "use_lu_lambdas": True}, "mixes two schedules"),
        *(
            (
                name,
                {"beta_start": 1e-9, "beta_end": 1e-8, "rescale_betas_zero_snr": True, "steps": 2},
                "linear: its betas add no noise in float32",
            )
            for name in ("DDIM", "DPMSolverMultistep", "EulerDiscrete")
        ),
        ("FlowMatchHeunDiscrete", {"shift": 1e-9}, "shift 1e-09 .*: the shift 1e-09 is out of range"),
        ("FlowMatchEulerDiscrete", {"num_train_timesteps": 0}, "timesteps 0 is not in 1"),
        ("FlowMatchEulerDiscrete", DYNAMIC | {"arguments": {"mu": 1e9}}, "the shift 1.01.* is out of range"),
        (
            "FlowMatchEulerDiscrete",
            DYNAMIC | {"max_image_seq_len": 256, "arguments": {"tokens": 256}},
            "it equals base_image_seq_len",
        ),
        (
            "DPMSolverMultistep",
            {
                "use_flow_sigmas": True,
                "use_dynamic_shifting": True,
                "prediction_type": "flow_prediction",
                "arguments": {"mu": 1e9},
            },
            "use_dynamic_shifting True .*: the shift .* is out of range",
        ),
        ("DPMSolverMultistep", {"arguments": {"mu": 1.0}}, "use_dynamic_shifting False .*: mu "),
        (
            "DEISMultistep",
            DYNAMIC | {"time_shift_type": "linear", "arguments": {"mu": 1.0}},
            "time_shift_type 'linear' .*: the class shifts by e.mu; set exponential",
        ),
        ("UniPCMultistep", DYNAMIC, "it needs mu; give arguments"),
        ("FlowMatchEulerDiscrete", {"shift_terminal": 2.0}, "shift_terminal 2.0"),
        ("EDMEuler", {"rho": 1e-9}, "rho 1e-09 .* give a number in 0.01 .. 100"),
        ("EDMEuler", {"rho": 0.02, "sigma_min": 1e-6}, "rho 0.02 .* 80 and 1e-06 to the"),
        ("EDMEuler", {"rho": 0.01, "sigma_max": 1e6, "steps": 1}, "rho 0.01 .* 1e.06 and 0.002"),
        ("CMStochasticIterative", {"rho": 0.01, "sigma_max": 1e6}, "rho 0.01 .* are not finite"),
        ("CosineDPMSolverMultistep", {"sigma_min": 0}, "sigma_min, sigma_max 0, 500 are"),
        ("CosineDPMSolverMultistep", {"sigma_max": 1e300}, "sigma_max 0.3, 1e.300 are"),
        ("DDIM", {"beta_start": 10**400}, "beta_start 1000.* is not a number"),
        ("DDIM", {"trained_betas": [10**400]}, "trained_betas .* is not a list of numbers"),
        ("DDIM", {"thresholding": True, "sample_max_value": 0.0}, "sample_max_value 0.0 .*: x0 is divided by it"),
        ("KDPM2Discrete", {"prediction_type": "sample"}, "the class does not support this value"),
        ("EDMEuler", {"sigma_min": 100.0}, "sigma_min, sigma_max 100, 80 are"),
    ],
)
def test_what_no_plan_can_do_is_one_line_that_names_it(name, asked, message):
    options = {key: value for key, value in asked.items() if key in OPTIONS}
    config = {"_class_name": f"{name}Scheduler", **{key: asked[key] for key in asked.keys() - OPTIONS}}
    with pytest.raises(UserError, match=message):
        plan_from_scheduler_config(config, **{"steps": 5, **options})


def test_a_long_list_is_quoted_in_part():
    config = {"_class_name": "IPNDMScheduler", "trained_betas": [0.01] * 1000}
    with pytest.raises(UserError, match=r"trained_betas \[0.01, .*leave them out") as refused:
        plan_from_scheduler_config(config, steps=5)
    assert len(str(refused.value)) < 300


def test_what_is_no_config_is_refused_by_its_path(tmp_path):
    with pytest.raises(UserError, match="there is no .*scheduler_config.json"):
        plan_from_scheduler_config(tmp_path, steps=4)
    for value in (3, None, ["a"]):
        with refuses("scheduler config", "scheduler_config.json"):
            plan_from_scheduler_config(value, steps=4)
    (tmp_path / "scheduler_config.json").write_bytes(b"[1, 2")
    with pytest.raises(UserError, match="scheduler_config.json is not a scheduler config"):
        plan_from_scheduler_config(tmp_path, steps=4)


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.floats(), max_size=2)
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(CLASSES)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.dictionaries(st.sampled_from(sorted(CLASSES[name].defaults)), VALUES, max_size=3)
        )
    ),
    st.integers(-1, 12),
)
def test_no_config_fails_otherwise_than_by_a_user_error(config, steps):
    name, fields = config
    try:
        plan = plan_from_scheduler_config({"_class_name": name, **fields}, steps=steps)
    except UserError:
        return
    assert plan.steps
