"""Reading scheduler configs: rules of resolution, and errors of a file. parity/test_configs.py compares the numbers
with diffusers' own.
"""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from fewstep.plans import paths
from fewstep.plans.compile import compile_plan
from fewstep.plans.configs import tables
from fewstep.plans.configs.classes import schedule_from_scheduler_config
from fewstep.plans.configs.config import encode_config
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.pipelines import UNHELD_START
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Clip, Threshold
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.refusals import refuses

SD = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def times(config, steps, **options):
    return [step.time for step in plan_from_scheduler_config(config, steps=steps, **options).steps]


@pytest.mark.parametrize(
    ("config", "spec", "prediction"),
    [
        (SD, ScheduleSpec("scaled-linear", beta_start=0.00085, beta_end=0.012), "epsilon"),
        ({"_class_name": "DDIMScheduler"}, ScheduleSpec("linear"), "epsilon"),
        (
            {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
            ScheduleSpec("cosine"),
            "v",
        ),
        (
            {"_class_name": "DDPMScheduler", "trained_betas": [0.1, 0.2]},
            ScheduleSpec("betas", 2, betas=(0.1, 0.2)),
            "epsilon",
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, ScheduleSpec("flow"), "flow"),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_min": 0.01},
            ScheduleSpec("edm", sigma_min=0.01, sigma_max=80.0),
            "edm",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
            ScheduleSpec("flow"),
            "flow",
        ),
    ],
)
def test_a_config_says_what_a_denoiser_was_trained_on(config, spec, prediction):
    found, predicts = schedule_from_scheduler_config(config)
    assert (found, predicts) == (spec, prediction)
    assert NoiseSchedule(found).fingerprint == NoiseSchedule(spec).fingerprint


def test_the_classes_default_spacings_differ():
    assert times({"_class_name": "DDIMScheduler"}, 4) == [750, 500, 250, 0]
    assert times({"_class_name": "DPMSolverMultistepScheduler"}, 4) == [999, 749, 500, 250]
    assert times({"_class_name": "EulerDiscreteScheduler"}, 4) == [999, 666, 333, 0]
    assert times({"_class_name": "LCMScheduler"}, 4) == [999, 759, 499, 259]
    spread = {"timestep_spacing": "trailing"}
    assert times({"_class_name": "DDIMScheduler", **spread}, 4) == [999, 749, 499, 249]


def test_fields_saved_as_defaults_of_another_class_count_as_absent():
    """A pipeline's Euler scheduler saved its own default; DDIM's differs."""
    config = {
        "_class_name": "DDIMScheduler",
        "timestep_spacing": "linspace",
        "_use_default_values": ["timestep_spacing"],
        "interpolation_type": "linear",
    }
    assert times(config, 4) == [750, 500, 250, 0]
    assert times({**config, "_use_default_values": []}, 4) == [999, 666, 333, 0]


def test_a_pipeline_changes_fields_saved_as_defaults_of_another_class():
    config = {"_class_name": "DDIMScheduler", "steps_offset": 1, "_use_default_values": ["steps_offset"]}
    assert times(config, 4) == [750, 500, 250, 0]
    for listed in (["steps_offset"], ("steps_offset",)):
        config["_use_default_values"] = listed
        assert times(config, 4, pipeline="StableDiffusionPipeline") == [751, 501, 251, 1]


def test_a_pipelines_silent_changes_are_an_argument():
    old = {"_class_name": "DDIMScheduler"}
    assert times(old, 4, pipeline="StableDiffusionPipeline") == [751, 501, 251, 1]
    assert plan_from_scheduler_config(old, steps=4).steps[0].shaping == Clip(-1.0, 1.0)
    assert plan_from_scheduler_config(old, steps=4, pipeline="StableDiffusionPipeline").steps[0].shaping is None


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


def test_flux_gives_its_scheduler_even_sigmas_which_are_shifted_once():
    found = times(FLOW, 4, pipeline="FluxPipeline")
    np.testing.assert_allclose(found, [1000 * 3 * s / (1 + 2 * s) for s in (1, 0.75, 0.5, 0.25)])
    assert times(FLOW, 4, pipeline="StableDiffusion3Pipeline") == times(FLOW, 4)


@pytest.mark.parametrize("pipeline", ["FluxPipeline", "StableDiffusion3Pipeline"])
def test_a_dynamic_shift_follows_from_the_shape_of_x(pipeline):
    """mu is 0.5 for 256 tokens and 1.15 for 4096; a token is a square of 2 by 2."""
    config = {**FLOW, "use_dynamic_shifting": True}
    for side, mu in ((32, 0.5), (128, 1.15)):
        found = times(config, 4, pipeline=pipeline, x_shape=(16, side, side))
        assert found == times(config, 4, pipeline=pipeline, arguments={"mu": mu})
    shifted = [1000 / (1 + math.exp(-1.15) * (1 / s - 1)) for s in (1, 0.75, 0.5, 0.25)]
    if pipeline == "FluxPipeline":
        np.testing.assert_allclose(found, shifted)
    with pytest.raises(UserError, match="it needs mu, or the image's tokens"):
        times(config, 4, pipeline=pipeline)


