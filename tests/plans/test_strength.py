"""Runs from an image: the steps of a strength, and the warning where rounding moves their start."""

import logging

import pytest

from fewstep.plans import warnings
from fewstep.plans.compile import compile_plan
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.strength import AllSteps, count_down, count_steps, count_up, least_strength
from tests.refusals import refuses

FLOW = DenoiserFacts(ScheduleSpec("flow"), "flow", grid="arctan")
VP = DenoiserFacts(ScheduleSpec("linear"), "epsilon")
EDM = DenoiserFacts(ScheduleSpec("edm"), "edm")
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
LCM = {"_class_name": "LCMScheduler"}


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(warnings, "_LOGGED", set())
    caplog.set_level(logging.WARNING, "fewstep")
    return caplog


def start_of(plan: Plan) -> tuple[float, float]:
    """Return the factors of the image and of the noise in the first x."""
    row, *_ = plan.start
    image, noise = row
    return image, noise


@pytest.mark.parametrize(
    ("name", "strength", "noise", "line"),
    [
        (
            "ddim:2",
            0.05,
            0.5,
            "rounded to 1 of 2 steps, which is 0.5: the run starts at time 500, with 0.5 image and 0.5",
        ),
        (
            "ddim:4",
            0.2,
            0.25,
            "1 of 4 steps, which is 0.25: the run starts at time 250, with 0.75 image and 0.25 noise",
        ),
        ("lcm:4", 0.9, 1.0, "4 of 4 steps, which is 1: the run starts at time 1000, with 0 image and 1 noise"),
        ("ddim:4@flow_shift(shift=3)", 0.05, 0.5, "1 of 4 steps, which is 0.25: the run starts at time 500, with 0.5"),
    ],
)
def test_the_noise_of_a_rounded_strength_is_named(
    logged: pytest.LogCaptureFixture, name: str, strength: float, noise: float, line: str
) -> None:
    plan = compile_plan(name, FLOW, strength=strength)
    assert start_of(plan) == pytest.approx((1 - noise, noise))
    (said,) = logged.messages
    assert said.startswith(f"strength {strength:g} is rounded to ") and line in said
    compile_plan(name, FLOW, strength=strength)
    assert logged.messages == [said]


@pytest.mark.parametrize("name", ["lcm:1", "ddim:2", "lcm:4", "ddim:7@flow_shift(shift=3)", "ddim:5@karras"])
@pytest.mark.parametrize("strength", [0.05, 0.33, 0.9])
def test_all_steps_run_and_begin_at_the_strength_of_a_fine_grid(
    logged: pytest.LogCaptureFixture, name: str, strength: float
) -> None:
    plan = compile_plan(name, FLOW, strength=AllSteps(strength))
    solver, _, rest = name.partition(":")
    steps, _, grid = rest.partition("@")
    fine = compile_plan(f"{solver}:500" + f"@{grid}" * bool(grid), FLOW, strength=strength)
    assert len(plan.steps) == int(steps) and plan.strength == 1
    assert start_of(plan)[1] == pytest.approx(start_of(fine)[1], abs=6e-3)
    (line,) = logged.messages
    assert line.startswith(f"{steps} steps run from the image: the run starts at time ")
    assert f"{start_of(plan)[1]:.3g} noise" in line


def test_all_steps_of_strength_1_are_those_of_the_plan() -> None:
    for name in ("ddim:3@karras", "lcm:4", "dpmpp_2m:5@flow_shift(shift=3)"):
        assert compile_plan(name, FLOW, strength=AllSteps(1.0)) == compile_plan(name, FLOW, strength=1.0)


def test_all_steps_are_equally_long() -> None:
    plan = compile_plan("ddim:4", FLOW, strength=AllSteps(0.6))
    assert [step.time for step in plan.steps] == pytest.approx([600, 450, 300, 150])


