"""USF: its decisions give the solvers that it contains, and its additions follow their formulas."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.fits import solver_search
from fewstep.literature.usf import Decision, Expansion, bh1, bh2, usf
from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import trailing
from fewstep.plans.guidance import CfgPlusPlus
from fewstep.plans.schedule import NoiseSchedule
from tests.plans.convergence import STARTS, slope
from tests.plans.execute_plan import record_inputs, sample
from tests.plans.gaussian import COSINE, denoising, uniform_lambda
from tests.plans.mixture import WIDE, compile_solver


def multistep(order, on_noise=False, relaxation=None, corrected=False):
    """A solver with as many steps as it gets times. Its order rises in the first ones."""

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
    """Singlestep of second order: a step over one interval from the newest point, then one over two from the point
    before."""

    def solver(trace, times):
        pair = [Decision(on_noise=True), Decision(Expansion(2, start=2, relaxation=relaxation), on_noise=True)]
        return usf(pair * ((len(times) - 1) // 2))(trace, times)

    return solver


def made(solver, times):
    return WIDE.run(compile_solver(solver, times, COSINE, "v"), COSINE, STARTS)


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
        (partial(solvers.unipc_2, on_noise=True), multistep(2, True, relaxation=bh2, corrected=True)),
        (solvers.unipc_3, multistep(3, relaxation=bh2, corrected=True)),
    ],
)
def test_known_solvers_are_decisions(known, same):
    times = uniform_lambda(COSINE, 7)
    assert made(same, times) == pytest.approx(made(known, times), abs=1e-9)


def test_a_corrector_moves_the_predicted_x_as_cfg_plus_plus_does():
    """As in UniPC's plans, which have it in the step itself."""
    times, draw = uniform_lambda(COSINE, 7), np.linspace(-2, 2, 5)

    def network(index, step, u):
        return [np.sin((3 + place) * u + step.time / 300) for place in range(len(step.branches))]

    ours, theirs = (
        sample(trace_plan("a", each, times, denoising(COSINE, "v"), CfgPlusPlus(0.6)), network, lambda k: draw, float)
        for each in (multistep(2, relaxation=bh2, corrected=True), solvers.unipc_2)
    )
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_the_search_begins_at_dpm_solver_pp_without_and_with_a_corrector_of_order_2():
    times = uniform_lambda(COSINE, 7)
    plain, corrected = (solver_search.multistep(7, 0, each) for each in (False, True))
    known = partial(solvers.dpmpp_2m, lower_order_final=True)
    assert made(usf(plain), times) == pytest.approx(made(known, times), abs=1e-9)
    assert [each.corrector for each in corrected] == [None, *[Expansion(2, 2, relaxation=bh2)] * 5, None]


def test_the_search_also_begins_at_unipc_of_order_2():
    """From pure noise the first step has no corrector, and the second one starts without a difference."""
    times = uniform_lambda(COSINE, 7)
    known = partial(solvers.unipc_2, lower_order_final=True)
    assert made(usf(solver_search.unipc(7, 0)), times) == pytest.approx(made(known, times), abs=1e-9)
    assert solver_search.unipc(7, 1) == (Decision(), *solver_search.unipc(6, 0))


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


@pytest.mark.parametrize("on_noise", [False, True])
def test_a_step_expands_from_its_start_by_its_own_differences(on_noise):
    """From the third newest point: by the slope to the next one, relaxed, and the curvature of a cubic through all."""
    times = [NoiseSchedule(COSINE).time(t) for t in (900, 700, 520, 300, 180)]
    expansion = Expansion(3, start=3, differences=(1, 3), relaxation=lambda z: 1 + z / 10)
    solver = usf([*[Decision(on_noise=on_noise)] * 3, Decision(expansion, on_noise)])
    plan = trace_plan("test", solver, times, denoising(COSINE, "epsilon" if on_noise else "sample"))
    m, (_, s, *_, t) = np.random.default_rng(0).standard_normal(4), times
    made, seen = record_inputs(plan, [[each] for each in m[:, None]], [np.array([1.1])])
    lams = np.array([time.lam - s.lam for time in times])
    sign, kept, scale = (-1, t.alpha / s.alpha, -t.alpha) if on_noise else (1, t.sigma / s.sigma, t.sigma)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    at, weights = lams[-1] * (nodes + 1) / 2, lams[-1] * weights / 2
    slope, curve = (1 - sign * lams[-1] / 10) * (m[2] - m[1]) / lams[2], 2 * np.polyfit(lams[:-1], m, 3)[1]
    moved = weights @ (np.exp(sign * (s.lam + at)) * (m[1] + slope * at + curve / 2 * at**2))
    assert made == pytest.approx(kept * seen[1] + scale * moved, rel=1e-9)


@pytest.mark.parametrize(
    ("decisions", "times", "match"),
    [
        ([Decision()] * 3, uniform_lambda(COSINE, 4), "3 decisions for 4 steps"),
        (
            [Decision(Expansion(2))],
            uniform_lambda(COSINE, 1),
            "derivative 1 cannot be estimated from 1 differences with 1 known points",
        ),
        ([Decision(Expansion(start=2))], uniform_lambda(COSINE, 1), "1 known points"),
        ([Decision(), Decision(Expansion(2))], trailing(NoiseSchedule(COSINE), 2), "infinitely long"),
        ([Decision(corrector=Expansion(2, start=2))], trailing(NoiseSchedule(COSINE), 1), "clean end"),
    ],
)
def test_impossible_decisions_are_refused(decisions, times, match):
    with pytest.raises(UserError, match=match):
        trace_plan("test", usf(decisions), times, denoising(COSINE, "v"))