def test_thresholding_goes_before_clipping():
    config = {"_class_name": "DDPMScheduler", "thresholding": True, "sample_max_value": 1.5}
    assert plan_from_scheduler_config(config, steps=2).steps[0].shaping == Threshold(0.995, 1.5)


def test_a_threshold_below_one_is_a_clip_of_what_it_divides():
    """clip(x0, -m, m) / m, where the shaping reads x0 / m: fused graphs have clips."""
    config = {"_class_name": "DDIMScheduler", "thresholding": True, "prediction_type": "sample"}
    one, half = (plan_from_scheduler_config({**config, "sample_max_value": m}, steps=2).steps[0] for m in (1.0, 0.5))
    assert one.shaping == half.shaping == Clip(-1.0, 1.0)
    assert (one.shaping_of, half.shaping_of) == (((0.0, 1.0),), ((0.0, 2.0),))


def test_a_file_its_folder_and_its_pipeline_are_read_alike(tmp_path):
    folder = tmp_path / "scheduler"
    folder.mkdir()
    (folder / "scheduler_config.json").write_text(json.dumps(SD))
    plans = [plan_from_scheduler_config(path, steps=6) for path in (tmp_path, folder, folder / "scheduler_config.json")]
    assert plans[0] == plans[1] == plans[2] == plan_from_scheduler_config(SD, steps=6)
    assert plans[0].name == "PNDMScheduler:6"


def test_a_file_may_hold_the_infinity_that_diffusers_writes(tmp_path):
    written = '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": %s}'
    (tmp_path / "scheduler_config.json").write_text(written % "-Infinity")
    plan = plan_from_scheduler_config(tmp_path, steps=4)
    assert plan == plan_from_scheduler_config({"_class_name": "DPMSolverMultistepScheduler"}, steps=4)
    (tmp_path / "scheduler_config.json").write_text(written % "NaN")
    with refuses(("lambda_min_clipped 'NaN'", "DPMSolverMultistepScheduler")):
        plan_from_scheduler_config(tmp_path, steps=4)


def test_the_infinity_of_a_scheduler_in_memory_is_written_as_text():
    fields = {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -math.inf, "own": {"bound": math.inf}}
    written = json.loads(encode_config(fields))
    assert (written["lambda_min_clipped"], written["own"]) == ("-Infinity", {"bound": "Infinity"})
    assert plan_from_scheduler_config(written, steps=4) == plan_from_scheduler_config(fields, steps=4)


def test_null_is_infinity_where_that_is_the_default():
    fields = {"_class_name": "DPMSolverMultistepScheduler"}
    plan = plan_from_scheduler_config({**fields, "lambda_min_clipped": None}, steps=4)
    assert plan == plan_from_scheduler_config(fields, steps=4)


def test_guidance_makes_a_guided_plan():
    plan = plan_from_scheduler_config(SD, steps=6, guidance=7.5)
    assert plan.steps[0].branches == ("cond", "uncond")


def test_a_plan_is_for_the_schedule_of_its_config():
    spec, prediction = schedule_from_scheduler_config(SD)
    plan = plan_from_scheduler_config(SD, steps=6)
    assert (
        plan.schedule
        == NoiseSchedule(spec).fingerprint
        == compile_plan("ddim:6", DenoiserFacts(spec, prediction)).schedule
    )


def test_only_a_rescaled_table_ends_a_little_before_pure_noise():
    """The cosine's own terminal alpha_bar, 2.4e-9, is less than the 2^-24 that a rescaled one gets."""
    config = {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "squaredcos_cap_v2"}
    assert times({**config, "use_karras_sigmas": True}, 5) == [998, 998, 997, 937, 0]
    for rescaled, last in ((False, 20291), (True, 4096)):
        rhos = tables.rhos(ScheduleSpec("cosine", zero_terminal_snr=rescaled))
        assert rhos[-1] == pytest.approx(last, rel=1e-4)
        assert rhos[-2] < 1000


def test_steps_that_a_run_does_not_have_need_no_corrector_either():
    """A file lists them for any number of steps. The last step has no corrector."""
    unipc = {"_class_name": "UniPCMultistepScheduler"}
    listed, all_of_them = (
        plan_from_scheduler_config({**unipc, "disable_corrector": given}, steps=5)
        for given in ([0, 1, 2, 3, 4, 9], [0, 1, 2, 3])
    )
    assert listed == all_of_them != plan_from_scheduler_config(unipc, steps=5)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler"])
def test_a_network_that_predicts_its_variance_has_two_outputs(name):
    config = {"_class_name": name, "variance_type": "learned_range"}
    assert {step.heads for step in plan_from_scheduler_config(config, steps=5).steps} == {2}


@pytest.mark.parametrize("shift", [0.08, 0.2, 0.42, 0.46])
def test_flows_that_are_shifted_towards_data_start_at_pure_noise(shift):
    for name in ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"):
        plan = plan_from_scheduler_config({"_class_name": name, "shift": shift}, steps=4)
        assert (plan.steps[0].alpha, plan.steps[0].sigma) == (0.0, 1.0)


