"""BDIA, EDICT and DDIM backwards: what goes in comes out."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.bdia import bdia, bdia_inverse
from fewstep.literature.edict import edict, edict_inverse
from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.ddim_inverse import ddim_inverse
from fewstep.plans.solvers.published import facts_of
from fewstep.runtime.execute import execute, finish
from tests.plans.convergence import slope
from tests.plans.execution import sample
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising, uniform_lambda
from tests.plans.mixture import WIDE

NOISE = np.random.default_rng(3).standard_normal((2, 3, 4))


def network(spec, prediction):
    """The exact denoiser of the mixture: as far from linear as a trained one."""
    schedule = NoiseSchedule(spec)

    def run(index, step, u):
        time = schedule.time(step.time)
        x0 = WIDE.exact_x0(u, time)
        eps = (u - time.alpha * x0) / time.sigma
        return [{"epsilon": eps, "v": time.alpha * eps - time.sigma * x0, "flow": eps - x0}[prediction]]

    return run


def run(solver, times, spec, prediction, given=None):
    """The sample, and what was denoised last."""
    plan = trace_plan("test", solver, times, denoising(spec, prediction))
    states = list(execute(plan, network(spec, prediction), lambda k: NOISE, np.float64, given))
    return finish(plan, states, np.float64), states[-1].u


@pytest.mark.parametrize(("gamma", "steps"), [(1.0, 50), (0.5, 12)])
@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_bdia_inverts_its_own_trajectory(spec, prediction, gamma, steps):
    """From the noisiest time to the clean end and back."""
    times = trailing(NoiseSchedule(spec), steps)
    x, before = run(partial(bdia, gamma=gamma), times, spec, prediction)
    back, _ = run(partial(bdia_inverse, gamma=gamma), times, spec, prediction, {"x": x, "x_before": before})
    assert np.abs(back - times[0].sigma * NOISE).max() < 1e-10


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v")])
def test_edict_inverts_its_own_trajectory(spec, prediction):
    times = trailing(NoiseSchedule(spec), 20)
    x, y = (run(partial(edict, second=second), times, spec, prediction)[0] for second in (False, True))
    for second in (False, True):
        back, _ = run(partial(edict_inverse, second=second), times, spec, prediction, {"x": x, "y": y})
        assert np.abs(back - times[0].sigma * NOISE).max() < 1e-10


def test_edict_edits_a_picture_there_and_back():
    """Both states start as the picture, and differ at the noisy end; going on from the two gives the picture."""
    times = trailing(NoiseSchedule(LINEAR), 10)
    picture = {"x": NOISE, "y": NOISE}
    noisy = [
        run(partial(edict_inverse, second=second), times, LINEAR, "epsilon", picture)[0] for second in (False, True)
    ]
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-3


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_ddim_inverse_becomes_one_as_steps_get_small(spec, prediction):
    errors = []
    for steps in (64, 128):
        times = uniform_lambda(spec, steps, 995, 10)
        x, _ = run(solvers.ddim, times, spec, prediction)
        back, _ = run(ddim_inverse, times, spec, prediction, {"x": x})
        errors.append(np.abs(back - times[0].sigma * NOISE).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(facts_of(ddim_inverse).order, abs=0.25)


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_ddim_inverse_is_exact_where_the_noise_does_not_change(spec, prediction):
    """From the clean end up; data of one point."""
    times, point = trailing(NoiseSchedule(spec), 5), 0.7

    def one_point(index, step, u):
        time = NoiseSchedule(spec).time(step.time)
        eps = np.full_like(u, 1.3)
        x0 = (u - time.sigma * eps) / time.alpha if time.alpha else np.full_like(u, point)
        return [{"epsilon": eps, "v": time.alpha * eps - time.sigma * x0, "flow": eps - x0}[prediction]]

    plan = trace_plan("test", ddim_inverse, times, denoising(spec, prediction))
    made = sample(plan, one_point, lambda k: NOISE, np.float64, {"x": np.full((1, 2), point)})
    expected = times[0].alpha * point + times[0].sigma * 1.3
    assert made == pytest.approx(np.full((1, 2), expected), abs=1e-10)


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
@pytest.mark.parametrize(("gamma", "order"), [(1.0, 2), (0.5, 1)])
def test_bdia_orders(gamma, order, spec, prediction):
    assert slope(partial(bdia, gamma=gamma), spec, prediction) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("second", [False, True])
def test_edict_has_its_order(second):
    assert slope(partial(edict, second=second), LINEAR, "epsilon") == pytest.approx(facts_of(edict).order, abs=0.25)


def test_bdia_without_weight_on_the_past_is_ddim():
    times = trailing(NoiseSchedule(COSINE), 6)
    made, _ = run(partial(bdia, gamma=0.0), times, COSINE, "v")
    assert made == pytest.approx(run(solvers.ddim, times, COSINE, "v")[0], abs=1e-13)


@pytest.mark.parametrize(
    ("solver", "rows", "evaluations"),
    [(bdia, 2, 10), (bdia_inverse, 2, 9), (edict, 2, 20), (edict_inverse, 2, 20), (ddim_inverse, 1, 10)],
)
def test_rows_and_evaluations(solver, rows, evaluations):
    plan = trace_plan("test", solver, trailing(NoiseSchedule(LINEAR), 10), denoising(LINEAR, "epsilon"))
    assert (plan.rows, len(plan.steps)) == (rows, evaluations)


@pytest.mark.parametrize(
    ("solver", "spec", "prediction", "says"),
    [
        (partial(bdia, gamma=-0.1), LINEAR, "epsilon", "gamma=-0.1 is not in 0 .. 1"),
        (partial(bdia_inverse, gamma=0.0), LINEAR, "epsilon", "bdia_inverse with gamma 0"),
        (partial(edict, p=0.0), LINEAR, "epsilon", "edict with p 0"),
        (edict_inverse, FLOW, "flow", "up to pure noise"),
    ],
)
def test_what_has_no_inverse_is_refused(solver, spec, prediction, says):
    with pytest.raises(UserError, match=says):
        trace_plan("test", solver, trailing(NoiseSchedule(spec), 4), denoising(spec, prediction))
