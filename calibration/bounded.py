"""The search of what a bound deploys of each body."""

import logging
from collections.abc import Callable
from functools import cache

from fewstep.calibration.failed_bodies import body_of
from fewstep.calibration.precision.bound import describe
from fewstep.calibration.precision.native import is_bound, searched_here
from fewstep.calibration.precision.refine import SearchResult, refine
from fewstep.calibration.precision.variants import Variants
from fewstep.calibration.task import Task
from fewstep.measure.rollouts.course import Course, open_courses
from fewstep.measure.rollouts.on_demand import close
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.arguments import check_compiled
from fewstep.runtime.progress import Progress, under

LOG = logging.getLogger("fewstep")


def search_for(task: Task, plan: AnyPlan, progress: Progress) -> Callable[[Variants], SearchResult | None]:
    """A function that finds what the task's bound deploys of a body's variants; None where there is no bound for its
    target. `plan` has the counts' groups. UserError where no body reaches the bound."""

    @cache
    def courses() -> tuple[Course, tuple[Course, ...]]:
        """The course of the search and those that judge: all targets share them."""
        opened = open_courses(task.sampler, check_compiled(plan), task.conditions, under(progress, "search"))
        close(task.sampler.network().graph)
        return opened

    def search(variants: Variants) -> SearchResult | None:
        target, bound = variants.target, task.bound
        if bound is None or not is_bound(target, bound):
            return None
        shown = under(progress, f"search for {target.name}")
        found = refine(variants, *courses(), bound, target.name in searched_here(), shown)
        if found.variants.is_float:
            LOG.warning(
                "%s runs nothing in int8: of all that was tried, float32 itself fits %s best (the body without a bound"
                " has %.1f dB)",
                *(body_of(target), describe(bound), found.without.mean),
            )
        return found

    return search
