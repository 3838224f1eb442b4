"""The plans that `choose` compares have the guidance and the shaping of the calibrated plan. Fits and files have their
own shaping."""

import json
from dataclasses import replace
from pathlib import Path

from fewstep.plans.any_plan import shaping_of
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import encode
from fewstep.plans.names.plan_name import with_grid
from fewstep.plans.names.plan_reference import with_steps
from fewstep.plans.shaping import Clip
from fewstep.report.choosing.choose import open_judging
from fewstep.report.choosing.deployment_plans import STEPS, compile_plans, describe_noise
from fewstep.report.choosing.options import ChooseOptions
from fewstep.runtime.sampling.request import denoiser_facts
from tests.bundles import change_bundle
from tests.refusals import refuses
from tests.runtime.sampling.test_fitted_plans import give


def test_named_plans_have_the_shaping_of_the_calibrated_one_and_a_file_its_own(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    judging = open_judging(ChooseOptions(tiny_bundle, seeds=2, threads=1))
    file = tmp_path / "own.json"
    facts, guidance = denoiser_facts(judging.bundle.manifest), judging.plan.guidance
    file.write_bytes(encode(compile_plan("ddim:2", facts, guidance)))
    clipped = replace(judging, plan=compile_plan("ddim:4", facts, guidance, Clip(-1.0, 1.0)))
    plans = compile_plans(clipped, "float32", ("ddim:2", str(file)))
    assert [shaping_of(plan) for plan in plans.values()] == [Clip(-1.0, 1.0), None]
    assert plans["ddim:2"].guidance == guidance


def test_a_fitted_plan_is_compared_without_the_clip_of_the_calibration(tiny_bundle: Path) -> None:
    fitted = give(tiny_bundle)  # at guidance 2
    judging = open_judging(ChooseOptions(tiny_bundle, seeds=2, threads=1))
    facts = denoiser_facts(judging.bundle.manifest)
    clipped = replace(judging, plan=compile_plan("ddim:4", facts, 2.0, Clip(-1.0, 1.0)))
    assert compile_plans(clipped, "float32", ("fitted:3",)) == {"fitted:3": fitted}


def test_a_plan_that_draws_noise_is_refused_where_distances_decide(tiny_bundle: Path) -> None:
    judging = open_judging(ChooseOptions(tiny_bundle, seeds=2, threads=1))
    with refuses("ddpm:4 draws noise in its steps", "a --judge"):
        compile_plans(judging, "float32", ("ddim:2", "ddpm:4"))


def test_a_student_keeps_its_plan_that_draws_noise(tiny_bundle: Path) -> None:
    student = replace(open_judging(ChooseOptions(tiny_bundle, seeds=2, threads=1)), teacher=None)
    assert list(compile_plans(student, "float32", ("lcm:4",))) == ["lcm:4"]


def test_default_plans_draw_no_noise_where_the_calibrated_one_does(tiny_bundle: Path) -> None:
    judging = open_judging(ChooseOptions(tiny_bundle, seeds=2, threads=1))
    noisy = compile_plan("ddpm:8", denoiser_facts(judging.bundle.manifest), None, Clip(-1.0, 1.0))
    plans = compile_plans(replace(judging, plan=noisy), "float32", ())
    assert list(plans) == [f"dpmpp_2m:{count}@trailing" for count in STEPS]
    assert {shaping_of(plan) for plan in plans.values()} == {Clip(-1.0, 1.0)}


def add_scheduler(bundle: Path, name: str) -> None:
    config = {"_class_name": name, "num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
    config |= {"prediction_type": "v_prediction", "clip_sample": False}
    change_bundle(bundle, {"scheduler.json": json.dumps(config).encode()}, scheduler="scheduler.json")


def test_the_models_own_scheduler_is_among_the_default_plans(tiny_bundle: Path) -> None:
    add_scheduler(tiny_bundle, "DDIMScheduler")
    judging = open_judging(ChooseOptions(tiny_bundle, seeds=2, threads=1))
    plans = compile_plans(judging, "float32", ())
    solver = with_grid(judging.plan.name)
    assert list(plans) == [
        *(with_steps(solver, count) for count in STEPS),
        *(f"scheduler:{count}" for count in STEPS),
    ]
    assert describe_noise(judging, ()) == ()


def test_a_scheduler_that_draws_noise_is_left_out_with_a_note(tiny_bundle: Path) -> None:
    add_scheduler(tiny_bundle, "DDPMScheduler")
    judging = open_judging(ChooseOptions(tiny_bundle, seeds=2, threads=1))
    assert len(compile_plans(judging, "float32", ())) == len(STEPS)
    (note,) = describe_noise(judging, ())
    assert note.startswith("scheduler:STEPS is left out, since it draws noise in its steps: ")


def test_a_note_says_why_other_plans_than_the_calibrated_one_are_compared(tiny_bundle: Path) -> None:
    judging = open_judging(ChooseOptions(tiny_bundle, seeds=2, threads=1))
    noisy = replace(judging, plan=compile_plan("ddpm:8", denoiser_facts(judging.bundle.manifest), None))
    (note,) = describe_noise(noisy, ())
    assert note.startswith("ddpm:8 draws noise in its steps, so dpmpp_2m is compared: ")
    assert describe_noise(judging, ()) == describe_noise(noisy, ("ddim:4",)) == ()
