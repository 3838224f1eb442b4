"""DPM-Solver-v3: exact on Gaussian data in one step, and DPM-Solver++ with neutral statistics."""

from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest

from fewstep.literature.dpm_v3 import Ems, dpm_v3, integrate
from fewstep.literature.fits.ems import estimate_ems
from fewstep.literature.usf import Decision, Expansion, usf
from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.grids import trailing
from fewstep.plans.guidance import CfgPlusPlus
from fewstep.plans.schedule import NoiseSchedule
from tests.plans.convergence import error, slope
from tests.plans.execute_plan import sample
from tests.plans.gaussian import COSINE, LINEAR, MEAN, STD, denoising, exact_x0, flow_map, run, uniform_lambda
from tests.plans.mixture import WIDE

X = np.linspace(-2, 2, 5)


def gaussian_ems(spec, points=240):
    """The exact statistics of N(MEAN, STD^2): sigma eps = l (x - alpha MEAN), so f = -l MEAN, which b compensates."""
    schedule = NoiseSchedule(spec)
    lams = np.linspace(schedule.lam(995), schedule.lam(10), points)
    l = 1 / (1 + STD**2 * np.exp(2 * lams))  # noqa: E741
    return Ems(lams, l, np.zeros(points), MEAN * 2 * l * (1 - l))


def degenerate(spec, points=60):
    schedule = NoiseSchedule(spec)
    lams = np.linspace(schedule.lam(999), schedule.lam(0), points)
    return Ems(lams, np.ones(points), np.zeros(points), np.zeros(points))


@cache
def mixture_ems():
    """Statistics estimated on rollouts of the mixture, which its quantiles give exactly."""
    times = uniform_lambda(COSINE, 80, 995, 10)
    x = times[0].sigma * np.random.default_rng(0).standard_normal(128)
    states = [WIDE.flow_map(x, times[0], time)[:, None] for time in times]

    def predict_noise(x, time):
        return (x - time.alpha * WIDE.exact_x0(x, time)) / time.sigma

    ems = estimate_ems(predict_noise, times, states)
    return Ems(ems.lams, ems.l[:, 0], ems.s[:, 0], ems.b[:, 0])


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v")])
@pytest.mark.parametrize(("order", "steps"), [(1, 1), (1, 4), (2, 4), (3, 4)])
def test_gaussian_data_are_exact_in_one_step(order, steps, spec, prediction):
    times = uniform_lambda(spec, steps, 995, 10)
    plan = trace_plan("test", dpm_v3(gaussian_ems(spec), order), times, denoising(spec, prediction))
    exact = flow_map(times[0].sigma * X, times[0], times[-1])
    assert np.abs(run(plan, spec, [X]) - exact).max() < (1e-10 if steps == 1 else 1e-8)


@pytest.mark.parametrize(
    ("order", "known", "to_the_end"),
    [
        (1, solvers.ddim, 1e-9),
        (2, partial(solvers.dpmpp_2m, midpoint=False), 2e-1),  # its orders fall before the clean end
        (3, solvers.dpmpp_3m_exact, 2e-1),
    ],
)
def test_statistics_that_say_nothing_leave_dpm_solver_pp(order, known, to_the_end):
    """l = 1, s = b = 0; between times with noise, and from the noisiest timestep to the clean end."""
    for times, tolerance in ((uniform_lambda(COSINE, 7), 1e-9), (trailing(NoiseSchedule(COSINE), 7), to_the_end)):
        ours, theirs = (
            sample(
                trace_plan("a", each, times, denoising(COSINE, "v")),
                lambda i, step, u: [np.sin(3 * u + step.time / 300)],
                lambda k: X,
                np.float64,
            )
            for each in (dpm_v3(degenerate(COSINE), order, False), known)
        )
        assert ours == pytest.approx(theirs, abs=tolerance)


