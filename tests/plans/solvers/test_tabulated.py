"""A solver given by numbers: any one-evaluation solver, unrolled, gives itself back."""

import numpy as np
import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.solvers.tabulated import tabulated
from fewstep.runtime.execute import execute, finish
from tests.plans.execution import sample
from tests.plans.gaussian import COSINE, denoising, uniform_lambda


def unrolled(solver, times, on_noise):
    """Rows over the start and the predictions so far, run on a basis: prediction k is the k-th unit vector."""
    plan = trace_plan("test", solver, times, denoising(COSINE, "epsilon" if on_noise else "sample"))
    size = len(times)
    states = execute(
        plan, lambda i, step, u: [np.eye(size)[i + 1]], lambda k: np.eye(size)[0] / times[0].sigma, np.float64
    )
    seen = list(states)
    xs = [*(state.u for state in seen[1:]), finish(plan, seen, np.float64)]
    return [tuple(x[: i + 2]) for i, x in enumerate(xs)]


@pytest.mark.parametrize("on_noise", [False, True])
@pytest.mark.parametrize("solver", [solvers.ddim, solvers.dpmpp_2m, solvers.unipc_3, solvers.lms_4])
def test_an_unrolled_solver_is_itself(solver, on_noise):
    times = uniform_lambda(COSINE, 6)
    rows = unrolled(solver, times, on_noise)
    x = np.linspace(-2, 2, 7)

    def network(index, step, u):
        return [np.tanh(u + step.time / 300)]

    plans = [trace_plan("test", each, times, denoising(COSINE, "v")) for each in (solver, tabulated(rows, on_noise))]
    one, other = (sample(plan, network, lambda k: x, np.float64) for plan in plans)
    assert other == pytest.approx(one, abs=1e-9)


def test_rows_of_the_plan():
    times = uniform_lambda(COSINE, 5)
    plan = trace_plan("test", tabulated(unrolled(solvers.ddim, times, False)), times, denoising(COSINE, "v"))
    assert (plan.rows, len(plan.steps)) == (6, 5)


def test_rows_must_be_those_of_the_steps():
    with pytest.raises(UserError, match="rows have"):
        tabulated([(1.0, 0.5), (1.0, 0.5)])
    with pytest.raises(UserError, match="1 rows for 2 steps"):
        trace_plan("test", tabulated([(1.0, 0.5)]), uniform_lambda(COSINE, 2), denoising(COSINE, "v"))
