"""Samplers that restore a degraded sample y: with a Gaussian prior the denoiser is affine and every distribution has
a closed form.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import linspace
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import CLEAN, NoiseSchedule, Time
from fewstep.plans.solvers.rddm import rddm
from fewstep.plans.solvers.resshift import resshift
from fewstep.plans.solvers.sa_solver import sa_solver
from fewstep.plans.solvers.sgmse import sgmse
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.convergence import moments
from tests.plans.execute_plan import output, record_inputs, sample
from tests.plans.gaussian import MEAN, STD, exact_x0, one_point

Y = -0.6
RESSHIFT, RDDM, OU = ScheduleSpec("residual-shift", timesteps=15), ScheduleSpec("rddm"), ScheduleSpec("ou")
BRIDGE, MEAN_REVERTING = ScheduleSpec("bridge"), ScheduleSpec("mean-reverting")
SPECS = [RESSHIFT, RDDM, OU, MEAN_REVERTING]


def restoring(spec, prediction="sample", heads=1):
    return DenoiserFacts(spec, prediction, heads=heads, towards="y")


def answers(x0_of, prediction):
    """A network with the input x_t = alpha x0 + (1 - alpha) y + sigma eps, whose x0 is known from x - (1 - alpha) y;
    "both" has the residual and the noise.
    """

    def network(index, step, u):
        time = Time(step.time, step.alpha, step.sigma)
        x = u - (1 - time.alpha) * Y
        x0 = x0_of(x, time)
        if prediction in ("residual", "both"):
            return [Y - x0, output("epsilon", x, x0, time)][: 1 + (prediction == "both")]
        return [output(prediction, x, x0, time)]

    return network


def exact(spec, prediction):
    """The denoiser of x0 ~ N(MEAN, STD^2)."""
    return scale_input(spec, answers(exact_x0, prediction))


def scale_input(spec, network):
    """A network with ResShift's scaled input."""
    if spec.kind != "residual-shift":
        return network
    return lambda index, step, u: network(index, step, u * math.sqrt(step.sigma**2 + 1))


ENDS = {
    "residual-shift": (14.0, 0.0),
    "rddm": (900.0, 100.0),
    "ou": (1.0, 0.05),
    "mean-reverting": (1000.0, 50.0),
}  # RDDM's alpha is 0 at its last


def grid(spec, steps):
    """Uniform in lambda, between a noisy time and a nearly clean one."""
    schedule = NoiseSchedule(spec)
    ends = (schedule.lam(t) for t in ENDS[spec.kind])
    return [schedule.time_at_lam(float(lam)) for lam in np.linspace(*ends, steps + 1)]


def flow_map(x, s, t):
    """Return the end of the probability-flow ODE."""
    spread = math.sqrt((t.alpha**2 * STD**2 + t.sigma**2) / (s.alpha**2 * STD**2 + s.sigma**2))
    return t.alpha * MEAN + (1 - t.alpha) * Y + spread * (x - s.alpha * MEAN - (1 - s.alpha) * Y)


