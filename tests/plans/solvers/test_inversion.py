"""DDIM backwards: a sample returns to its start as steps get small."""

import numpy as np
import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.grids import trailing
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.ddim import ddim_inverse
from tests.plans.execute_plan import sample
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising, uniform_lambda
from tests.plans.run_inversions import NOISE, run


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
    """From the clean end upwards, for data of one point."""
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
