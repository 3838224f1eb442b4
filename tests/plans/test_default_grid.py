"""The grid of plan names without one: the rule, and the stored name."""

from dataclasses import replace

import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.default_grid import default_grid
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_name import SOLVERS, parse_plan_name, with_grid
from fewstep.plans.publication import facts_of
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec

COSINE = DenoiserFacts(ScheduleSpec("cosine"), "v", grid="arctan")


@pytest.mark.parametrize(
    ("schedule", "prediction", "grid"),
    [
        (ScheduleSpec("cosine"), "v", "arctan"),
        (ScheduleSpec("linear"), "epsilon", "arctan"),
        (ScheduleSpec("flow"), "flow", "arctan"),
        (ScheduleSpec("edm"), "edm", "arctan"),
        (ScheduleSpec("exploding"), "score", "arctan"),
        (ScheduleSpec("cosine", 80), "epsilon", "arctan"),
        (ScheduleSpec("cosine", 79), "epsilon", "trailing"),  # the network knows no times between
        (ScheduleSpec("residual-shift", 1000), "sample", "trailing"),  # restoration
        (ScheduleSpec("flow"), "residual", "trailing"),
        (ScheduleSpec("cosine"), "sample", "trailing"),  # a policy's
        (ScheduleSpec("exploding"), "sample", "arctan"),  # `trailing` would evaluate sigma_min
        (ScheduleSpec("flow"), "consistency", "trailing"),  # distilled
        (ScheduleSpec("edm"), "consistency", "arctan"),  # `trailing` would evaluate sigma_min
    ],
)
def test_the_rule_looks_at_schedule_and_prediction(schedule, prediction, grid):
    assert default_grid(schedule, prediction) == grid


def test_a_name_without_a_grid_has_that_of_the_denoiser_and_says_so():
    assert compile_plan("dpmpp_2m:6", COSINE) == compile_plan("dpmpp_2m:6@arctan", COSINE)
    assert compile_plan("dpmpp_2m:6", COSINE).name == "dpmpp_2m:6@arctan"
    assert parse_plan_name("ddim:6", "karras(rho=5)").text == "ddim:6@karras(rho=5)"


FLOW = DenoiserFacts(ScheduleSpec("flow"), "flow", grid="arctan")


@pytest.mark.parametrize("name", ["euler", "flow_euler", "flow_heun"])
def test_names_of_loops_over_flows_mean_equal_steps_or_the_grid_of_the_spec(name: str) -> None:
    assert compile_plan(f"{name}:4", FLOW).steps == compile_plan(f"{name}:4@trailing", FLOW).steps
    shifted = replace(FLOW, grid="flow_shift(shift=5)")
    assert compile_plan(f"{name}:4", shifted).steps == compile_plan(f"{name}:4@flow_shift(shift=5)", shifted).steps
    assert compile_plan(f"{name}:4@karras", FLOW) == compile_plan(f"{name}:4@karras", shifted)


def test_euler_of_other_schedules_is_ddim() -> None:
    assert compile_plan("euler:4", COSINE).steps == compile_plan("ddim:4", COSINE).steps
    assert compile_plan("ddim:4", FLOW) == compile_plan("ddim:4@arctan", FLOW)


def test_a_name_with_a_grid_means_the_same_everywhere():
    old = DenoiserFacts(COSINE.schedule, "v")
    assert compile_plan("ddim:6@karras", COSINE) == compile_plan("ddim:6@karras", old)
    here, there = compile_plan("ddim:6@trailing", COSINE), compile_plan("ddim:6@trailing", old)
    assert here.steps == there.steps and (here.name, there.name) == ("ddim:6@trailing", "ddim:6")


@pytest.mark.parametrize("name", [name for name in SOLVERS.names() if facts_of(SOLVERS.find(name)).distilled])
def test_solvers_of_distilled_denoisers_keep_to_the_times_of_training(name):
    assert parse_plan_name(f"{name}:4", "arctan").text == f"{name}:4@trailing"
    assert parse_plan_name(f"{name}:4@karras", "arctan").text == f"{name}:4@karras"


