"""SA-Solver: its draws, its ends and its weights. test_order.py tests its orders without noise, test_stochastic.py
those with noise and the exact distribution on one point, and test_names.py the solvers that it equals.
"""

from functools import partial

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.adams import exponential_moments, weights_of_moments
from fewstep.plans.solvers.sa_solver import sa_solver
from tests.plans.convergence import moments
from tests.plans.gaussian import FLOW, LINEAR, denoising, one_point

UNEVEN = [NoiseSchedule(LINEAR).time(t) for t in (930.0, 850.0, 720.0, 610.0, 430.0, 300.0, 180.0)]


def test_predictor_and_corrector_read_the_same_noise():
    plan = trace_plan("test", sa_solver, UNEVEN, denoising(LINEAR, "sample"))
    for number, step in enumerate(plan.steps[:-1], start=1):
        assert step.draws == (number,)
        assert sum(row[-1] != 0 for row in step.update) == 2
        assert len({row[-1] for row in step.update} - {0.0}) == 1
    assert sum(row[-1] != 0 for row in plan.steps[-1].update) == 1  # nothing to correct after the last


def test_tau_may_be_on_in_an_interval_of_the_networks_time():
    plan = trace_plan("test", partial(sa_solver, tau_from=200.0, tau_to=800.0), UNEVEN, denoising(LINEAR, "epsilon"))
    assert [bool(step.draws) for step in plan.steps] == [False, False, True, True, True, True]


@pytest.mark.parametrize("spec", [LINEAR, FLOW], ids=lambda spec: spec.kind)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_from_the_noisiest_time_to_the_clean_end(steps, spec):
    """Data of one point are reached, and no noise is left."""
    plan = compile_plan(f"sa_solver(predictor=3, corrector=3):{steps}", denoising(spec, "sample"))
    mean, std = moments(plan, one_point("sample"))
    assert mean == pytest.approx(0.7, abs=1e-12)
    assert std == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("z", [-30.0, -2.0, -1e-3, 0.5, 3.0])
@pytest.mark.parametrize("nodes", [[0.0], [0.0, -0.7], [1.0, 0.0, -1.3], [0.0, -1.0, -1.8, -3.1]])
def test_adams_weights_integrate_polynomials_exactly(nodes, z):
    points, weights = np.polynomial.legendre.leggauss(60)
    r = (points + 1) / 2
    made_weights = weights_of_moments(nodes, exponential_moments(len(nodes), z))
    for power in range(len(nodes)):
        exact = z * float(weights / 2 @ (np.exp((1 - r) * z) * r**power))
        made = sum(w * node**power for w, node in zip(made_weights, nodes, strict=True))
        assert made == pytest.approx(exact, rel=1e-9, abs=1e-12)
