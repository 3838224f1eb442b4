"""Which plan `fewstep run` takes when none is named."""

from dataclasses import replace
from pathlib import Path

import msgspec

import fewstep.runtime
from fewstep.cli.run import default_plan
from fewstep.runtime.sampler import PLAN, Sampler


def calibrated_along(sampler: Sampler, plan: str | None, scheduler: str | None = None, **plans: str) -> Sampler:
    manifest = msgspec.structs.replace(sampler.bundle.manifest, plans=plans, scheduler=scheduler)
    body = msgspec.structs.replace(sampler.body, plan=plan)
    return replace(sampler, body=body, bundle=replace(sampler.bundle, manifest=manifest))


def test_it_is_the_one_that_the_body_was_calibrated_along(tiny_bundle: Path) -> None:
    sampler = fewstep.runtime.load(tiny_bundle)
    assert default_plan(calibrated_along(sampler, "unipc_2:6@karras")) == "unipc_2:6@karras"
    assert default_plan(calibrated_along(sampler, None)) == PLAN


def test_a_plan_that_no_name_says_is_its_file_in_the_bundle(tiny_bundle: Path) -> None:
    sampler = calibrated_along(
        fewstep.runtime.load(tiny_bundle), "PNDMScheduler:6", **{"PNDMScheduler:6": "plans/p.json"}
    )
    assert default_plan(sampler) == tiny_bundle / "plans/p.json"
    assert default_plan(sampler, strength=0.5) == PLAN  # what is compiled starts from noise


def test_a_model_that_came_with_a_scheduler_is_sampled_as_that_does(tiny_bundle: Path) -> None:
    sampler = fewstep.runtime.load(tiny_bundle)
    assert default_plan(calibrated_along(sampler, None, "scheduler.json")) == "scheduler:20"
    assert default_plan(calibrated_along(sampler, None, "scheduler.json"), strength=0.5) == PLAN
    assert default_plan(calibrated_along(sampler, "ddim:3", "scheduler.json")) == "ddim:3"
