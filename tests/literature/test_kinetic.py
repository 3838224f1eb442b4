"""Kinetic-optimal paths for data of two points, with velocities and energies by quadrature."""

import math

import numpy as np
import pytest

from fewstep.literature.kinetic import estimate_separation, kinetic_optimal
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.execute_plan import sample

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(160)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
STEPS = 512
FLOW, CIRCLE = ScheduleSpec("flow", timesteps=1), ScheduleSpec("trigonometric")


def errors(ratios):
    """Return the least error for x0 = +-1, which tanh(s x / sigma) misses: the expectation over x = s + noise."""
    return np.array([WEIGHTS @ (1 - np.tanh(s * (s + NODES)) ** 2) for s in ratios])


RATIOS = np.tan(np.linspace(0.001, math.pi / 2 - 0.001, 4000))
SEPARATION = estimate_separation(RATIOS, errors(np.minimum(RATIOS, 30.0)) * (RATIOS < 30))
OPTIMAL = kinetic_optimal(SEPARATION, nodes=513)


def energy(spec, size=1.0):
    """Return int E u^2 dt with u = alpha' E[x0 | x] + sigma' E[eps | x], by quadrature over eps for x0 = size."""
    schedule, total = NoiseSchedule(spec), 0.0
    for i in range(STEPS):
        a, b = schedule.time((i + 1) / STEPS), schedule.time(i / STEPS)
        alpha, sigma = (a.alpha + b.alpha) / 2, (a.sigma + b.sigma) / 2
        x = alpha * size + sigma * NODES
        x0 = size * np.tanh(alpha * size * x / sigma**2)
        u = (a.alpha - b.alpha) * STEPS * x0 + (a.sigma - b.sigma) * STEPS * (x - alpha * x0) / sigma
        total += WEIGHTS @ u**2 / STEPS
    return total


def test_energy_is_least_and_the_square_of_a_chord():
    middle = math.pi / 2 * (np.arange(20_000) + 0.5) / 20_000
    theta = np.sqrt(SEPARATION(np.tan(middle))).mean() * math.pi / 2
    assert energy(OPTIMAL) == pytest.approx(2 - 2 * math.cos(theta), rel=2e-3)
    assert [energy(spec) for spec in (OPTIMAL, CIRCLE, FLOW)] == pytest.approx([0.459, 0.869, 0.982], abs=0.001)
    wide = kinetic_optimal(SEPARATION, deviation=2.0, nodes=513)  # for x0 = +-2 the chord is from 2 e^(i theta) to 1
    assert energy(wide, 2.0) == pytest.approx(5 - 4 * math.cos(theta), rel=2e-3)


def test_data_far_apart_have_the_straight_path():
    spec = kinetic_optimal(np.ones_like, nodes=9)
    assert spec.alphas == pytest.approx(np.linspace(1, 0, 9), abs=1e-6)
    assert spec.sigmas == pytest.approx(np.linspace(0, 1, 9), abs=1e-6)
    wide = kinetic_optimal(np.ones_like, deviation=4.0, nodes=9)  # in units of the data it is the same line
    assert wide.alphas == pytest.approx(np.linspace(1, 0, 9), abs=1e-6)


def test_few_even_steps_reach_the_data():
    """The RMS distance of the ends of four steps from -1 or 1, for a hundred starts."""

    def miss(spec):
        plan = compile_plan("ddim:4@trailing", DenoiserFacts(spec, "velocity"))

        def network(index, step, u):
            a, b = (NoiseSchedule(spec).time(t) for t in (max(step.time - 1e-4, 0), min(step.time + 1e-4, 1)))
            x0 = np.tanh(step.alpha * u / step.sigma**2)
            eps = (u - step.alpha * x0) / step.sigma
            return [((b.alpha - a.alpha) * x0 + (b.sigma - a.sigma) * eps) / (b.network - a.network)]

        starts = np.linspace(-2, 2, 100)
        return np.sqrt(np.mean((np.abs(sample(plan, network, lambda number: starts, np.float64)) - 1) ** 2))

    misses = [miss(spec) for spec in (OPTIMAL, CIRCLE, FLOW)]
    assert misses[0] == pytest.approx(0.0004, abs=1e-4) and misses[1:] == pytest.approx([0.161, 0.129], abs=0.001)


@pytest.mark.parametrize("value", [0.0, 2.0, math.nan])
def test_what_is_no_separation_is_refused(value):
    with pytest.raises(UserError, match="separation"):
        kinetic_optimal(lambda s: np.full_like(s, value))
