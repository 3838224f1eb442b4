"""The clip of a policy's plans: that of its scheduler, or a refusal."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fewstep.plans.any_plan import shaping_of
from fewstep.plans.shaping import UNCLIPPED, Clip
from fewstep.robots.control import compile_policy_plan
from fewstep.robots.control import policy_plans as module
from fewstep.runtime import Sampler
from tests.refusals import refuses
from tests.robots.control.tiny_policy import ramp, tiny_policy


def noise_predicting(bundle: Path) -> Sampler:
    sampler = tiny_policy(bundle, ramp)
    manifest = msgspec.structs.replace(sampler.bundle.manifest, prediction="epsilon", data_limit=None)
    return sampler.with_network_parts(bundle=replace(sampler.bundle, manifest=manifest))


def test_a_named_plan_has_the_clip_of_the_scheduler(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "suggest_clip", lambda bundle: 1.5)
    plan = compile_policy_plan(noise_predicting(tiny_bundle), "ddim:2")
    assert shaping_of(plan) == Clip(-1.5, 1.5)


def test_a_plan_that_nothing_limits_is_refused(tiny_bundle: Path) -> None:
    with refuses(("predicts noise", "ddim:2"), "calibrate it with --clip LIMIT"):
        compile_policy_plan(noise_predicting(tiny_bundle), "ddim:2")


def test_a_compiled_plan_is_the_callers_choice(tiny_bundle: Path) -> None:
    sampler = noise_predicting(tiny_bundle)
    plan = sampler.compile("ddim:2", shaping=UNCLIPPED)
    assert compile_policy_plan(sampler, plan) is plan


def test_a_network_that_predicts_the_sample_needs_no_clip(tiny_bundle: Path) -> None:
    sampler = tiny_policy(tiny_bundle, ramp)
    manifest = msgspec.structs.replace(sampler.bundle.manifest, prediction="sample")
    sampler = sampler.with_network_parts(bundle=replace(sampler.bundle, manifest=manifest))
    assert shaping_of(compile_policy_plan(sampler, "ddim:2")) is None