@pytest.mark.parametrize(
    ("spec", "prediction"),
    [(RESSHIFT, "sample"), (RDDM, "epsilon"), (OU, "score"), (OU, "residual"), (MEAN_REVERTING, "epsilon")],
)
@pytest.mark.parametrize("solver", [solvers.ddim, solvers.dpmpp_2m, solvers.unipc_2])
def test_every_solver_is_a_mean_reverting_one(solver, spec, prediction):
    """MR Sampler (Li et al. 2025, arXiv 2502.07856): its solvers are the exponential ones on x - y."""
    z, errors = np.linspace(-2, 2, 5), []
    for steps in (32, 64):
        times = grid(spec, steps)
        plan = trace_plan("test", solver, times, restoring(spec, prediction))
        made = sample(plan, exact(spec, prediction), lambda k: z, np.float64, {"y": np.full(5, Y)})
        start = Y + times[0].sigma * z
        errors.append(np.abs(made - flow_map(start, times[0], times[-1])).max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(facts_of(solver).order, abs=0.35)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_a_mean_reverting_step_is_the_published_one(spec):
    """MR Sampler's first-order step on the predicted noise: x_t = a x_s + (1 - a) y + sigma_t (1 - e^h) eps, a =
    alpha_t / alpha_s."""
    schedule, rng = NoiseSchedule(spec), np.random.default_rng(1)
    times = [schedule.time_at_lam(lam) for lam in (-0.5, 0.1, 0.9, 1.3)]
    plan = trace_plan("test", solvers.ddim, times, restoring(spec, "epsilon"))
    noises, z = rng.standard_normal((3, 4)), rng.standard_normal(4)
    _, seen = record_inputs(plan, noises[:, None], [z], {"y": np.full(4, Y)})
    x = Y + times[0].sigma * z
    for i, (s, t) in enumerate(pairwise(times)):
        scale = 1 / math.sqrt(s.sigma**2 + 1) if spec == RESSHIFT else 1.0
        assert seen[i] == pytest.approx(scale * x, abs=1e-12)
        a = t.alpha / s.alpha
        x = a * x + (1 - a) * Y - t.sigma * math.expm1(t.lam - s.lam) * noises[i]


@pytest.mark.parametrize("solver", ["ode-2", "sde-2"])
def test_mr_samplers_second_order_steps_are_the_usual_ones(solver):
    """MRSampler-ode-2 and -sde-2 on the predicted data: x - (1 - alpha) y implies their weights of y."""
    schedule, rng = NoiseSchedule(OU), np.random.default_rng(1)
    times = [schedule.time_at_lam(lam) for lam in (-0.5, 0.1, 0.9, 1.3, 2.1)]
    known = {"ode-2": solvers.dpmpp_2m, "sde-2": solvers.dpmpp_2m_sde}[solver]
    plan = trace_plan("test", partial(known, midpoint=False), times, restoring(OU))
    x0s, draws = rng.standard_normal((4, 3)), rng.standard_normal((6, 3))
    made, _ = record_inputs(plan, x0s[:, None], draws, {"y": np.full(3, Y)})
    x = Y + times[0].sigma * draws[0]
    for i, (s, t) in enumerate(pairwise(times)):
        h = t.lam - s.lam
        D1 = h / (s.lam - times[i - 1].lam) * (x0s[i] - x0s[i - 1]) if i else 0.0
        r = t.sigma / s.sigma
        if solver == "ode-2":
            phi1 = math.expm1(-h)
            x = r * x - t.alpha * (phi1 * x0s[i] - (phi1 / h + 1) * D1)
            x = x + Y * (1 - r + r * s.alpha - t.alpha)
        else:
            phi1 = -math.expm1(-2 * h)
            x = r * math.exp(-h) * x + t.alpha * (phi1 * x0s[i] + (1 - phi1 / 2 / h) * D1)
            x = x + t.sigma * math.sqrt(phi1) * draws[i + 1]
            x = x + Y * (1 - t.alpha / s.alpha * math.exp(-2 * h) - t.alpha * phi1)
    assert made == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 15])
