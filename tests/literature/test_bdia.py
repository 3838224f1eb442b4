"""BDIA: what goes in comes out."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.bdia import bdia, bdia_inverse
from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from tests.plans.convergence import slope
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising
from tests.plans.inverting import NOISE, run


@pytest.mark.parametrize(("gamma", "steps"), [(1.0, 50), (0.5, 12)])
@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_bdia_inverts_its_own_trajectory(spec, prediction, gamma, steps):
    """From the noisiest time to the clean end and back."""
    times = trailing(NoiseSchedule(spec), steps)
    x, before = run(partial(bdia, gamma=gamma), times, spec, prediction)
    back, _ = run(partial(bdia_inverse, gamma=gamma), times, spec, prediction, {"x": x, "x_before": before})
    assert np.abs(back - times[0].sigma * NOISE).max() < 1e-10


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
@pytest.mark.parametrize(("gamma", "order"), [(1.0, 2), (0.5, 1)])
def test_bdia_orders(gamma, order, spec, prediction):
    assert slope(partial(bdia, gamma=gamma), spec, prediction) == pytest.approx(order, abs=0.25)


def test_bdia_without_weight_on_the_past_is_ddim():
    times = trailing(NoiseSchedule(COSINE), 6)
    made, _ = run(partial(bdia, gamma=0.0), times, COSINE, "v")
    assert made == pytest.approx(run(solvers.ddim, times, COSINE, "v")[0], abs=1e-13)


@pytest.mark.parametrize(
    ("solver", "rows", "evaluations"),
    [(bdia, 2, 10), (bdia_inverse, 2, 9)],
)
def test_rows_and_evaluations(solver, rows, evaluations):
    plan = trace_plan("test", solver, trailing(NoiseSchedule(LINEAR), 10), denoising(LINEAR, "epsilon"))
    assert (plan.rows, len(plan.steps)) == (rows, evaluations)


@pytest.mark.parametrize(
    ("solver", "spec", "prediction", "says"),
    [
        (partial(bdia, gamma=-0.1), LINEAR, "epsilon", "gamma=-0.1 is not in 0 .. 1"),
        (partial(bdia_inverse, gamma=0.0), LINEAR, "epsilon", "bdia_inverse with gamma 0"),
    ],
)
def test_what_has_no_inverse_is_refused(solver, spec, prediction, says):
    with pytest.raises(UserError, match=says):
        trace_plan("test", solver, trailing(NoiseSchedule(spec), 4), denoising(spec, prediction))