def test_a_corrector_moves_the_predicted_x_as_cfg_plus_plus_does():
    """With l = 1, s = b = 0 and one value of f these are steps of first order with a corrector of second order."""
    corrector = Expansion(2, start=2)
    known = usf([*(Decision(corrector=corrector) for _ in range(6)), Decision()])

    def network(index, step, u):
        return [np.sin((3 + place) * u + step.time / 300) for place in range(len(step.branches))]

    times, facts = uniform_lambda(COSINE, 7), denoising(COSINE, "v")
    ours, theirs = (
        sample(trace_plan("a", each, times, facts, CfgPlusPlus(0.6)), network, lambda k: X, np.float64)
        for each in (dpm_v3(degenerate(COSINE), 1), known)
    )
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_by_default_it_has_order_3_and_the_corrector():
    times, facts = uniform_lambda(COSINE, 5), denoising(COSINE, "v")
    solvers = (dpm_v3(degenerate(COSINE), *each) for each in ((), (3, True), (2, True)))
    plans = [trace_plan("test", solver, times, facts) for solver in solvers]
    assert encode(plans[0]) == encode(plans[1]) != encode(plans[2])


def test_orders_fall_before_the_clean_end_as_in_the_authors_code():
    """Of 4 steps the third has order 2 at most, and the second knows two values. Without a clean end it has order 3."""
    for times, falls in ((trailing(NoiseSchedule(COSINE), 4), True), (uniform_lambda(COSINE, 4), False)):
        second, third = (
            trace_plan("a", dpm_v3(degenerate(COSINE), order, False), times, denoising(COSINE, "v")).steps[2].update[0]
            for order in (2, 3)
        )
        assert np.count_nonzero(second) == 3 and np.count_nonzero(third) == (3 if falls else 4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_corrector_redoes_the_step_with_the_value_at_its_end(order):
    """By hand for l = 0.6 and s = b = 0: a curve through f, and in the corrector through f's divided differences
    from the start of the step. The value at the end is of the uncorrected x, as in the authors' code.
    """
    times, base, l = uniform_lambda(COSINE, 5), degenerate(COSINE), 0.6  # noqa: E741
    points, weights = np.polynomial.legendre.leggauss(20)

    def x0_of(x, time):
        return np.sin(3 * x + time.network / 300)

    def f_of(x, time):
        return (1 - l) / time.alpha * x - x0_of(x, time)

    def move(x, s, t, *derivatives):
        h = t.lam - s.lam
        q = h * (points + 1) / 2
        f = sum(derivative * q[:, None] ** power for power, derivative in enumerate(derivatives))
        return t.alpha * (np.exp(-l * h) * x / s.alpha - (weights * np.exp(l * (q - h))) @ f * h / 2)

    def difference_quotient(*known):
        (a, first), (b, _) = known[0], known[-1]
        return first if a == b else (difference_quotient(*known[1:]) - difference_quotient(*known[:-1])) / (b - a)

    x = times[0].sigma * X
    known = [(times[0].lam, f_of(x, times[0]))]  # newest first
    for s, t in pairwise(times):
        lams, values = map(np.array, zip(*known, strict=True))
        predicted = move(x, s, t, *np.polyfit(lams - s.lam, values, len(known) - 1)[::-1])
        ends = [known[0], (t.lam, f_of(predicted, t)), *known[1:]]
        x, known = (
            move(x, s, t, *(difference_quotient(*ends[: n + 1]) for n in range(len(ends)))),
            [ends[1], *known][:order],
        )
    ems = Ems(base.lams, l * base.l, base.s, base.b)
    plan = trace_plan("test", dpm_v3(ems, order), times, denoising(COSINE, "sample"))
    made = sample(plan, lambda i, step, u: [x0_of(u, times[i])], lambda k: X, np.float64)
    assert made == pytest.approx(predicted, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("order", "corrector", "measured"), [(1, False, 1), (3, False, 3), (1, True, 2), (3, True, 2)])
def test_orders(order, corrector, measured):
    solver = dpm_v3(mixture_ems(), order, corrector)
    assert slope(solver, COSINE, "v") == pytest.approx(measured, abs=0.25)


@pytest.mark.parametrize(("order", "corrector"), [(1, False), (2, True), (3, True)])
def test_estimated_statistics_help_with_few_steps(order, corrector):
    with_them, without = (
        error(dpm_v3(ems, order, corrector), COSINE, "v", 8) for ems in (mixture_ems(), degenerate(COSINE))
    )
    assert with_them < without / 3


def test_estimates_are_the_exact_statistics_of_gaussian_data():
    """Affine denoisers have one Jacobian, which differences find, and f is the same along all rollouts, so s is 0."""
    times = uniform_lambda(COSINE, 100, 995, 10)
    x = times[0].sigma * np.random.default_rng(0).standard_normal((8, 3))
    states = [flow_map(x, times[0], time) for time in times]
    ems = estimate_ems(lambda x, time: (x - time.alpha * exact_x0(x, time)) / time.sigma, times, states)
    exact = 1 / (1 + STD**2 * np.exp(2 * ems.lams))
    assert ems.l == pytest.approx(np.repeat(exact[:, None], 3, axis=1), abs=1e-9)
    assert np.abs(ems.s).max() == 0
    assert ems.b[5:-5] == pytest.approx(np.repeat((MEAN * 2 * exact * (1 - exact))[5:-5, None], 3, axis=1), abs=2e-3)


def test_tensors_shaped_as_a_sample_and_kept_in_a_file():
    """Each element has separate statistics, here those of its mean."""
    means = np.array([[0.1, 0.4], [-0.3, 0.9]])
    base = gaussian_ems(COSINE)
    l = np.broadcast_to(base.l[:, None, None], (240, 2, 2))  # noqa: E741
    ems = Ems(base.lams, l, np.zeros_like(l), 2 * l * (1 - l) * means)
    times = uniform_lambda(COSINE, 1, 995, 10)
    plan = decode(encode(trace_plan("test", dpm_v3(ems, 1), times, denoising(COSINE, "sample"))))
    z = np.random.default_rng(0).standard_normal((3, 2, 2))
    start, gain = times[0], times[0].alpha * STD**2 / (times[0].alpha ** 2 * STD**2 + times[0].sigma ** 2)
    made = sample(plan, lambda i, step, u: [means + gain * (u - start.alpha * means)], lambda k: z, np.float64)
    end = times[-1]
    spread = np.sqrt((end.alpha**2 * STD**2 + end.sigma**2) / (start.alpha**2 * STD**2 + start.sigma**2))
    assert made == pytest.approx(end.alpha * means + spread * (start.sigma * z - start.alpha * means), abs=1e-9)


@pytest.mark.parametrize(("order", "corrector", "rows"), [(1, False, 1), (2, False, 2), (3, False, 3), (3, True, 4)])
def test_rows(order, corrector, rows):
    solver = dpm_v3(degenerate(COSINE), order, corrector)
    plan = trace_plan("test", solver, uniform_lambda(COSINE, 8), denoising(COSINE, "v"))
    assert (plan.rows, len(plan.steps)) == (rows, 8)


def test_tables_are_integrated_to_their_order():
    lams = np.sort(np.random.default_rng(0).uniform(-3, 3, 30))
    for power in range(6):
        whole = integrate(lams**power, lams)
        assert whole == pytest.approx((lams ** (power + 1) - lams[0] ** (power + 1)) / (power + 1), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dpm_v3(degenerate(COSINE), 4), "dpm_v3 has no order 4"),
        (lambda: Ems(np.arange(3.0), np.ones(3), np.ones(3), np.ones(3)), "over 3 lambdas"),
        (lambda: Ems(np.arange(9.0)[::-1], np.ones(9), np.ones(9), np.ones(9)), "6 or more increasing lambdas"),
        (lambda: estimate_ems(lambda x, time: x, trailing(NoiseSchedule(COSINE), 8), [X] * 9), "lambda .* to inf"),
        (
            lambda: trace_plan(
                "test", dpm_v3(gaussian_ems(COSINE)), trailing(NoiseSchedule(COSINE), 4), denoising(COSINE, "v")
            ),
            "is outside the statistics'",
        ),
    ],
)
def test_statistics_that_do_not_fit_are_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()