@pytest.mark.parametrize("facts", [FLOW, VP, EDM], ids=["flow", "vp", "edm"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_all_steps_run_from_a_noise(facts: DenoiserFacts, share: float) -> None:
    whole = compile_plan("ddim:20", facts)
    first, last = whole.steps[0].sigma, whole.steps[-1].sigma
    assert first is not None and last is not None
    noise = last + share * (first - last)
    plan = compile_plan("ddim:4", facts, strength=AllSteps(noise=noise))
    assert len(plan.steps) == 4 and start_of(plan)[1] == pytest.approx(noise, rel=0.02)


def test_a_noise_is_met_within_2_percent_or_refused_with_the_nearest() -> None:
    """The grid of 1000 timesteps has few low noise levels, and `beta` lacks grids of many steps."""
    with refuses("from noise 0.05: the nearest that its grid has is 0.0534"):
        compile_plan("ddim:7@leading", VP, strength=AllSteps(noise=0.05))
    with refuses("cannot run all steps from noise 0.02: the nearest that its grid has is 0.0228", "give that noise"):
        compile_plan("ddim:4", VP, strength=AllSteps(noise=0.02))
    assert len(compile_plan("ddim:4", VP, strength=AllSteps(noise=0.0228)).steps) == 4
    with refuses("from noise 0.02: the nearest that its grid has is 0.03"):
        compile_plan("ddim:4@beta", FLOW, strength=AllSteps(noise=0.02))


def test_a_start_that_no_grid_has_is_refused() -> None:
    fixed = "ddim:4@custom(times=(900, 600, 300, 100))"
    for strength in (0.5, 0.95):
        with refuses(("custom", f"strength {strength:g}: its grid takes no such number of steps"), "name another grid"):
            compile_plan(fixed, FLOW, strength=AllSteps(strength))
    with refuses(("custom", "takes no other number of steps"), "name another grid"):
        compile_plan(fixed, FLOW, strength=AllSteps(noise=0.5))
    assert len(compile_plan(fixed, FLOW, strength=AllSteps(1.0)).steps) == 4
    with refuses("noise 1.5 is outside the grid of plan 'ddim:4'", "give a noise in 0.001 .. 1"):
        compile_plan("ddim:4", FLOW, strength=AllSteps(noise=1.5))


@pytest.mark.parametrize("given", [{}, {"strength": 0.5, "noise": 0.5}, {"strength": 0}, {"noise": 0}])
def test_a_start_that_is_none_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(UserError):
        AllSteps(**given)


@pytest.mark.parametrize(
    ("name", "strength"), [("ddim:5", 0.6), ("ddim:4@arctan", 0.5), ("ddim:50", 0.33), ("lcm:1", 1)]
)
def test_nothing_is_said_of_a_strength_that_is_met(
    logged: pytest.LogCaptureFixture, name: str, strength: float
) -> None:
    compile_plan(name, FLOW, strength=strength)
    assert logged.messages == []


def test_steps_of_a_scheduler_are_rounded_down_as_in_diffusers_and_named(logged: pytest.LogCaptureFixture) -> None:
    plan = plan_from_scheduler_config(EULER, steps=4, strength=0.3)
    assert len(plan.steps) == 1
    assert logged.messages == [
        "strength 0.3 is rounded to 1 of 4 steps, which is 0.25: the run starts at time 8.92857, with 0.991 image and "
        "0.00893 noise"
    ]


def test_nothing_is_said_where_all_steps_run_below_the_strength(logged: pytest.LogCaptureFixture) -> None:
    pipeline = "LatentConsistencyModelImg2ImgPipeline"
    assert len(plan_from_scheduler_config(LCM, steps=4, strength=0.3, pipeline=pipeline).steps) == 4
    assert logged.messages == []


def test_a_strength_without_a_step_is_refused_with_the_least_that_has_one() -> None:
    with refuses("strength 0.2 leaves none of 4 steps", "give 0.25 or more, or 5 steps"):
        plan_from_scheduler_config(EULER, steps=4, strength=0.2)
    assert len(plan_from_scheduler_config(EULER, steps=4, strength=0.25).steps) == 1
    assert len(plan_from_scheduler_config(EULER, steps=5, strength=0.2).steps) == 1
    with pytest.raises(UserError, match="strength 0 is not in"):
        compile_plan("ddim:4", FLOW, strength=0)


@pytest.mark.parametrize("total", [1, 3, 4, 7, 28, 49, 50, 999])
def test_the_least_strength_leaves_the_steps_and_a_smaller_one_does_not(total: int) -> None:
    for steps in {1, (total + 1) // 2, total}:
        least = least_strength(steps, total)
        assert count_down(least, total) >= steps > count_down(least - 2e-4, total)


def test_rules_of_rounding() -> None:
    assert [count_steps(strength, 4) for strength in (0.05, 0.3, 0.4, 0.9, 1.0)] == [1, 1, 2, 4, 4]
    assert [count_down(strength, 4) for strength in (0.05, 0.3, 0.4, 0.9, 1.0)] == [0, 1, 1, 3, 4]
    assert [count_up(strength, 4) for strength in (0.05, 0.3, 0.4, 0.9, 1.0)] == [1, 2, 2, 4, 4]


def test_one_step_with_a_terminal_sigma_goes_from_1_to_0() -> None:
    (step,) = plan_from_scheduler_config({**EULER, "shift": 1.0, "shift_terminal": 0.1}, steps=1).steps
    assert (step.time, step.alpha, step.sigma) == (1000.0, 0.0, 1.0)
    named, plain = (compile_plan(f"ddim:1@flow_shift({text})", FLOW) for text in ("shift=3, terminal=0.1", "shift=3"))
    assert named.steps == plain.steps
