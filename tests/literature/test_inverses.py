"""Samplers that run backwards: the inverse of a sample returns its start."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from fewstep.literature.bdia import bdia, bdia_inverse
from fewstep.literature.edict import edict, edict_inverse
from fewstep.plans.compile import compile_plan
from fewstep.plans.grids import trailing
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.transforms import tail, tail_inputs
from fewstep.runtime.sampling.execute import execute
from tests.plans.convergence import slope
from tests.plans.execute_plan import denoiser, sample
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising
from tests.plans.mixture import WIDE
from tests.plans.run_inversions import NOISE, run


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v")])
def test_edict_inverts_its_own_trajectory(spec, prediction):
    times = trailing(NoiseSchedule(spec), 20)
    x, y = (run(partial(edict, second=second), times, spec, prediction)[0] for second in (False, True))
    for second in (False, True):
        back, _ = run(partial(edict_inverse, second=second), times, spec, prediction, {"x": x, "y": y})
        assert np.abs(back - times[0].sigma * NOISE).max() < 1e-10


def test_edict_goes_on_from_the_states_of_a_picture_before_the_last():
    """They differ at the noisy end, where `edict` itself starts from one noise."""
    network, facts = denoiser(WIDE.exact_x0, "epsilon", LINEAR), denoising(LINEAR, "epsilon")
    there, back = (compile_plan(f"{name}:10@trailing", facts) for name in ("edict_inverse", "edict"))
    *_, before, last = execute(there, network, None, np.float64, {"x": NOISE, "y": NOISE})
    assert np.abs(np.subtract(*last.after)).max() > 1e-3
    again = sample(tail(back, 1), network, None, np.float64, tail_inputs(before.after))
    assert np.abs(again - NOISE).max() < 1e-10


@pytest.mark.parametrize("second", [False, True])
def test_edict_has_its_order(second):
    assert slope(partial(edict, second=second), LINEAR, "epsilon") == pytest.approx(facts_of(edict).order, abs=0.25)


@pytest.mark.parametrize(("gamma", "steps"), [(1.0, 50), (0.5, 12)])
@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_bdia_inverts_its_own_trajectory(spec, prediction, gamma, steps):
    """From the noisiest time to the clean end and back."""
    times = trailing(NoiseSchedule(spec), steps)
    x, before = run(partial(bdia, gamma=gamma), times, spec, prediction)
    back, _ = run(partial(bdia_inverse, gamma=gamma), times, spec, prediction, {"x": x, "x_before": before})
    assert np.abs(back - times[0].sigma * NOISE).max() < 1e-10


@pytest.mark.parametrize(("given", "gamma"), [({"gamma": 0.0}, 0.0), ({"gamma": 0.5}, 0.5), ({}, 1.0)])
def test_bdia_is_the_published_recurrence(given, gamma):
    """DDIM steps from x in both directions; gamma weights the one back to the noisier x (Zhang et al. 2023)."""
    times = trailing(NoiseSchedule(COSINE), 6)
    made, _ = run(partial(bdia, **given), times, COSINE, "v")
    x, before, noisy = times[0].sigma * NOISE, None, None
    for s, t in pairwise(times):
        x0 = WIDE.exact_x0(x, s)

        def move(to, x=x, x0=x0, s=s):
            return to.alpha * x0 + to.sigma * (x - s.alpha * x0) / s.sigma

        after = move(t) if before is None else move(t) + gamma * (before - move(noisy))
        x, before, noisy = after, x, s
    assert made == pytest.approx(x, abs=1e-11)
