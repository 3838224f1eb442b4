"""Fitted plans are found only for the denoiser that they were fitted to."""

from hashlib import sha256

import msgspec
import numpy as np
import pytest

from fewstep.graph.files.commit import open_for_update
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.guidance import Cfg, CfgPlusPlus
from fewstep.plans.plan import Fitted
from fewstep.plans.shaping import Clip
from fewstep.plans.transforms import change_guidance_weight
from fewstep.report.bundle_contents import read_fitted_contents
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.fitted_plans import find_unfittable_plan
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.request import denoiser_facts
from tests.bundles import change_bundle, with_body, with_manifest_fields
from tests.refusals import refuses


def give(folder, body="float32", guidance=2.0, graph=None, source="0" * 64, numbers="dpmpp_2m:3"):
    """Add a plan to a bundle as if it had been fitted to a body, with the numbers of a named one."""
    with open_for_update(folder, must_exist=True) as writer:
        manifest = open_bundle(folder).manifest
        file = manifest.bodies[body].graph.file
        fitted = Fitted("dpmpp_2m:3", body, manifest.files[file] if graph is None else graph, source)
        plan = compile_plan(numbers, denoiser_facts(manifest), guidance)
        plan = msgspec.structs.replace(plan, name="fitted:3", fitted=fitted)
        stored = writer.add(encode(plan), "plans", "fitted", ".json")
        entry = FittedPlan(3, body, stored, "dpmpp_2m:3", "ddim:20", 20.0, 24.0, 0.1, 64)
        writer.commit(msgspec.structs.replace(manifest, fitted=(*manifest.fitted, entry)))
    return plan


def test_it_is_found_by_evaluations_body_and_guidance(tiny_bundle):
    plan = give(tiny_bundle)
    with load(tiny_bundle) as sampler:
        assert sampler.compile("fitted:3", 2.0) == plan


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("fitted:4", {}, "no plan 'fitted:4' for float32; it has fitted:3"),
        ("fitted:3", {"guidance": 3.0}, "fitted for guidance 2, not for guidance 3"),
        ("fitted:3", {"guidance": None}, "fitted for guidance 2, not for guidance none"),
        (
            "fitted:3",
            {"guidance": CfgPlusPlus(0.5)},
            "fitted for guidance 2, .*; run dpmpp_2m:3, which takes these settings",
        ),
        ("fitted:4", {"strength": 0.5}, "; run another plan, such as dpmpp_2m:4$"),
        ("fitted:3", {"shaping": Clip(-1, 1)}, "not for guidance 2, Clip"),
        ("fitted:3", {"strength": 0.5}, "strength 0.5; run dpmpp_2m:3, which takes these settings"),
        ("fitted:x", {}, "no number of evaluations; write fitted:6"),
        ("fitted:0", {}, "plan 'fitted:0' has 0 evaluations; choose 1 to 64$"),
        ("fitted:65", {}, "plan 'fitted:65' has 65 evaluations; choose 1 to 64$"),
        ("fitted:3@arctan", {}, "names a grid, .*; write fitted:3$"),
    ],
)
def test_where_there_is_none_one_line_says_what_there_is(tiny_bundle, name, asked, words):
    give(tiny_bundle)
    with load(tiny_bundle) as sampler, pytest.raises(UserError, match=words):
        sampler.compile(name, **{"guidance": 2.0, **asked})


def test_the_command_is_the_same_for_all_bodies(tiny_bundle):
    give(tiny_bundle, body="int8-cpu-x86")
    command = f"fit it: fewstep fit {tiny_bundle} --steps "
    with load(tiny_bundle, "int8") as sampler:
        with pytest.raises(UserError, match=f"{command}7 --guidance 2$"):
            sampler.compile("fitted:7", 2.0)
        with pytest.raises(UserError, match=f"run dpmpp_2m:3, or {command}3 --guidance 4$"):
            sampler.compile("fitted:3", 4.0)


def test_a_file_for_another_guidance_or_denoiser_names_the_nominal_plan_and_the_fit(tiny_bundle):
    plan = give(tiny_bundle)
    fix = "; run dpmpp_2m:3: a fitted plan cannot be compiled from its name"
    fit = f"{fix}, or fit one: fewstep fit {tiny_bundle} --steps 3"
    (entry,) = open_bundle(tiny_bundle).manifest.fitted
    with load(tiny_bundle) as sampler:
        with pytest.raises(UserError, match=f"compiled with guidance 2, not 4{fit} --guidance 4$"):
            sampler.compile(tiny_bundle / entry.file, 4.0)
        with pytest.raises(UserError, match=f"compiled with guidance 2, not none{fit}$"):
            sampler.compile(plan, 1.0)
        for own in ({"shaping": Clip(-1, 1)}, {"strength": 0.5}, {"guidance": CfgPlusPlus(0.5)}):  # no fit has these
            with pytest.raises(UserError, match=f"compiled with.*{fix}$"):
                sampler.compile(plan, **own)
        fitted = msgspec.structs.replace(plan.fitted, source="1" * 64)
        with pytest.raises(UserError, match=f"another denoiser .*{fit} --guidance 2$"):
            sampler.compile(msgspec.structs.replace(plan, fitted=fitted, schedule="of it"))


@pytest.mark.parametrize("named", [True, False])
def test_no_fit_is_suggested_for_a_guidance_that_the_denoiser_cannot_have(tiny_bundle, named):
    plan = give(tiny_bundle, guidance=None)
    sampler = load(tiny_bundle)
    bare = msgspec.structs.replace(sampler.bundle.manifest.conditions[0], null=None)
    unguided = with_manifest_fields(sampler, conditions=(bare,))
    words = (
        "guidance 4.0 needs an unconditional branch, which this denoiser lacks; leave guidance out .*--null class=VALUE"
    )
    with pytest.raises(UserError, match=words):
        unguided.compile("fitted:3" if named else plan, 4.0)


