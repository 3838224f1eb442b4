"""Starts without a network: exact if the data are as they assume."""

import numpy as np
import pytest

from fewstep.literature.analytic_start import analytic_first_step, gaussian_start
from fewstep.literature.dpm_v3 import Ems, dpm_v3
from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute, finish
from tests.plans.execute_plan import denoiser, sample
from tests.plans.gaussian import COSINE, FLOW, LINEAR, MEAN, STD, denoising, flow_map, run, uniform_lambda

X = np.linspace(-2, 2, 6).reshape(1, 2, 3)
MEANS = np.array([[0.1, 0.4, 0.2], [-0.3, 0.9, 0.0]])
VARIANCES = np.array([[0.1, 0.2, 0.0], [1.0, 0.5, 0.3]])
FAMILIES = [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow"), (FLOW, "sample")]


def first_known(plan, spec, mean):
    """Return a network that gives x0 = mean at the plan's first evaluation, and something else later."""
    known = denoiser(lambda x, time: np.broadcast_to(mean, x.shape), plan.prediction, spec)

    def network(index, step, u):
        return [np.tanh(u + step.time / 300)] * len(step.branches) if index else known(index, step, u)

    return network


@pytest.mark.parametrize("mean", [0.0, MEANS])
@pytest.mark.parametrize(("spec", "prediction"), FAMILIES)
@pytest.mark.parametrize("name", ["ddim:4", "dpmpp_2m:4", "unipc_3:5", "ddpm:4", "ipndm:5"])
@pytest.mark.parametrize(("guidance", "shaping"), [(None, None), (2.0, None), (None, Clip(-1, 1))])
def test_leaving_out_the_first_evaluation_is_knowing_it(name, spec, prediction, mean, guidance, shaping):
    plan = compile_plan(name, denoising(spec, prediction), guidance=guidance, shaping=shaping)
    shorter = decode(encode(analytic_first_step(plan, mean)))
    assert len(shorter.steps) == len(plan.steps) - 1
    draws = np.random.default_rng(0).standard_normal((9, 1, 2, 3))
    network = first_known(plan, spec, mean)
    whole = sample(plan, network, lambda k: draws[k], np.float64)
    later = sample(shorter, lambda i, step, u: network(i + 1, step, u), lambda k: draws[k], np.float64)
    assert later == pytest.approx(whole, rel=1e-6, abs=1e-6)


def test_what_has_no_analytic_first_step_is_refused():
    lams = np.linspace(-12, 12, 60)
    tensors = dpm_v3(Ems(lams, np.ones((60, 2)), np.zeros((60, 2)), np.zeros((60, 2))))
    for plan, says in (
        (compile_plan("ddim:1", denoising(LINEAR, "epsilon")), "has one evaluation"),
        (trace_plan("test", tensors, uniform_lambda(LINEAR, 4), denoising(LINEAR, "epsilon")), "holds tensors"),
        (
            compile_plan("rddm:4", DenoiserFacts(ScheduleSpec("rddm"), "residual", heads=2, towards="y")),
            "several outputs",
        ),
    ):
        with pytest.raises(UserError, match=says):
            analytic_first_step(plan)


@pytest.mark.parametrize(("means", "variances"), [(MEAN, STD**2), (MEANS, VARIANCES)], ids=["one law", "each its own"])
@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_gaussian_data_are_teleported_exactly(spec, prediction, means, variances):
    """From the noisiest time to any later one, as the ODE goes; the plan is written to a file."""
    times, noisiest = uniform_lambda(spec, 3, first=600), NoiseSchedule(spec).noisiest
    traced = trace_plan("x", solvers.dpmpp_2m, times, denoising(spec, prediction))
    plan = gaussian_start(traced, NoiseSchedule(spec), means, variances)
    states = list(execute(decode(encode(plan)), lambda i, step, u: [0 * u], lambda k: X, np.float64))
    before, after = (np.sqrt(time.alpha**2 * variances + time.sigma**2) for time in (noisiest, times[0]))
    begun = times[0].alpha * means + after / before * (noisiest.sigma * X - noisiest.alpha * means)
    assert states[0].u == pytest.approx(begun, abs=1e-12)
    assert np.isfinite(finish(plan, states, np.float64)).all()


def test_a_later_start_makes_a_short_plan_better():
    """4 evaluations over the last two thirds, for data that are Gaussian except for the test's solver."""
    schedule = NoiseSchedule(COSINE)
    whole = uniform_lambda(COSINE, 4, first=998, last=20)
    late = uniform_lambda(COSINE, 4, first=700, last=20)
    exact = flow_map(schedule.noisiest.sigma * X, schedule.noisiest, whole[-1])
    plain = run(trace_plan("x", solvers.ddim, whole, denoising(COSINE, "v")), COSINE, [X])
    jump = gaussian_start(trace_plan("x", solvers.ddim, late, denoising(COSINE, "v")), schedule, MEAN, STD**2)
    assert np.abs(run(jump, COSINE, [X]) - exact).max() < 0.6 * np.abs(plain - exact).max()


def test_what_does_not_start_from_noise_is_refused():
    schedule = NoiseSchedule(LINEAR)
    started = compile_plan("ddim:4", denoising(LINEAR, "epsilon"), strength=0.5)
    with pytest.raises(UserError, match="start from noise"):
        gaussian_start(started, schedule, 0.0, 1.0)
    with pytest.raises(UserError, match="variance"):
        gaussian_start(compile_plan("ddim:4", denoising(LINEAR, "epsilon")), schedule, 0.0, -1.0)
