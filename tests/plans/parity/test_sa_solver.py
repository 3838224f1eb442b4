"""SA-Solver against diffusers' SASolverScheduler: rows and trajectories."""

from functools import partial

import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.solvers.sa_solver import sa_solver
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.parity.extract import assert_same_rows, assert_same_trajectory, extract, times_of, unroll

diffusers = pytest.importorskip("diffusers")

INTERVAL = {"tau": 1.0, "tau_from": 200.0, "tau_to": 800.0}  # the scheduler's own tau


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("predictor", "corrector"), [(1, 2), (2, 2), (3, 3), (2, 1), (2, 4), (4, 3)])
def test_rows(predictor, corrector, prediction):
    compare(8, INTERVAL, predictor, corrector, prediction=prediction)


@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"timestep_spacing": "leading"}, {"beta_schedule": "linear", "timestep_spacing": "trailing"}]
)
def test_grids(options, lower_order_final):
    compare(9, INTERVAL, 3, 3, lower_order_final=lower_order_final, **options)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_tau(tau):
    compare(6, {"tau": tau}, 2, 3, tau_func=lambda t: tau)


def compare(steps, tau, predictor, corrector, prediction="epsilon", lower_order_final=True, **options):
    scheduler = diffusers.SASolverScheduler(
        predictor_order=predictor,
        corrector_order=corrector,
        prediction_type=prediction,
        lower_order_final=lower_order_final,
        **options,
    )
    solver = partial(sa_solver, predictor=predictor, corrector=corrector, lower_order_final=lower_order_final, **tau)
    denoiser = DenoiserFacts(ScheduleSpec("linear"), prediction.removesuffix("_prediction"))
    plan = trace_plan("test", solver, times_of(scheduler, steps), denoiser)
    assert_same_rows(unroll(plan).from_first_input(), extract(scheduler, steps).from_first_input())
    if "tau_from" not in tau:  # the scheduler draws noise at steps that use none as well
        plan = trace_plan("test", scaled(solver), times_of(scheduler, steps), denoiser)
        assert_same_trajectory(plan, scheduler, steps)


def scaled(solver):
    """Started like the scheduler, from noise of deviation 1 rather than sigma."""

    def started(trace, times):
        trace.first = type(times[0])(times[0].network, times[0].alpha, 1.0)
        return solver(trace, times)

    return started
