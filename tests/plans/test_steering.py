"""Steering by a gradient: the coefficients of a plan's columns, compared with the formula."""

from dataclasses import replace

import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg, Pag, Steer
from fewstep.plans.spec import DenoiserFacts, NetworkFacts, ScheduleSpec
from tests.refusals import refuses

DENOISING = DenoiserFacts(ScheduleSpec("cosine"), "epsilon")
STEERED = DenoiserFacts(DENOISING.schedule, DENOISING.prediction, heads=2, steers="x")


@pytest.mark.parametrize(
    ("scale", "size"),
    [
        ("sigma2/alpha", lambda alpha, sigma: sigma**2 / alpha if alpha else 0.0),
        ("variance", lambda alpha, sigma: sigma**2 / (alpha**2 + sigma**2)),
        ("one", lambda alpha, sigma: 1.0),
    ],
)
@pytest.mark.parametrize("of", [("cosine", "epsilon"), ("flow", "flow"), ("edm", "edm")], ids=lambda of: of[0])
def test_steering_adds_the_gradient_of_the_conditional_branch_to_x0(scale, size, of):
    """Also if alpha^2 + sigma^2 is not 1. A flow starts from pure noise, where "sigma2/alpha" has no gradient."""
    facts = DenoiserFacts(ScheduleSpec(of[0]), of[1], heads=2, steers="x")
    plain = compile_plan("ddim:4", facts, 2.0)
    plan = compile_plan("ddim:4", facts, Steer((0.5, 2.0, 0.0, -1.0), scale, Cfg(2.0)))
    for step, before, weight in zip(plan.steps, plain.steps, (0.5, 2.0, 0.0, -1.0), strict=True):
        assert step.branches == before.branches == ("cond", "uncond")
        factor = weight * size(step.alpha, step.sigma)
        column = plan.rows + 1  # after the rows: the prediction of cond, its gradient, and both of uncond
        assert step.x0[column] == pytest.approx(factor, rel=1e-12)
        changed = [*step.x0[:column], 0.0, *step.x0[column + 1 :]]
        assert changed == pytest.approx(before.x0, rel=1e-12)


def test_the_last_weight_is_for_all_evaluations_that_follow():
    short, long = (compile_plan("ddim:4", STEERED, Steer(weights)) for weights in ((1.0, 2.0), (1.0, 2.0, 2.0, 2.0)))
    assert short.steps == long.steps


def test_the_scale_of_a_gradient_follows_what_it_is_by():
    for by, scale in (("x", "sigma2/alpha"), ("x0", "variance")):
        facts = replace(STEERED, steers=by)
        assert compile_plan("ddim:4", facts, Steer(2.0)).steps == compile_plan("ddim:4", facts, Steer(2.0, scale)).steps


def test_steering_by_one_output_says_how_to_export():
    with refuses("second output is a gradient", "with_gradient"):
        compile_plan("ddim:4", DENOISING, Steer())
    with pytest.raises(UserError, match="second output is a gradient"):
        compile_plan("ddim:4", replace(STEERED, steers=None), Steer())
    expert = NetworkFacts("noisy", 0.0, DENOISING.prediction, 2, "x0")
    with refuses("one variable, not x and x0"):
        compile_plan("ddim:4", replace(STEERED, networks=(expert,)), Steer())
    with pytest.raises(UserError, match="needs perturbed attention"):
        compile_plan("ddim:4", replace(STEERED, perturbed=False), Steer(guidance=Pag(2.0)))
    with pytest.raises(UserError, match="has no weight"):
        compile_plan("ddim:4", STEERED, Steer(()))
    start = compile_plan("ddim:2", DenoiserFacts(ScheduleSpec("flow"), "flow", heads=2, steers="x"), Steer())
    assert start.steps[0].alpha == 0 == start.steps[0].x0[start.rows + 1] != start.steps[1].x0[start.rows + 1]


def test_a_step_whose_network_has_no_gradient_is_not_steered():
    """Like weight 0 there, without the cost of the gradient. A second output that is not a gradient is not read."""
    plain = NetworkFacts("plain", 0.0, DENOISING.prediction)
    for expert in (plain, replace(plain, heads=2)):
        plan = compile_plan("ddim:4", replace(STEERED, networks=(expert,)), Steer(2.0))
        weights = tuple(0.0 if step.network == "plain" else 2.0 for step in plan.steps)
        assert [step.heads for step in plan.steps] == [expert.heads if w == 0 else 2 for w in weights]
        for step, same in zip(plan.steps, compile_plan("ddim:4", STEERED, Steer(weights)).steps, strict=True):
            assert (*step.x0, 0.0)[: len(same.x0)] == same.x0
        assert 0.0 in weights and 2.0 in weights
