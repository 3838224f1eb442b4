"""The plan that `fewstep run` takes if none is named."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.cli.run_plan import check_reference, describe_calibration_mismatch, needs_negative
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.file import encode
from fewstep.plans.guidance import Branches, Cfg, Guidance, Pag, as_guidance
from fewstep.plans.names.plan_reference import TextReference, parse_plan_text
from fewstep.plans.shaping import Clip
from fewstep.plans.transforms import tail
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.sample_space import CONTINUOUS
from fewstep.runtime.kinds.sizes import Size
from fewstep.runtime.sampling.calibrated_plans import Defaults, find_defaults, read_calibrated_plan
from fewstep.runtime.sampling.execution import PlanCompiler
from fewstep.runtime.sampling.sampler import Sampler
from tests.bundles import change_bundle, with_body, with_manifest_fields
from tests.cli.conftest import Command
from tests.cli.test_bake import calibrate_along
from tests.refusals import refuses
from tests.runtime.sampling.test_fitted_plans import give

Asked = Callable[..., object]
PLAN = CONTINUOUS.default_plan


def with_calibrated_plan(sampler: Sampler, plan: str | None, scheduler: str | None = None, **plans: str) -> Sampler:
    body = msgspec.structs.replace(sampler.body, plan=plan)
    if scheduler is not None:
        content = b'{"_class_name": "DDIMScheduler"}'
        (sampler.bundle.path / scheduler).write_bytes(content)
        sampler.bundle.manifest.files[scheduler] = sha256(content).hexdigest()
    return with_manifest_fields(sampler, plans=plans, scheduler=scheduler).with_network_parts(body=body)


def kept_along(sampler: Sampler, name: str, guidance: float | Guidance | None = None, **changes: str) -> Sampler:
    """Return the sampler of a body that was calibrated along a plan of this name, which the bundle contains."""
    plan = msgspec.structs.replace(sampler.compile("ddim:3", guidance), name=name)
    path, content = sampler.bundle.path / "plan.json", encode(plan)
    path.write_bytes(content)
    sampler.bundle.manifest.files["plan.json"] = sha256(content).hexdigest()
    return with_calibrated_plan(sampler, name, **{name: "plan.json"}, **changes)


@pytest.fixture
def default_plan_text(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A function that compiles the default plan, from the text of a reference or a plan."""

    def compile_text(sampler: Sampler, guidance: float | None = None, strength: float | None = None) -> object:
        with monkeypatch.context() as patched:
            patched.setattr(PlanCompiler, "compile", lambda compiler, plan, *_: plan)
            plan = sampler.compile(None, guidance, strength=strength)
        return str(plan) if isinstance(plan, TextReference) else plan

    return compile_text


@pytest.mark.parametrize(
    ("plan", "scheduler", "strength", "expected"),
    [
        ("unipc_2:6@karras", None, None, "unipc_2:6@karras"),
        (None, None, None, PLAN),
        (None, "scheduler.json", None, "scheduler:20"),
        (None, "scheduler.json", 0.5, PLAN),
        ("ddim:3", "scheduler.json", None, "ddim:3"),
    ],
)
def test_without_a_kept_plan_it_is_a_name(
    tiny_bundle: Path,
    default_plan_text: Asked,
    plan: str | None,
    scheduler: str | None,
    strength: float | None,
    expected: str,
) -> None:
    assert default_plan_text(with_calibrated_plan(load(tiny_bundle), plan, scheduler), strength=strength) == expected


