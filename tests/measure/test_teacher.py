"""The teacher: the default plan, and its check by twice as many steps."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from fewstep.measure import teacher
from fewstep.measure.teacher import (
    CHECK_SEEDS,
    NO_TEACHER,
    TeacherCheck,
    find_teacher,
    is_distilled,
    select_teacher_plan,
    teacher_plan,
)
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import encode
from fewstep.plans.guidance import Cfg, Guidance, Steer
from fewstep.plans.names.plan_reference import NamedReference, parse_plan_text
from fewstep.plans.paths import PATHS
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.bundle.manifest import Adapter, Provenance, TensorEntry
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from tests.bundles import change_bundle
from tests.refusals import refuses


def with_schedule(folder: Path, schedule: ScheduleSpec) -> Sampler:
    """The tiny denoiser with the facts of another schedule."""
    return load(change_bundle(folder, schedule=schedule, prediction="sample"))


NUMBERS = ("betas", "table", "interpolant")  # kinds that a name alone does not describe


def test_a_bridge_without_a_given_tensor_is_refused(tiny_bundle: Path) -> None:
    sampler = with_schedule(tiny_bundle, ScheduleSpec("bridge", 1000))
    with refuses("a given tensor", "towards"):
        sampler.compile("ddim:2")


@pytest.mark.parametrize("kind", [kind for kind in PATHS if kind not in (*NUMBERS, "residual-shift", "bridge")])
def test_it_has_eighty_steps_on_every_schedule(tiny_bundle: Path, kind: str) -> None:
    sampler = with_schedule(tiny_bundle, ScheduleSpec(kind, 1000))  # type: ignore[arg-type]
    judged = sampler.compile("ddim:2")
    assert teacher_plan(sampler, None, judged).name == "dpmpp_2m:80@arctan"
    assert teacher_plan(sampler, parse_plan_text("ddim:7"), judged).name == "ddim:7"


def test_a_network_of_few_timesteps_has_all_of_them_and_no_check(tiny_bundle: Path) -> None:
    sampler = with_schedule(tiny_bundle, ScheduleSpec("residual-shift", 15))
    found = find_teacher(sampler, None, sampler.compile("ddim:2"))
    assert found.plan.name == "dpmpp_2m:15"
    assert found.check.exactness is None and not found.check.suffices
    assert "was not checked" in str(found.check)


def test_a_network_of_two_times_has_a_teacher_that_passes_both(tiny_bundle: Path) -> None:
    sampler = load(tiny_bundle)
    prologue = sampler.bundle.manifest.prologue
    assert prologue is not None
    stated = msgspec.structs.replace(prologue, inputs=(*prologue.inputs, TensorEntry("to", "to", ("batch",))))
    judged = sampler.compile("ctm:2")
    object.__setattr__(sampler.bundle, "manifest", msgspec.structs.replace(sampler.bundle.manifest, prologue=stated))
    assert teacher_plan(sampler, None, judged).name == "ctm:80@arctan"


EDM = ScheduleSpec("edm")
STUDENT = Provenance("sd-turbo", "0" * 64, {}, ())
WITH_LORA = Provenance("model", "0" * 64, {}, (), (Adapter("hyper-sd-4steps-lora.safetensors", "0" * 64, 1.0),))


@pytest.mark.parametrize(
    ("fields", "plan", "is_its"),
    [
        ({"prediction": "consistency", "schedule": EDM}, "ddim:1@arctan", True),
        ({"distilled": True}, "ddim:2", True),
        ({}, "lcm:2", True),
        ({}, "ddim:2", False),
        ({"prediction": "edm", "schedule": EDM}, "dpmpp_2m:2", False),
        ({"provenance": STUDENT}, "ddim:4", True),
        ({"provenance": STUDENT}, "ddim:20", False),  # more steps than those of a student
        ({"provenance": WITH_LORA}, "ddim:4", True),
    ],
)
def test_a_distilled_denoiser_has_no_teacher_unless_one_is_asked_for(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, object], plan: str, is_its: bool
) -> None:
    sampler = load(change_bundle(tiny_bundle, **fields))
    judged = sampler.compile(plan)
    found = select_teacher_plan(sampler, None, judged)
    assert (found is None) == is_its == is_distilled(sampler, judged)
    assert (NO_TEACHER in caplog.text) == is_its
    asked = select_teacher_plan(sampler, parse_plan_text("ddim:9@arctan"), judged)
    assert asked is not None and len(asked.steps) == 9


def test_the_scheduler_of_a_student_has_no_teacher(tiny_bundle: Path) -> None:
    """Its plan `scheduler:N` runs a solver for students."""
    files = {"plans/scheduler.json": msgspec.json.encode({"_class_name": "LCMScheduler"})}
    sampler = load(change_bundle(tiny_bundle, files, scheduler="plans/scheduler.json", prediction="epsilon"))
    judged = sampler.compile("ddim:4")
    assert is_distilled(sampler, msgspec.structs.replace(judged, name="scheduler:4"))
    assert not is_distilled(sampler, judged)


def test_it_has_the_guidance_and_the_shaping_of_the_judged_plan(tiny_bundle: Path) -> None:
    sampler = load(tiny_bundle)
    own = teacher_plan(sampler, None, sampler.compile("ddim:2", 3.0, shaping=Clip(-1, 1)))
    assert own.guidance == sampler.compile("ddim:2", 3.0).guidance
    assert {step.shaping for step in own.steps} == {Clip(-1.0, 1.0)}


def test_a_plan_of_the_scheduler_has_its_own_clip_and_not_that_of_the_judged_plan(tiny_bundle: Path) -> None:
    times = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
    config = {"_class_name": "DDIMScheduler", **times, "clip_sample": True, "clip_sample_range": 3.0}
    files = {"plans/scheduler.json": msgspec.json.encode(config)}
    sampler = load(change_bundle(tiny_bundle, files, scheduler="plans/scheduler.json", prediction="epsilon"))
    own = teacher_plan(sampler, parse_plan_text("scheduler:9"), sampler.compile("ddim:2", shaping=Clip(-1, 1)))
    assert {step.shaping for step in own.steps} == {Clip(-3.0, 3.0)}


def test_a_plan_that_draws_noise_is_refused(tiny_bundle: Path) -> None:
    sampler = load(tiny_bundle)
    with refuses("plan ddpm:80 cannot be a teacher: it draws noise", "ddim:100"):
        teacher_plan(sampler, parse_plan_text("ddpm:80"), sampler.compile("ddim:2"))


@pytest.mark.parametrize("asked", ["dpmpp_2m:90@ays_svd", "ddim:50@table(sigmas=[9, 1, 0.1])"])
def test_a_stretched_grid_of_few_steps_is_refused(tiny_bundle: Path, asked: str) -> None:
    sampler = load(tiny_bundle)
    with refuses(("cannot be a teacher", "a table made for few steps")):
        find_teacher(sampler, parse_plan_text(asked), sampler.compile("ddim:2"))


def test_the_check_is_the_distance_to_twice_as_many_steps(tiny_bundle: Path) -> None:
    sampler = load(tiny_bundle)
    found = find_teacher(sampler, None, sampler.compile("ddim:2", 2.0))
    assert found.plan.name == found.check.teacher == "dpmpp_2m:80@arctan"
    assert found.check.seeds == CHECK_SEEDS and found.check.suffices
    assert found.check.exactness is not None and found.check.exactness > 50
    assert f"has {found.check.exactness:.1f} dB, " in str(found.check)


@pytest.mark.parametrize(
    ("judged", "known", "steps", "suffices"), [(70, 640, 160, True), (640, 640, 320, False), (640, 160, 160, None)]
)
def test_it_is_doubled_until_it_suffices(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, judged: int, known: int, steps: int, suffices: bool | None
) -> None:
    """It is then ten decibels nearer. Doubling has a limit, and the check is of the final plan."""
    sampler, twice = load(tiny_bundle), teacher._double_steps
    monkeypatch.setattr(
        teacher, "_double_steps", lambda *plans: None if len(plans[1].steps) >= known else twice(*plans)
    )
    found = find_teacher(sampler, None, sampler.compile(f"dpmpp_2m:{judged}@arctan"))
    assert found.plan.name == found.check.teacher == f"dpmpp_2m:{steps}@arctan"
    assert (None if found.check.exactness is None else found.check.suffices) is suffices


def test_a_plan_that_was_asked_for_stays_and_is_said_to_be_too_coarse(tiny_bundle: Path) -> None:
    sampler = load(tiny_bundle)
    found = find_teacher(sampler, parse_plan_text("ddim:5"), sampler.compile("dpmpp_2m:60@arctan"), seeds=[1, 2])
    assert found.plan.name == "ddim:5" and found.check.seeds == 2 and not found.check.suffices
    assert "include its error" in str(found.check)


def test_a_file_of_a_plan_is_taken_without_a_check(tiny_bundle: Path, tmp_path: Path) -> None:
    sampler, file = load(tiny_bundle), tmp_path / "teacher.json"
    file.write_bytes(encode(sampler.compile("ddim:9")))
    found = find_teacher(sampler, parse_plan_text(str(file)), sampler.compile("ddim:2"))
    assert found.plan.name == "ddim:9" and found.check == TeacherCheck("ddim:9", None, None, 0)


@pytest.mark.parametrize("form", [Steer, Cfg])
def test_weights_by_evaluation_are_for_shares_of_the_teachers(form: type[Steer | Cfg]) -> None:
    facts = DenoiserFacts(ScheduleSpec("cosine"), "epsilon", guided=True, heads=2, steers="x")

    def compile_name(name: NamedReference, guidance: Guidance, shaping: object = None) -> Plan:
        return compile_plan(name.parts, facts, guidance)

    judged = compile_plan("ddim:4", facts, form((1.0, 2.0, 0.0, 3.0)))
    own = teacher_plan(
        SimpleNamespace(plans=SimpleNamespace(compile=compile_name)), parse_plan_text("heun:41@arctan"), judged
    )  # type: ignore[arg-type]
    assert isinstance(own.guidance, form) and isinstance(own.guidance.weight, tuple)
    assert len(own.guidance.weight) == len(own.steps)
    assert sorted(set(own.guidance.weight), key=own.guidance.weight.index) == [1.0, 2.0, 0.0, 3.0]
    counts = [own.guidance.weight.count(weight) for weight in (1.0, 2.0, 0.0, 3.0)]
    assert max(counts) - min(counts) <= 1
