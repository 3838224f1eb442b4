"""USF: the solvers it contains come out of its decisions, and what it adds does what it says."""

from functools import partial
from math import expm1

import pytest

from fewstep.literature.usf import Decision, Expansion, bh1, bh2, usf
from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from tests.plans.convergence import STARTS, slope
from tests.plans.gaussian import COSINE, denoising, uniform_lambda
from tests.plans.mixture import WIDE, compiled


def multistep(order, on_noise=False, relaxation=None, corrected=False):
    """A solver of as many steps as it is given times, its order rising in the first ones."""

    def solver(trace, times):
        decisions = []
        for i in range(len(times) - 1):
            p = min(order, i + 1)
            predictor = Expansion(p, relaxation=relaxation if p == 2 else None)
            corrector = Expansion(p + 1, start=2, relaxation=relaxation if p == 1 else None)
            decisions.append(Decision(predictor, on_noise, corrector if corrected and i < len(times) - 2 else None))
        return usf(decisions)(trace, times)

    return solver


def two_evaluations(relaxation):
    """Singlestep of second order: steps of one time from the newest point, and of two from the one before."""

    def solver(trace, times):
        pair = [Decision(on_noise=True), Decision(Expansion(2, start=2, relaxation=relaxation), on_noise=True)]
        return usf(pair * ((len(times) - 1) // 2))(trace, times)

    return solver


def made(solver, times):
    return WIDE.run(compiled(solver, times, COSINE, "v"), COSINE, STARTS)


@pytest.mark.parametrize(
    ("known", "same"),
    [
        (solvers.ddim, multistep(1)),
        (solvers.dpmpp_2m, multistep(2, relaxation=bh2)),
        (partial(solvers.dpmpp_2m, midpoint=False), multistep(2)),
        (solvers.dpmpp_3m_exact, multistep(3)),
        (solvers.deis_log_rho_2, multistep(2, on_noise=True)),
        (solvers.deis_log_rho_3, multistep(3, on_noise=True)),
        (solvers.unipc_1, multistep(1, relaxation=bh2, corrected=True)),
        (solvers.unipc_2, multistep(2, relaxation=bh2, corrected=True)),
        (partial(solvers.unipc_2, bh1=True), multistep(2, relaxation=bh1, corrected=True)),
        (solvers.unipc_3, multistep(3, relaxation=bh2, corrected=True)),
    ],
)
def test_known_solvers_are_decisions(known, same):
    times = uniform_lambda(COSINE, 7)
    assert made(same, times) == pytest.approx(made(known, times), abs=1e-9)


def test_dpm_solver_2_is_a_start_point_two_back():
    coarse = uniform_lambda(COSINE, 4)
    fine = uniform_lambda(COSINE, 8)
    assert made(two_evaluations(bh2), fine) == pytest.approx(made(solvers.dpm_2, coarse), abs=1e-9)


@pytest.mark.parametrize(("order", "on_noise", "rows"), [(1, False, 1), (3, False, 3), (3, True, 3)])
def test_rows(order, on_noise, rows):
    plan = trace_plan("test", multistep(order, on_noise), uniform_lambda(COSINE, 8), denoising(COSINE, "v"))
    assert (plan.rows, len(plan.steps)) == (rows, 8)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_orders(order):
    assert slope(multistep(order), COSINE, "v") == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("relaxation", [bh1, bh2, lambda z: 1 + expm1(z) / 2])
def test_relaxation_keeps_the_order(relaxation):
    assert slope(multistep(2, relaxation=relaxation), COSINE, "v") == pytest.approx(2, abs=0.25)


def test_more_differences_than_derivatives():
    """The first derivative of an order-2 step from two differences: its estimate is then of second order."""

    def solver(trace, times):
        counts = [min(2, i) for i in range(len(times) - 1)]
        decisions = [Decision(Expansion(2, differences=(n,)) if n else Expansion()) for n in counts]
        return usf(decisions)(trace, times)

    assert slope(solver, COSINE, "v") == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize(
    ("decisions", "times", "match"),
    [
        ([Decision()] * 3, uniform_lambda(COSINE, 4), "3 decisions for 4 steps"),
        ([Decision(Expansion(2))], uniform_lambda(COSINE, 1), "derivative 1 from 1 differences with 1 points"),
        ([Decision(Expansion(start=2))], uniform_lambda(COSINE, 1), "with 1 points known"),
        ([Decision(), Decision(Expansion(2))], trailing(NoiseSchedule(COSINE), 2), "infinitely long"),
        ([Decision(corrector=Expansion(2, start=2))], trailing(NoiseSchedule(COSINE), 1), "clean end"),
    ],
)
def test_impossible_decisions_are_refused(decisions, times, match):
    with pytest.raises(UserError, match=match):
        trace_plan("test", usf(decisions), times, denoising(COSINE, "v"))