def test_a_weight_nearby_is_folded_in(tiny_bundle):
    give(tiny_bundle)
    with load(tiny_bundle) as sampler:
        asked, condition = sampler.compile("fitted:3", 2.2), {"class": [1]}
        assert asked.guidance == Cfg(2.2)
        expected = sampler.sample("dpmpp_2m:3", [5], condition, 2.2)
        np.testing.assert_allclose(sampler.sample(asked, [5], condition), expected, atol=2e-6)


@pytest.mark.parametrize("shaping", [None, Clip(-0.5, 0.5)])
def test_a_plan_at_another_weight_is_the_one_compiled_for_it(tiny_bundle, shaping):
    with load(tiny_bundle) as sampler:
        moved = change_guidance_weight(sampler.compile("unipc_2:4", 2.0, shaping=shaping), 3.0)
        expected = sampler.compile("unipc_2:4", 3.0, shaping=shaping)
        given = ([7], {"class": [2]})
        np.testing.assert_allclose(sampler.sample(moved, *given), sampler.sample(expected, *given), atol=2e-6)


def test_a_body_without_one_runs_the_one_of_another_body(tiny_bundle):
    plan = give(tiny_bundle)
    with load(tiny_bundle, "int8") as sampler:
        assert sampler.compile("fitted:3", 2.0).fitted == plan.fitted
        assert sampler.compile(plan).fitted == plan.fitted
        with refuses(("'fitted:3'", "int8-cpu-x86", "guidance 2", "guidance 3")):
            sampler.compile("fitted:3", 3.0)
        own = give(tiny_bundle, body="int8-cpu-x86", numbers="ddim:3")
    with load(tiny_bundle, "int8") as sampler:
        assert sampler.compile("fitted:3", 2.0).fitted == own.fitted


def test_of_another_denoiser_it_is_refused(tiny_bundle):
    plan = give(tiny_bundle, source="2" * 64)
    with load(tiny_bundle) as sampler, pytest.raises(UserError, match="fitted to another denoiser"):
        sampler.compile(plan)


@pytest.mark.parametrize("bodies", [["float32"], ["float32", "int8-cpu-x86"]])
def test_plans_are_packed_with_any_body_and_its_own_is_found_first(tiny_bundle, tmp_path, bodies):
    for body in bodies:
        give(tiny_bundle, body=body)
    pack(PackOptions(tiny_bundle, tmp_path / "packed", ("int8-cpu-x86",)))
    assert [each.body for each in read_fitted_contents(open_bundle(tmp_path / "packed"))] == bodies
    with load(tmp_path / "packed", "int8") as sampler:
        assert sampler.compile("fitted:3", 2.0).fitted.body == bodies[-1]


def test_a_damaged_plan_of_a_packed_bundle_is_fitted_elsewhere(tiny_bundle, tmp_path):
    give(tiny_bundle)
    packed = tmp_path / "packed"
    pack(PackOptions(tiny_bundle, packed, ("int8-cpu-x86",)))
    (entry,) = open_bundle(packed).manifest.fitted
    elsewhere = "fit it in the bundle that this was packed from"
    assert read_fitted_contents(open_bundle(packed))[0].command == elsewhere
    digests = [sha256(content).hexdigest() for content in ((packed / entry.file).read_bytes(), b"{}")]
    (packed / entry.file).write_bytes(b"{}")
    (packed / "manifest.json").write_text((packed / "manifest.json").read_text().replace(*digests))
    (damage,) = verify(VerifyOptions(packed)).damages
    assert "is not a plan" in damage.what and damage.fix == elsewhere


def test_a_plan_of_the_bundle_that_was_edited_is_refused_by_its_path_too(tiny_bundle):
    give(tiny_bundle)
    (entry,) = open_bundle(tiny_bundle).manifest.fitted
    file = tiny_bundle / entry.file
    with load(tiny_bundle) as sampler:
        assert sampler.compile(file).name == "fitted:3"
        file.write_bytes(file.read_bytes().replace(b"1", b"2", 3))
        with pytest.raises(UserError, match=f"{entry.file} is damaged or was edited"):
            sampler.compile(str(file))


def calibrate_with_clip(folder):
    content = encode(compile_plan("ddim:3", denoiser_facts(open_bundle(folder).manifest), 2.0, Clip(-1.0, 1.0)))
    with_body(
        change_bundle(folder, {"plan.json": content}, plans={"ddim:3": "plan.json"}), "int8-cpu-x86", plan="ddim:3"
    )


def test_a_fit_is_not_advised_where_the_calibration_clips(tiny_bundle):
    calibrate_with_clip(tiny_bundle)
    with load(tiny_bundle) as sampler, pytest.raises(UserError) as refused:
        sampler.compile("fitted:3")
    assert refused.value.fix == "run another plan, such as dpmpp_2m:3"


def test_a_calibrated_plan_that_was_edited_does_not_decide_about_fits(tiny_bundle):
    calibrate_with_clip(tiny_bundle)
    assert find_unfittable_plan(open_bundle(tiny_bundle)).name == "ddim:3"
    file = tiny_bundle / "plan.json"
    file.write_bytes(file.read_bytes().replace(b"1", b"2", 3))
    with pytest.raises(UserError, match="plan.json is damaged or was edited"):
        find_unfittable_plan(open_bundle(tiny_bundle))