@pytest.mark.parametrize(
    ("name", "guided", "started"),
    [
        ("ddim:3", "ddim:3@trailing", "ddim:3@trailing"),
        ("scheduler:6", "scheduler:6", "scheduler:6"),
        ("Own:6", "plan.json", PLAN),
        ("fitted:6, 2 runs", "plan.json", PLAN),
    ],
)
def test_it_is_the_kept_plan_and_its_name_where_a_setting_changes_it(
    tiny_bundle: Path, default_plan_text: Asked, name: str, guided: str, started: str
) -> None:
    sampler = kept_along(load(tiny_bundle), name, scheduler="scheduler.json")
    kept = read_calibrated_plan(sampler.bundle, sampler.body)
    assert default_plan_text(sampler) == kept
    assert str(default_plan_text(sampler, 2.0)).endswith(guided)
    assert default_plan_text(sampler, strength=0.5) == started  # an image, where the kept one starts from noise
    wide = with_manifest_fields(sampler, sizes=(Size("height", 1, 4, 8, 4),), x_shape=(1, 8, 4))
    assert str(default_plan_text(wide)).endswith(guided)  # a schedule may follow from the size


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_scheduler_that_clips_is_recompiled_at_another_guidance(tiny_bundle: Path, guidance: float) -> None:
    config = {"_class_name": "DDIMScheduler", "num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
    config |= {"prediction_type": "v_prediction", "clip_sample": True, "clip_sample_range": 0.5}
    bundle = change_bundle(tiny_bundle, {"s.json": msgspec.json.encode(config)}, scheduler="s.json")
    content = encode(load(bundle).compile("scheduler:6", 2.0))
    change_bundle(bundle, {"plan.json": content}, plans={"scheduler:6": "plan.json"})
    sampler = load(with_body(bundle, "int8-cpu-x86", plan="scheduler:6"))
    assert sampler.compile().guidance == Cfg(2.0)
    changed = sampler.compile(None, guidance)
    assert (changed.guidance, shaping_of(changed)) == (as_guidance(guidance), Clip(-0.5, 0.5))


def test_float32_takes_the_plan_that_another_body_was_calibrated_along(
    tiny_bundle: Path, default_plan_text: Asked
) -> None:
    with load(tiny_bundle) as sampler:
        manifest = sampler.bundle.manifest
        bodies = {name: msgspec.structs.replace(body, plan="ddim:3") for name, body in manifest.bodies.items()}
        bodies["float32"] = manifest.bodies["float32"]
        calibrated = with_manifest_fields(sampler, bodies=bodies, scheduler="scheduler.json")
        assert calibrated.body.precision == "float32" and calibrated.body.plan is None
        assert default_plan_text(calibrated) == "ddim:3"
        assert select_plan(calibrated.plans, calibrated.body) == calibrated.compile("ddim:3")


@pytest.mark.parametrize(
    ("along", "plan", "guidance", "said"),
    [
        (2.0, "ddim:3", 2.0, None),
        (
            2.0,
            "ddim:4",
            2.0,
            "2, and runs along ddim:4, guidance 2: its ranges may not fit; give --plan ddim:3@trailing",
        ),
        (
            3.0,
            "ddim:4",
            2.0,
            "runs along ddim:4, guidance 2: its ranges may not fit; give --plan ddim:3@trailing --guidance 3",
        ),
        (
            2.0,
            "ddim:3",
            None,
            "2, and runs along ddim:3, guidance none: its ranges may not fit; give --plan ddim:3 --guidance 2",
        ),
        (
            None,
            "ddim:3",
            2.0,
            "none, and runs along ddim:3, guidance 2: its ranges may not fit; give --plan ddim:3 --guidance 1",
        ),
        (Branches({"cond": 2.0, "uncond": -1.0}), "ddim:4", 2.0, "guidance 2: its ranges may not fit"),
        (Branches({"cond": 3.0, "uncond": -2.0}), "ddim:3", 2.0, "guidance 2: its ranges may not fit"),
    ],
)
def test_int8_away_from_its_calibration_is_reported(
    tiny_bundle: Path, along: float | Branches | None, plan: str, guidance: float | None, said: str | None
) -> None:
    with load(tiny_bundle, "int8") as sampler:
        calibrated = kept_along(sampler, "ddim:3", along)
        made = calibrated.compile(plan, 1.0 if guidance is None else guidance)
        line = describe_calibration_mismatch(calibrated.bundle, calibrated.body, made)
        assert line is None if said is None else line is not None and line.endswith(said)
        in_float = calibrated.with_network_parts(body=msgspec.structs.replace(calibrated.body, precision="float32"))
        assert describe_calibration_mismatch(in_float.bundle, in_float.body, made) is None


def test_a_verb_without_guidance_has_that_of_the_calibration(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command
) -> None:
    """In float32 too. A plan file has its own guidance, and a fitted plan that of its fit. Without a calibration there
    is none.
    """
    run = ["run", tiny_bundle, "--plan", "ddim:3", "-n", 2, "-c", "class=1", "-o"]
    assert ", guidance" not in fewstep(*run, tmp_path / "none.npy").out
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    for name, given in (("own", []), ("two", ["--guidance", "2"]), ("one", ["--guidance", "1"])):
        printed = fewstep(*run, tmp_path / f"{name}.npy", *given).out
        assert (", guidance 2 as calibrated" in printed) is (name == "own")
    none, own, two, one = (np.load(tmp_path / f"{name}.npy") for name in ("none", "own", "two", "one"))
    np.testing.assert_array_equal(own, two)
    np.testing.assert_array_equal(one, none)
    assert np.abs(own - none).max() > 1e-3
    bundle = open_bundle(tiny_bundle)
    body = bundle.body("float32")
    assert find_defaults(bundle, body, parse_plan_text("ddim:9")).guidance == as_guidance(2.0)
    assert find_defaults(bundle, body, parse_plan_text("p.json")) == Defaults()
    missing = parse_plan_text("fitted:2")  # the error advises a fit at the calibrated guidance
    assert find_defaults(bundle, body, missing) == Defaults(as_guidance(2.0))


def test_a_program_and_the_command_line_draw_the_same_sample(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command
) -> None:
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    asked: Any = {"seeds": [0, 1], "condition": {"class": [1, 1]}}
    with load(tiny_bundle) as sampler:
        for name, given, guidance in (("own", [], None), ("one", ["--guidance", "1"], 1.0)):
            file = tmp_path / f"{name}.npy"
            fewstep("run", tiny_bundle, "--plan", "ddim:3", "-n", 2, "-c", "class=1", "-o", file, *given)
            np.testing.assert_array_equal(sampler.sample("ddim:3", **asked, guidance=guidance), np.load(file))
        own, one = (np.load(tmp_path / f"{name}.npy") for name in ("own", "one"))
        each = sampler.sample_each(["ddim:3", sampler.compile("ddim:3", 1.0)], **asked)
        np.testing.assert_array_equal(each[0], own[0])
        np.testing.assert_array_equal(each[1], one[1])  # a compiled plan has its own guidance, here none
        np.testing.assert_array_equal(sampler.sample(sampler.compile("ddim:3"), **asked), own)


def test_a_name_that_no_denoiser_has_is_refused_before_one_is_opened(tmp_path: Path) -> None:
    for name, said in (
        ("dpmp_2m:8", "'dpmp_2m'"),
        ("maskgit(heat=2):8", "'heat'"),
        (f"maskgit:{' ' * 4000}8", "4009 characters"),
        (str(tmp_path / "p.json"), "p.json"),
    ):
        with refuses(said):
            check_reference(parse_plan_text(name))
    check_reference(parse_plan_text("scheduler:20"))


def test_a_kept_plan_without_a_grid_is_the_calibrated_one_on_a_bundle_with_another_default(tiny_bundle: Path) -> None:
    with load(tiny_bundle, "int8") as sampler:
        kept = kept_along(sampler, "ddim:3")
        new = with_manifest_fields(kept, grid="arctan")
        assert describe_calibration_mismatch(new.bundle, new.body, new.compile("ddim:3@trailing")) is None
        assert "runs along ddim:3@arctan" in str(
            describe_calibration_mismatch(new.bundle, new.body, new.compile("ddim:3"))
        )
        assert select_plan(new.plans, new.body, guidance=2.0).name == "ddim:3@trailing"
        assert select_plan(new.plans, new.body).name == "ddim:3"
        assert select_plan(new.plans, new.body, parse_plan_text("ddim:3")).name == "ddim:3@arctan"


@pytest.mark.parametrize(("plan", "tensor"), [("tail", "row0"), ("bdia_inverse:3", "x")])
def test_a_plan_that_no_option_can_start_is_refused_in_words_of_the_command_line(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command, plan: str, tensor: str
) -> None:
    if plan == "tail":
        plan = str(tmp_path / "tail.json")
        Path(plan).write_bytes(encode(tail(load(tiny_bundle).compile("ddim:4"), 1)))
    output = tmp_path / "x.npy"
    said = fewstep("run", tiny_bundle, "-n", 1, "-c", "class=1", "--plan", plan, "-o", output, code=1).err
    assert f"starts from '{tensor}', which no option provides; run it with `Sampler.sample(given=...)`" in said
    assert not output.exists()


def test_a_fit_without_guidance_runs_without_it_after_a_calibration_with_guidance(tiny_bundle: Path) -> None:
    calibrate_along(tiny_bundle, "ddim:4", 2.0)
    fitted = give(tiny_bundle, guidance=None)
    with load(tiny_bundle) as sampler:
        assert sampler.compile("fitted:3") == fitted


def test_a_plan_fitted_without_guidance_is_judged_as_it_is_run(tiny_bundle: Path) -> None:
    """The calibration has guidance 2, at which the bundle has no fit."""
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    fitted = give(tiny_bundle, guidance=None)
    with load(tiny_bundle) as sampler:
        judged = select_plan(sampler.plans, sampler.bundle.body("int8-cpu-x86"), parse_plan_text("fitted:3"))
        assert judged.guidance is None and judged.steps == sampler.compile("fitted:3").steps == fitted.steps


def test_a_fit_is_judged_at_the_guidance_of_the_calibration(tiny_bundle: Path) -> None:
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    give(tiny_bundle, guidance=2.0)
    with load(tiny_bundle) as sampler:
        judged = select_plan(sampler.plans, sampler.bundle.body("int8-cpu-x86"), parse_plan_text("fitted:3"))
        assert judged.guidance == sampler.compile("fitted:3").guidance == Cfg(2.0)


def test_a_program_that_names_no_plan_draws_the_sample_of_the_command(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command
) -> None:
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    fewstep("run", tiny_bundle, "-c", "class=1", "-n", "1", "-o", tmp_path / "x.npy")
    with load(tiny_bundle) as sampler:
        np.testing.assert_array_equal(sampler.sample(condition={"class": [1]}), np.load(tmp_path / "x.npy"))


def test_renoise_of_a_program_that_names_no_plan_needs_a_strength(tiny_bundle: Path) -> None:
    """A message that the stored plan was compiled without it would advise what fails too."""
    calibrate_along(tiny_bundle, "ddim:3", 2.0)
    with load(tiny_bundle) as sampler, refuses("renoise needs a strength", "give one too"):
        sampler.compile(renoise=0.5)


@pytest.mark.parametrize(
    ("guidance", "is_read"),
    [
        (None, False),
        (1.0, False),
        (3.0, True),
        (as_guidance(Cfg(4.0, (1.0, 9.0))), True),  # in an interval that pure noise is outside of
        (Pag(3.0), False),  # two branches, neither of which is the unconditional one
    ],
)
def test_a_negative_prompt_is_read_where_a_step_evaluates_its_branch(
    guidance: float | Guidance | None, is_read: bool
) -> None:
    assert needs_negative(None, guidance) == is_read
