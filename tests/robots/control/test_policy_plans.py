"""The clip of a policy's plans: that of its scheduler, or a refusal."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fewstep.plans.any_plan import shaping_of
from fewstep.plans.file import encode
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.shaping import UNCLIPPED, Clip, Shaping
from fewstep.plans.spec import ScheduleSpec
from fewstep.robots.control import PolicyRunner, Rhythm, compile_policy_plan
from fewstep.robots.control import policy_plans as module
from fewstep.robots.serving import serve as serving
from fewstep.runtime import Sampler
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
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


def test_the_refusal_names_the_fix_in_python(tiny_bundle: Path) -> None:
    with refuses("ddim:2", "(in Python shaping=Clip(-LIMIT, LIMIT))"):
        compile_policy_plan(noise_predicting(tiny_bundle), "ddim:2")


def test_a_runner_refuses_a_plan_that_nothing_limits(tiny_bundle: Path) -> None:
    with refuses(("predicts noise", "ddim:2"), "calibrate it with --clip LIMIT"):
        PolicyRunner(noise_predicting(tiny_bundle), Rhythm(rate=20, plans="ddim:2"))


@pytest.mark.parametrize(("protocol", "rate"), [("openpi", None), ("lines", 20.0)])
def test_a_server_refuses_a_plan_that_nothing_limits(
    tiny_bundle: Path, protocol: str, rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*values: object) -> None:
        raise AssertionError("it is served")

    monkeypatch.setattr(serving, "load", lambda *_, **__: noise_predicting(tiny_bundle))
    monkeypatch.setattr(serving, "find_server", lambda protocol: never)
    options = serving.ServeOptions(tiny_bundle, protocol, parse_plan_text("ddim:2"), rate=rate, port=0)  # type: ignore[arg-type]
    with refuses(("predicts noise", "ddim:2"), "calibrate it with --clip LIMIT"):
        serving.serve(options, never)


@pytest.mark.parametrize("shaping", [None, Clip(-0.7, 0.7)])
def test_a_calibrated_policy_keeps_the_clip_of_its_calibration(
    tiny_bundle: Path, shaping: Shaping | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a calibration without a clip."""
    monkeypatch.setattr(module, "suggest_clip", lambda bundle: 1.5)
    plan = noise_predicting(tiny_bundle).compile("ddim:2", shaping=shaping)
    body = msgspec.structs.replace(open_bundle(tiny_bundle).manifest.bodies["float32"], plan=plan.name)
    file = "plans/calibrated.json"
    change_bundle(tiny_bundle, {file: encode(plan)}, plans={plan.name: file}, bodies={"float32": body})
    assert shaping_of(compile_policy_plan(noise_predicting(tiny_bundle), "ddim:2")) == shaping


def test_the_default_plan_of_a_scheduler_is_returned_as_it_is(tiny_bundle: Path) -> None:
    config = {"_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "epsilon"}
    file = "plans/scheduler.json"
    change_bundle(tiny_bundle, {file: msgspec.json.encode(config)}, scheduler=file, schedule=ScheduleSpec("linear"))
    sampler = noise_predicting(tiny_bundle)
    assert compile_policy_plan(sampler, None) == sampler.compile(None)
