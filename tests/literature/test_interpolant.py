"""Stochastic interpolants between two Gaussians: velocity and score are affine, and every distribution has a closed
form.
"""

import math

import numpy as np
import pytest

from fewstep.literature.interpolant import BROWNIAN
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.execute_plan import sample

FROM, TO = (-0.6, 0.5), (0.4, 0.25)  # mean and deviation of y and of x0
WAYS = np.linspace(0, 1, 513)
CIRCLE = ScheduleSpec(  # beta is the sine of an angle, no 1 - alpha; gamma = sqrt(2 t (1 - t))
    "interpolant",
    alphas=(*np.cos(WAYS[:-1] * math.pi / 2).tolist(), 0.0),
    sigmas=tuple(np.sqrt(2 * WAYS * (1 - WAYS)).tolist()),
    shares=tuple(np.sin(WAYS * math.pi / 2).tolist()),
    time_scale=2.0,
)
DENOISER = DenoiserFacts(CIRCLE, "velocity", heads=2, towards="y")


def heads(index, step, u):
    """Velocity and score of independent y and x0, by hand, without the schedule's table."""
    angle, t = step.time * math.pi / 4, step.time / 2
    c, s = math.cos(angle), math.sin(angle)
    variance = c**2 * TO[1] ** 2 + s**2 * FROM[1] ** 2 + 2 * t * (1 - t)
    away = u - c * TO[0] - s * FROM[0]
    half_its_rate = math.pi / 2 * c * s * (FROM[1] ** 2 - TO[1] ** 2) + 1 - 2 * t
    return [math.pi / 2 * (c * FROM[0] - s * TO[0]) + half_its_rate / variance * away, -away / variance]


def law(name, steps):
    """Mean and deviation of the samples, over y and the draws: the sample is affine in all of them."""
    plan = compile_plan(f"{name}:{steps}@trailing", DENOISER)
    draws = np.eye(steps + 2, steps, -2)  # the first of the batch has y's mean and no noise, the second y alone
    y = np.where(np.arange(steps + 2) == 1, FROM[0] + FROM[1], FROM[0])
    mean, *responses = sample(plan, heads, lambda number: draws[:, number], np.float64, {"y": y})
    return float(mean), math.sqrt(sum((response - mean) ** 2 for response in responses))


@pytest.mark.parametrize("name", ["interpolant", "interpolant(epsilon=0.5)", "interpolant(epsilon=2, power=1)"])
def test_every_epsilon_has_the_law_of_the_data(name):
    errors = [np.abs(np.subtract(law(name, steps), TO)).max() for steps in (100, 400)]
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.35)  # of first order


def test_the_reported_sample_is_the_end_of_a_straight_line():
    x0, y = 0.3, -1.2
    plan = compile_plan("interpolant:4@trailing", DenoiserFacts(BROWNIAN, "velocity", heads=1, towards="y"))
    for step in plan.steps:
        row = (1 - step.time) * x0  # x without the share of y
        assert np.dot(step.x0, (row, y, y - x0)) == pytest.approx(x0)


@pytest.mark.parametrize("power", [0, 1])
def test_a_step_is_the_published_one(power):
    """Euler-Maruyama for b + e s, between two inner times, with a share of y other than 1 - alpha."""
    plan = compile_plan(f"interpolant(epsilon=0.5, power={power}):4@trailing", DENOISER)
    draws = np.random.default_rng(0).standard_normal((5, 3))
    y = np.array([-1.0, 0.2, 0.9])
    samples = sample(plan, heads, lambda number: draws[number], np.float64, {"y": y})
    x = y
    for i, t in enumerate((1.0, 0.75, 0.5, 0.25)):
        velocity, score = heads(i, plan.steps[i], x)
        gamma = math.sqrt(2 * t * (1 - t))
        e = 0.5 * gamma**power if 0 < i < 3 else 0.0  # the score is infinite at y, and no noise is added to data
        x = x - velocity / 4 + (e * score / 4 + math.sqrt(e / 2) * draws[i] if e else 0.0)
        assert plan.steps[i].time == 2 * t
    assert samples == pytest.approx(x, abs=1e-9)


def test_networks_that_see_y_take_any_solver():
    """If x0 is certain, ddim from y ends at it: alpha and the share come from the table, and y leaves x."""
    plan = compile_plan("ddim:4", DenoiserFacts(CIRCLE, "sample", towards="y"))
    seen = []

    def network(index, step, u):
        seen.append(u)
        return [np.full_like(u, 0.7)]

    samples = sample(plan, network, lambda number: np.zeros(2), np.float64, {"y": np.array([-1.0, 2.0])})
    assert samples == pytest.approx([0.7, 0.7], abs=1e-12)
    assert seen[0] == pytest.approx([-1.0, 2.0])
    angle = 0.75 * math.pi / 2
    assert seen[1] == pytest.approx(math.cos(angle) * 0.7 + math.sin(angle) * np.array([-1.0, 2.0]), abs=1e-5)


@pytest.mark.parametrize(
    ("denoiser", "name", "message"),
    [
        (DENOISER, "dpmpp_2m:4", "use the solver interpolant"),
        (DenoiserFacts(BROWNIAN, "velocity", towards="y"), "interpolant(epsilon=1):4", "with heads 2"),
        (DenoiserFacts(ScheduleSpec("linear"), "epsilon"), "interpolant:4", "1 output"),
        (DenoiserFacts(ScheduleSpec("linear"), "velocity"), "ddim:4", "defines a velocity in its time"),
    ],
)
def test_what_does_not_fit_is_refused(denoiser, name, message):
    with pytest.raises(UserError, match=message):
        compile_plan(name, denoiser)