def test_resshift_is_the_published_recurrence(steps):
    """Yue et al. 2023, equation 7, over a subset of the timesteps, ending clean: the network's input is x /
    sqrt(kappa^2 eta + 1), the start is y + kappa sqrt(eta) z, the last step is x0.
    """
    schedule, rng = NoiseSchedule(RESSHIFT), np.random.default_rng(0)
    picked = np.linspace(14, 0, steps).round() if steps > 1 else [14.0]
    times = [*(schedule.time(float(t)) for t in picked), CLEAN]
    plan = trace_plan("test", resshift, times, restoring(RESSHIFT))
    draws, x0s = rng.standard_normal((steps + 1, 4)), rng.standard_normal((steps, 4))
    made, seen = record_inputs(plan, x0s[:, None], draws, {"y": np.full(4, Y)})
    kappa, etas = 2.0, [1 - time.alpha for time in times]
    x = Y + kappa * math.sqrt(etas[0]) * draws[0]
    for i, (eta, after) in enumerate(pairwise(etas)):
        assert seen[i] == pytest.approx(x / math.sqrt(kappa**2 * eta + 1), abs=1e-12)
        noise = kappa * math.sqrt(after * (eta - after) / eta)
        x = after / eta * x + (eta - after) / eta * x0s[i] + (noise * draws[i + 1] if noise else 0)
    assert made == pytest.approx(x, abs=1e-12)
    assert plan.rows == 2


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "residual"])
def test_resshift_keeps_the_law_of_one_point_data(prediction):
    """If x0 = c, x_t is N((1 - eta) c + eta y, kappa^2 eta) after any steps."""
    schedule, point = NoiseSchedule(RESSHIFT), 0.7
    times = [schedule.time(t) for t in (14.0, 9.0, 5.0, 2.0)]
    plan = trace_plan("test", resshift, times, restoring(RESSHIFT, prediction))

    network = scale_input(RESSHIFT, answers(lambda x, time: np.full_like(x, point), prediction))
    mean, std = moments(plan, network, {"y": Y})
    end = times[-1]
    c = (1 - end.alpha) / (1 - times[0].alpha)
    expected = end.alpha * point + (1 - end.alpha) * Y + c * times[0].alpha * (Y - point)
    assert mean == pytest.approx(expected, abs=1e-12)
    assert std == pytest.approx(end.sigma, abs=1e-12)