EXPLODING = ScheduleSpec("exploding", sigma_min=0.002, sigma_max=80.0)
CONSISTENCY = DenoiserFacts(EXPLODING, "sample")  # a consistency function of one's own


@pytest.mark.parametrize("grid", ["trailing", "karras"])
@pytest.mark.parametrize(
    ("solver", "denoiser"),
    [
        ("consistency", CONSISTENCY),
        ("renoise", CONSISTENCY),
        ("ctm", CONSISTENCY),
        ("ddim", DenoiserFacts(ScheduleSpec("edm"), "consistency")),
        ("ddim", replace(CONSISTENCY, distilled=True, grid="arctan")),
    ],
)
def test_a_step_that_does_nothing_is_refused(solver: str, denoiser: DenoiserFacts, grid: str) -> None:
    with pytest.raises(UserError, match=r"from time (0.002|-1.55\d*) does nothing") as refused:
        compile_plan(f"{solver}:2@{grid}", denoiser)
    assert refused.value.fix == f"use a grid that ends before it, such as {solver}:2@arctan"
    assert len(compile_plan(f"{solver}:1@{grid}", denoiser).steps) == 1


def test_a_distilled_denoiser_may_know_sigma_min() -> None:
    """Its spec says so by the grid; progressive distillation halves the steps of any sampler."""
    known = replace(CONSISTENCY, distilled=True, grid="karras")
    assert len(compile_plan("ddim:2", known).steps) == len(compile_plan("ddim:2@karras", known).steps) == 2
    assert len(compile_plan("stochastic_distilled:4@karras", DenoiserFacts(EXPLODING, "sample")).steps) == 4


def test_consistency_has_two_steps_that_count() -> None:
    plan = compile_plan("consistency:2", CONSISTENCY)
    assert plan.name == "consistency:2@arctan"
    assert [step.time for step in plan.steps] == pytest.approx([80.0, 1.33], abs=0.01)


def test_the_grid_that_a_spec_names_is_of_distilled_solvers_too() -> None:
    trained = "custom(times=(80.0, 0.8))"
    plan = compile_plan("consistency:2", replace(CONSISTENCY, grid=trained))
    assert plan.name == "consistency:2@custom(times=[80, 0.8])" and plan.steps[1].time == 0.8


def test_the_solvers_of_distilled_denoisers_are_those_without_order_or_inverse():
    distilled = {name for name in SOLVERS.names() if facts_of(SOLVERS.find(name)).distilled}
    assert distilled == {"consistency", "ctm", "lcm", "renoise", "rfpp", "stochastic_distilled", "tcd"}


def test_a_strength_counts_the_time_of_the_training():
    assert compile_plan("ddim:5", COSINE, strength=0.6) == compile_plan("ddim:5@trailing", COSINE, strength=0.6)
    assert compile_plan("ddim:5@arctan", COSINE, strength=0.6).name == "ddim:5@arctan"


def test_a_plan_with_a_strength_is_not_called_as_another_plan_without_it():
    warm = compile_plan("ddim:5", COSINE, strength=1.0)
    assert warm.name == "ddim:5@trailing"
    assert [step.time for step in compile_plan(warm.name, COSINE).steps] == [step.time for step in warm.steps]
    assert compile_plan("ddim:5", DenoiserFacts(COSINE.schedule, "v"), strength=1.0).name == "ddim:5"


def test_a_kept_name_without_a_grid_is_on_trailing_and_names_of_no_solver_have_none():
    names = ("unipc_2(bh1=True):5", "ddim:5@karras", "scheduler:5", "fitted:5", "mine")
    assert [with_grid(name) for name in names] == ["unipc_2(bh1=True):5@trailing", *names[1:]]


def test_a_grid_that_nobody_knows_is_refused():
    with pytest.raises(UserError, match="unknown grid 'spiral'"):
        parse_plan_name("ddim:4", "spiral")
