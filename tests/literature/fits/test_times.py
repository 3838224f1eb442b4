"""Times of steps that are moved to where samples are better."""

import pytest

from fewstep.literature.fits.times import fit_times
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import linspace
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers import dpmpp_2m
from tests.calibration.fitting.analytic import Analytic, facts, mixture

SAMPLER = Analytic(facts("cosine", "v"), mixture)
SCHEDULE = NoiseSchedule(SAMPLER.facts.schedule)


def compiled(times):
    return trace_plan("dpmpp_2m:4", dpmpp_2m, times, SAMPLER.facts)


def test_a_plan_that_samples_nothing_is_no_plan():
    first = compiled(linspace(SCHEDULE, 3))
    asked = []

    def quality(plan):
        asked.append(plan)
        return 1.0 if plan == first else None

    assert fit_times(linspace(SCHEDULE, 3), SCHEDULE, compiled, quality) == first
    assert len(asked) <= 1 + 16 * 2


def test_a_search_asks_for_as_many_plans_as_it_says_at_most():
    asked = []
    times = linspace(SCHEDULE, 4)
    best = fit_times(times, SCHEDULE, compiled, lambda plan: asked.append(plan) or float(len(asked)))
    assert len(asked) == 1 + 16 * 3
    lams = [step.lam for step in best.steps[1:]]
    assert best.steps[0].time == times[0].network and lams == sorted(lams)


def gone(plan):
    raise UserError("the workers are gone", "start them")


@pytest.mark.parametrize(
    ("quality", "named"),
    [(gone, "the workers are gone"), (lambda plan: None, "the samples of dpmpp_2m:4 are not finite")],
)
def test_what_goes_wrong_while_sampling_is_not_swallowed(quality, named):
    with pytest.raises(UserError, match=named):
        fit_times(linspace(SCHEDULE, 4), SCHEDULE, compiled, quality)
