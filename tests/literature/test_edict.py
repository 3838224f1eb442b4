"""EDICT: what goes in comes out."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.edict import edict, edict_inverse
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.published import facts_of
from tests.plans.convergence import slope
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising
from tests.plans.inverting import NOISE, run


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


@pytest.mark.parametrize("second", [False, True])
def test_edict_has_its_order(second):
    assert slope(partial(edict, second=second), LINEAR, "epsilon") == pytest.approx(facts_of(edict).order, abs=0.25)


@pytest.mark.parametrize(
    ("solver", "rows", "evaluations"),
    [(edict, 2, 20), (edict_inverse, 2, 20)],
)
def test_rows_and_evaluations(solver, rows, evaluations):
    plan = trace_plan("test", solver, trailing(NoiseSchedule(LINEAR), 10), denoising(LINEAR, "epsilon"))
    assert (plan.rows, len(plan.steps)) == (rows, evaluations)


@pytest.mark.parametrize(
    ("solver", "spec", "prediction", "says"),
    [
        (partial(edict, p=0.0), LINEAR, "epsilon", "edict with p 0"),
        (edict_inverse, FLOW, "flow", "up to pure noise"),
    ],
)
def test_what_has_no_inverse_is_refused(solver, spec, prediction, says):
    with pytest.raises(UserError, match=says):
        trace_plan("test", solver, trailing(NoiseSchedule(spec), 4), denoising(spec, prediction))
