"""BDIA: what goes in comes out."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.bdia import bdia, bdia_inverse
from fewstep.plans import solvers
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from tests.plans.gaussian import COSINE, FLOW, LINEAR
from tests.plans.inverting import NOISE, run


@pytest.mark.parametrize(("gamma", "steps"), [(1.0, 50), (0.5, 12)])
@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_bdia_inverts_its_own_trajectory(spec, prediction, gamma, steps):
    """From the noisiest time to the clean end and back."""
    times = trailing(NoiseSchedule(spec), steps)
    x, before = run(partial(bdia, gamma=gamma), times, spec, prediction)
    back, _ = run(partial(bdia_inverse, gamma=gamma), times, spec, prediction, {"x": x, "x_before": before})
    assert np.abs(back - times[0].sigma * NOISE).max() < 1e-10


def test_bdia_without_weight_on_the_past_is_ddim():
    times = trailing(NoiseSchedule(COSINE), 6)
    made, _ = run(partial(bdia, gamma=0.0), times, COSINE, "v")
    assert made == pytest.approx(run(solvers.ddim, times, COSINE, "v")[0], abs=1e-13)
