"""Scheduler configs that no plan can be made of: one line that names the field, and never another error."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.plans.configs.classes import CLASSES
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.errors import UserError

DYNAMIC = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"_class_name": "NewScheduler"}, {}, "unknown scheduler class 'NewScheduler'.*DDIMScheduler"),
        ({"_class_name": None}, {}, "unknown scheduler class None"),
        (
            {"_class_name": "CosineDPMSolverMultistepScheduler", "prediction_type": "epsilon"},
            {},
            "other sign; set v_prediction",
        ),
        ({"_class_name": "CosineDPMSolverMultistepScheduler", "sigma_data": 0.5}, {}, "data of deviation 1; set 1"),
        ({"_class_name": "CosineDPMSolverMultistepScheduler", "solver_order": 3}, {}, "no such step; set 2"),
        ({"_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": 0.0}, {}, "is divided by it; give 0.001"),
        (
            {"_class_name": "DDIMInverseScheduler", "prediction_type": "sample"},
            {},
            "say nothing of the noise; set epsilon",
        ),
        ({"_class_name": "DDIMInverseScheduler", "timestep_spacing": "linspace"}, {}, "does not have it; set leading"),
        (
            {"_class_name": "DPMSolverMultistepInverseScheduler", "use_karras_sigmas": True},
            {},
            "may leave steps out there",
        ),
        ({"_class_name": "DPMSolverMultistepInverseScheduler", "lambda_min_clipped": 4.4}, {}, "two steps are at one"),
        (
            {"_class_name": "DPMSolverMultistepInverseScheduler", "algorithm_type": "sde-dpmsolver++"},
            {},
            "does not have it",
        ),
        (
            {"_class_name": "FlowMatchLCMScheduler", "scale_factors": [0.5, 1.0]},
            {},
            "samples keep their size; leave it",
        ),
        ({"_class_name": "LTXEulerAncestralRFScheduler", "s_noise": 0.5}, {}, "noise of deviation 1; leave it out"),
        ({"_class_name": "SCMScheduler", "sigma_data": 0.0}, {}, "it is a deviation; give a number above 0"),
        ({"beta_schedule": "laplace"}, {}, "beta_schedule 'laplace' of DDIMScheduler is not one of linear"),
        ({"beta_start": "0.1"}, {}, "beta_start '0.1' of DDIMScheduler is not a number"),
        ({"clip_sample": "no"}, {}, "clip_sample 'no' of DDIMScheduler is not true or false"),
        ({"num_train_timesteps": 1e3}, {}, "num_train_timesteps 1000.0 of DDIMScheduler is not a whole number"),
        ({"trained_betas": [0.1, "x"]}, {}, "trained_betas .* is not a list of numbers"),
        ({"trained_betas": [0.1, 1.5]}, {}, "betas are not all in"),
        ({"prediction_type": "flow_prediction"}, {}, "a velocity on a schedule that is no flow; set use_flow_sigmas"),
        ({"steps_offset": 1}, {"steps": 1000}, "timesteps 1 .. 1000 are beyond the table of 1000; ask for fewer steps"),
        ({"steps_offset": -1}, {"steps": 4}, "timesteps -1 .. 749 are beyond the table"),
        ({}, {"steps": 0}, "0 steps make no sample; ask for 1 .. 10000"),
        ({}, {"steps": 1001}, "1001 steps of 1000 timesteps"),
        ({}, {"arguments": {"mu": 1.0}}, "DDIMScheduler has no argument 'mu'; it takes eta"),
        ({}, {"arguments": {"eta": 2.0}}, "eta"),
        ({}, {"arguments": {"eta": "a"}}, "argument 'eta' is 'a', not a finite number; give eta a number"),
        ({}, {"arguments": {"eta": True}}, "argument 'eta' is True, not a finite number"),
        ({}, {"arguments": {"eta": float("nan")}}, "argument 'eta' is nan, not a finite number"),
        ({}, {"arguments": 3}, "arguments 3 are no names and numbers"),
        ({}, {"steps": "5"}, "steps='5' is no whole number"),
        ({"_class_name": "LMSDiscreteScheduler"}, {"arguments": {"order": 2.5}}, "order=2.5 of LMSDiscreteScheduler"),
        ({"_class_name": "UniPCMultistepScheduler", "disable_corrector": [-1]}, {}, "a list of steps, counted from 0"),
        (DYNAMIC, {"arguments": {"tokens": 10**400}}, "argument 'tokens' is 1000"),
        (DYNAMIC, {"arguments": {"tokens": -5}}, "tokens=-5 is no number of tokens"),
        (DYNAMIC, {"pipeline": "FluxPipeline", "x_shape": (16,)}, r"x_shape \(16,\)"),
        ({}, {"pipeline": "MyPipeline"}, "unknown pipeline 'MyPipeline'"),
        ({}, {"guidance": 2.0, "guided": False}, "without an unconditional form"),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {}, "epsilon .* nothing of x0 at time 999"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, {}, "the network's; set fixed_small"),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"}, {}, "of a logarithm; set fixed_small"),
        ({"_class_name": "PNDMScheduler", "timestep_spacing": "trailing"}, {}, "set leading, or use the plan pndm:N"),
        ({"_class_name": "PNDMScheduler"}, {"steps": 3}, "3 steps .*, or are fewer than 4"),
        ({"_class_name": "PNDMScheduler"}, {"steps": 8}, "8 steps have no whole timesteps halfway"),
        ({"_class_name": "LCMScheduler"}, {"steps": 51}, "original_inference_steps 50 of LCMScheduler: 51 of them"),
        ({"_class_name": "UniPCMultistepScheduler", "disable_corrector": ["x"]}, {}, "it is a list of steps"),
        ({"_class_name": "DEISMultistepScheduler", "solver_order": 7}, {}, "solver_order 7 .* set 1 .. 3"),
        ({"_class_name": "SASolverScheduler", "algorithm_type": "noise_prediction"}, {}, "set data_prediction"),
        ({"_class_name": "CMStochasticIterativeScheduler", "s_noise": 1.1}, {}, "noise of deviation 1"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, {}, "x would gain noise"),
        (DYNAMIC, {}, "it needs mu, or the image"),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True},
            {},
            "use_beta_sigmas True of EulerDiscreteScheduler: it excludes use_karras_sigmas",
        ),
        ({"_class_name": "DDIMScheduler", "_use_default_values": 3}, {}, "_use_default_values 3 is not a list"),
        *(
            (
                {"_class_name": name, "beta_start": 1e-9, "beta_end": 1e-8, "rescale_betas_zero_snr": True},
                {"steps": 2},
                "linear: its betas add no noise in float32",
            )
            for name in ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
        ),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 1e-9}, {}, "shift 1e-09 .*: a shift by 1e-09"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 0}, {}, "timesteps 0 is not in 1"),
        (DYNAMIC, {"arguments": {"mu": 1e9}}, "a shift by 1.01"),
        (DYNAMIC | {"max_image_seq_len": 256}, {"arguments": {"tokens": 256}}, "the same as base_image_seq_len"),
        (
            {
                "_class_name": "DPMSolverMultistepScheduler",
                "use_flow_sigmas": True,
                "use_dynamic_shifting": True,
                "prediction_type": "flow_prediction",
            },
            {"arguments": {"mu": 1e9}},
            "use_dynamic_shifting True .*: a shift by",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler"},
            {"arguments": {"mu": 1.0}},
            "use_dynamic_shifting False .*: mu ",
        ),
        (
            {"_class_name": "DEISMultistepScheduler", "use_dynamic_shifting": True, "time_shift_type": "linear"},
            {"arguments": {"mu": 1.0}},
            "time_shift_type 'linear' .*: the class shifts by e.mu; set exponential",
        ),
        ({"_class_name": "UniPCMultistepScheduler", "use_dynamic_shifting": True}, {}, "it needs mu; give arguments"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 2.0}, {}, "shift_terminal 2.0"),
        ({"_class_name": "EDMEulerScheduler", "rho": 1e-9}, {}, "rho 1e-09 .* give a number in 0.01 .. 100"),
        ({"_class_name": "EDMEulerScheduler", "rho": 0.02, "sigma_min": 1e-6}, {}, "rho 0.02 .* 80 and 1e-06 to the"),
        (
            {"_class_name": "EDMEulerScheduler", "rho": 0.01, "sigma_max": 1e6},
            {"steps": 1},
            "rho 0.01 .* 1e.06 and 0.002",
        ),
        (
            {"_class_name": "CMStochasticIterativeScheduler", "rho": 0.01, "sigma_max": 1e6},
            {},
            "rho 0.01 .* are no num",
        ),
        ({"_class_name": "CosineDPMSolverMultistepScheduler", "sigma_min": 0}, {}, "sigma_min, sigma_max 0, 500 are"),
        ({"_class_name": "CosineDPMSolverMultistepScheduler", "sigma_max": 1e300}, {}, "sigma_max 0.3, 1e.300 are"),
        ({"beta_start": 10**400}, {}, "beta_start 1000.* is not a number"),
        ({"trained_betas": [10**400]}, {}, "trained_betas .* is not a list of numbers"),
        ({"thresholding": True, "sample_max_value": 0.0}, {}, "sample_max_value 0.0 .*: x0 is divided by it"),
        ({"_class_name": "KDPM2DiscreteScheduler", "prediction_type": "sample"}, {}, "the class does not have it"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 100.0}, {}, "sigma_min, sigma_max 100, 80 are"),
    ],
)
def test_what_no_plan_can_do_is_one_line_that_names_it(change, options, message):
    with pytest.raises(UserError, match=message):
        plan_from_scheduler_config({"_class_name": "DDIMScheduler", **change}, **{"steps": 5, **options})


def test_what_is_no_config_is_refused_by_its_path(tmp_path):
    with pytest.raises(UserError, match="there is no .*scheduler_config.json"):
        plan_from_scheduler_config(tmp_path, steps=4)
    for value in (3, None, ["a"]):
        with pytest.raises(UserError, match="a scheduler config cannot be .*; give a scheduler_config.json, "):
            plan_from_scheduler_config(value, steps=4)
    (tmp_path / "scheduler_config.json").write_bytes(b"[1, 2")
    with pytest.raises(UserError, match="scheduler_config.json is no scheduler config"):
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
