"""Times of steps that are moved to where samples are better."""

from fewstep.fitting.times import best_times
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import linspace
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers import dpmpp_2m
from tests.fitting.analytic import Analytic, blocks, facts, mean_psnr, mixture, taught

SAMPLER = Analytic(facts("cosine", "v"), mixture)
SCHEDULE = NoiseSchedule(SAMPLER.facts.schedule)


def compiled(times):
    return trace_plan("dpmpp_2m:4", dpmpp_2m, times, SAMPLER.facts)


def test_samples_of_other_seeds_come_nearer_to_the_teacher():
    times = linspace(SCHEDULE, 4)
    parts = taught(SAMPLER, compiled(linspace(SCHEDULE, 200)), blocks(range(32)))
    best = best_times(times, SCHEDULE, compiled, lambda plan: mean_psnr(SAMPLER, plan, parts[:2]))
    assert mean_psnr(SAMPLER, best, parts[2:]) > mean_psnr(SAMPLER, compiled(times), parts[2:]) + 1
    assert best.steps[0].time == times[0].network
    lams = [step.lam for step in best.steps[1:]]
    assert lams == sorted(lams)


def test_a_plan_that_cannot_be_judged_is_no_plan():
    times = linspace(SCHEDULE, 3)
    first = compiled(times)

    def quality(plan):
        if plan != first:
            raise UserError("the sample left the numbers", "take another plan")
        return 1.0

    assert best_times(times, SCHEDULE, compiled, quality) == first