def test_resshift_converges_to_the_exact_law():
    """Mean and deviation of N(MEAN, STD^2) near the clean end, as steps grow. The start knows y, not x0, so that y
    must be a draw of the prior's mean.
    """
    spec = ScheduleSpec("residual-shift", timesteps=1000, eta_max=0.9999)
    schedule, errors = NoiseSchedule(spec), []
    for steps in (32, 64):
        times = [
            schedule.time_at_lam(float(lam)) for lam in np.linspace(schedule.lam(999.0), schedule.lam(5.0), steps + 1)
        ]
        mean, std = moments(trace_plan("test", resshift, times, restoring(spec)), exact(spec, "sample"), {"y": Y})
        end = times[-1]
        assert mean == pytest.approx(end.alpha * MEAN, abs=2e-2)
        errors.append(abs(std - math.hypot(end.alpha * STD, end.sigma)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(facts_of(resshift).order, abs=0.35)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_rddm_is_the_published_recurrence(eta):
    """Over a subset of the timesteps; the last step is x0 = x - abar res - bbar eps."""
    schedule, rng, steps = NoiseSchedule(RDDM), np.random.default_rng(0), 4
    times = [*(schedule.time(t) for t in (999.0, 700.0, 333.0, 50.0)), CLEAN]
    solver = rddm if eta == 0 else partial(rddm, eta=eta)  # 0 is the default
    plan = trace_plan("test", solver, times, restoring(RDDM, "residual", heads=2))
    draws, outputs = rng.standard_normal((steps + 1, 4)), rng.standard_normal((steps, 2, 4))
    made, seen = record_inputs(plan, outputs, draws, {"y": np.full(4, Y)})
    x = Y + times[0].sigma * draws[0]
    for i, (s, t) in enumerate(pairwise(times)):
        assert seen[i] == pytest.approx(x, abs=1e-12)
        residual, eps = outputs[i]
        n2 = eta * (s.sigma**2 - t.sigma**2) * t.sigma**2 / s.sigma**2
        x = x - (t.alpha - s.alpha) * residual - (s.sigma - math.sqrt(t.sigma**2 - n2)) * eps
        x = x + (math.sqrt(n2) * draws[i + 1] if n2 else 0)
    assert made == pytest.approx(x, abs=1e-12)
    assert plan.rows == 2


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("times", [grid(RDDM, 5), [NoiseSchedule(BRIDGE).time(t) for t in (0.95, 0.8, 0.6)]])
def test_rddm_keeps_the_law_of_one_point_data(times, eta):
    """If x0 = c, added noise makes up for removed noise, and none is added where sigma rises, in the first half of a
    bridge.
    """
    spec, point = RDDM if len(times) > 3 else BRIDGE, 0.7
    plan = trace_plan("test", partial(rddm, eta=eta), times, restoring(spec, "residual", heads=2))
    mean, std = moments(plan, one_point("both", point, Y), {"y": Y})
    again = [max(eta * (s.sigma**2 - t.sigma**2) * t.sigma**2 / s.sigma**2, 0.0) for s, t in pairwise(times)]
    kept = math.prod(math.sqrt(t.sigma**2 - n2) / s.sigma for n2, (s, t) in zip(again, pairwise(times), strict=True))
    end = times[-1]
    expected = end.alpha * point + (1 - end.alpha) * Y + kept * times[0].alpha * (Y - point)
    assert mean == pytest.approx(expected, abs=1e-12)
    assert std == pytest.approx(end.sigma, abs=1e-12)


def test_rddm_on_gaussian_data_ends_where_the_flow_does():
    z, errors = np.linspace(-2, 2, 5), []
    for steps in (64, 128):
        times = grid(RDDM, steps)
        plan = trace_plan("test", rddm, times, restoring(RDDM, "residual", heads=2))
        made = sample(plan, exact(RDDM, "both"), lambda k: z, np.float64, {"y": np.full(5, Y)})
        errors.append(np.abs(made - flow_map(Y + times[0].sigma * z, times[0], times[-1])).max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(facts_of(rddm).order, abs=0.25)


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_sgmse_is_the_published_recurrence(corrections):
    schedule, rng = NoiseSchedule(OU), np.random.default_rng(0)
    clocks = [*np.linspace(1, 0.03, 6), 0.0]
    times = [*(schedule.time(t) for t in clocks[:-1]), CLEAN]
    assert [time.network for time in linspace(schedule, 6)] == pytest.approx(clocks, abs=1e-12)  # docs/restoration.md
    solver = sgmse if corrections == 1 else partial(sgmse, corrections=corrections)  # 1 is the default
    plan = trace_plan("test", solver, times, restoring(OU, "score"))
    draws, scores = rng.standard_normal((30, 4)), rng.standard_normal((30, 4))
    made, seen = record_inputs(plan, scores[:, None], draws, {"y": np.full(4, Y)})
    theta, growth = 1.5, math.log(10)
    x, draw, call = Y + times[0].sigma * draws[0], 1, 0
    for s, t in pairwise(clocks):
        sigma = schedule.time(s).sigma
        for _ in range(corrections):
            assert seen[call] == pytest.approx(x, abs=1e-12)
            step = (0.5 * sigma) ** 2 * 2
            x = x + step * scores[call] + math.sqrt(2 * step) * draws[draw]
            call, draw = call + 1, draw + 1
        assert seen[call] == pytest.approx(x, abs=1e-12)
        g = 0.05 * 10**s * math.sqrt(2 * growth)
        x = x - theta * (Y - x) * (s - t) + g**2 * (s - t) * scores[call]
        call += 1
        if t > 0:
            x, draw = x + g * math.sqrt(s - t) * draws[draw], draw + 1
    assert made == pytest.approx(x, abs=1e-10)
    assert (plan.rows, len(plan.steps)) == (2, 6 * (corrections + 1))


def test_sgmses_predictor_has_the_exact_law_in_the_limit():
    """With a theta so large that nothing of x0 is left at the start. (A corrector's step does not shrink with more
    steps, so it has a bias.)
    """
    spec, errors = ScheduleSpec("ou", theta=6.0), []
    for steps in (128, 256):
        times = [NoiseSchedule(spec).time(t) for t in np.linspace(1, 0.05, steps + 1)]
        plan = trace_plan("test", partial(sgmse, corrections=0), times, restoring(spec, "score"))
        mean, std = moments(plan, exact(spec, "score"), {"y": Y})
        end = times[-1]
        errors.append(
            (abs(mean - end.alpha * MEAN - (1 - end.alpha) * Y), abs(std - math.hypot(end.alpha * STD, end.sigma)))
        )
    for few, many in zip(*errors, strict=True):
        assert math.log2(few / many) == pytest.approx(facts_of(sgmse).order, abs=0.25)


@pytest.mark.parametrize("solver", [resshift, solvers.ddim])
def test_the_bridges_samplers_are_the_published_ones(solver):
    """In their variables: r = sigma_t^2 / sigma_1^2 for sigma_t^2 = c (k^2t - 1) / (2 log k), k = 2.6, c = 0.4."""
    clocks, rng = (1.0, 0.8, 0.5, 0.2, 1e-4), np.random.default_rng(0)
    whole = 0.4 * (2.6**2 - 1) / (2 * math.log(2.6))
    rs = [0.4 * (2.6 ** (2 * t) - 1) / (2 * math.log(2.6)) / whole for t in clocks]
    times = [NoiseSchedule(BRIDGE).time(t) for t in clocks]
    plan = trace_plan("test", solver, times, restoring(BRIDGE))
    x0s, draws = rng.standard_normal((4, 3)), rng.standard_normal((9, 3))
    made, seen = record_inputs(plan, x0s[:, None], draws, {"y": np.full(3, Y)})
    x = np.full(3, Y)
    for i, (before, after) in enumerate(pairwise(rs)):
        assert seen[i] == pytest.approx(x, abs=1e-12)
        if solver is resshift:  # SB-SDE
            noise = math.sqrt(whole * after * (1 - after / before))
            x = after / before * x + (1 - after / before) * x0s[i] + noise * draws[i + 1]
        elif before == 1:
            x = (1 - after) * x0s[i] + after * Y
        else:  # SB-ODE; s, bar: the published sigma_t and sigma bar_t
            s, bar, s_b, bar_b = (math.sqrt(whole * each) for each in (after, 1 - after, before, 1 - before))
            x = s * bar / (s_b * bar_b) * x
            x = x + (bar**2 - bar_b * s * bar / s_b) / whole * x0s[i] + (s**2 - s_b * s * bar / bar_b) / whole * Y
    assert made == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_stochastic_solvers_keep_the_law_of_one_point_data(spec):
    """SDE solvers of mean-reverting diffusion, from MR Sampler's paper: those of x - y."""
    times, point = grid(spec, 5), 0.7
    for solver in (solvers.ddpm, partial(sa_solver, predictor=2, corrector=2)):
        plan = trace_plan("test", solver, times, restoring(spec))
        mean, std = moments(plan, one_point("sample", point, Y), {"y": Y})
        s, t = times[0], times[-1]
        forgotten = t.sigma / s.sigma * math.exp(s.lam - t.lam)
        assert mean == pytest.approx(t.alpha * point + (1 - t.alpha) * Y + forgotten * s.alpha * (Y - point), abs=1e-12)
        assert std == pytest.approx(t.sigma, abs=1e-12)


@pytest.mark.parametrize(
    ("solver", "denoiser", "says"),
    [
        (resshift, DenoiserFacts(RESSHIFT, "sample"), "does not name that tensor"),
        (solvers.ddim, DenoiserFacts(RESSHIFT, "residual"), "does not name that tensor"),
        (rddm, restoring(RDDM, "residual"), "with 1 output"),
        (sgmse, restoring(RESSHIFT, "sample"), "sgmse needs schedule ou, and this is residual-shift"),
        (partial(sgmse, snr=-1.0), restoring(OU, "score"), "snr=-1 is negative"),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused(solver, denoiser, says):
    with pytest.raises(UserError, match=says):
        trace_plan("test", solver, grid(denoiser.schedule, 3), denoiser)