def test_flows_are_shifted_twice_by_diffusers():
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert times(config, 4) == pytest.approx([1000, 857.7, 602.2, 8.9], abs=0.05)


def test_dynamic_shift_follows_from_the_images_tokens():
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    assert times(config, 4, arguments={"tokens": 4096}) == times(config, 4, arguments={"mu": 1.15})


def test_float32_tables_are_close_to_exact_ones():
    for kind in ("linear", "scaled-linear", "cosine", "sigmoid"):
        for zero in (False, True):
            spec = ScheduleSpec(kind, zero_terminal_snr=zero)
            exact = 1 / (1 + np.exp(-2 * paths.table(spec)))
            assert np.abs(tables.alpha_bars(spec) - exact).max() < 2e-6


def test_betas_of_an_exponential_alpha_bar_are_equal():
    spec, _ = schedule_from_scheduler_config({"_class_name": "HeunDiscreteScheduler", "beta_schedule": "exp"})
    bars = 1 / (1 + np.exp(-2 * paths.table(spec)))
    assert bars == pytest.approx(np.exp(-12 * np.arange(1, 1001) / 1000), rel=1e-9)


def test_an_exponential_alpha_bar_of_another_class_is_refused():
    with pytest.raises(UserError, match="only HeunDiscreteScheduler has it"):
        schedule_from_scheduler_config({"_class_name": "DDIMScheduler", "beta_schedule": "exp"})


def test_reading_a_config_imports_neither_torch_nor_diffusers():
    code = (
        "import sys; from fewstep.plans.configs.diffusers import plan_from_scheduler_config as f; "
        "f({'_class_name': 'DPMSolverMultistepScheduler', 'use_beta_sigmas': True}, steps=5); "
        "print([m for m in ('torch', 'diffusers', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_scheduler_that_a_pipeline_makes_has_the_fields_of_the_stored_one():
    config = {"_class_name": "DDPMScheduler", "timestep_spacing": "trailing", "clip_sample": False}
    plan = plan_from_scheduler_config(config, steps=4, pipeline="DDIMPipeline")
    assert [step.time for step in plan.steps] == [999, 749, 499, 249]
    assert not any(step.draws for step in plan.steps)


def test_the_eta_of_a_recorded_pipeline_is_that_of_its_plans():
    """TCD's own eta is 0.3; with 0 there is no noise. Classes without noise accept a recorded 0."""
    config = {"_class_name": "TCDScheduler", "beta_schedule": "scaled_linear"}
    rules = {"even": False, "mu": None}
    own, without = (
        plan_from_scheduler_config({**config, "_recorded": each}, steps=4) for each in (rules, {**rules, "eta": 0.0})
    )
    assert [bool(step.draws) for step in own.steps] == [True, True, True, False]
    assert not any(step.draws for step in without.steps)
    euler = {"_class_name": "EulerDiscreteScheduler", "_recorded": {**rules, "eta": 0.0}}
    assert len(plan_from_scheduler_config(euler, steps=4).steps) == 4


def test_the_norm_that_a_pipeline_keeps_and_the_scheduler_s_clip_are_refused_together() -> None:
    config = {"_class_name": "DDIMScheduler", "clip_sample": True, "_recorded": {"even": False, "norm_axis": -1}}
    with pytest.raises(UserError, match=r"norm of the conditional output along axis -1, then clipped to \[-1, 1\]"):
        plan_from_scheduler_config(config, steps=2, guidance=3.0)


def test_the_first_step_of_inpainting_is_unheld_from_noise_only() -> None:
    """At a strength the run starts from the image, which has the known part."""
    config = {"_class_name": "EulerDiscreteScheduler", UNHELD_START: True}
    plan = plan_from_scheduler_config(config, steps=3)
    assert [step.unheld for step in plan.steps] == [True, False, False]
    assert decode(encode(plan)) == plan and encode(plan).count(b"unheld") == 1
    assert not any(step.unheld for step in plan_from_scheduler_config(config, steps=3, strength=1.0).steps)
    assert not any(step.unheld for step in plan_from_scheduler_config({**config, UNHELD_START: False}, steps=3).steps)


@pytest.mark.parametrize("pipeline", ["DDPMPipeline", "DiTPipeline", "SanaPipeline"])
def test_a_pipeline_that_begins_with_unit_noise_takes_no_scheduler_that_needs_more(pipeline: str) -> None:
    """Its own call would be far off: it neither begins with the largest sigma, nor, in part, scales x."""
    config = {"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 1000}
    with refuses((pipeline, "noise of deviation 1", "EulerDiscreteScheduler"), "dpmpp_2m:20"):
        times(config, 4, pipeline=pipeline)
    assert len(times(config, 4, pipeline="StableDiffusionPipeline")) == 4
    assert len(times({**config, "_class_name": "DDIMScheduler"}, 4, pipeline=pipeline)) == 4
