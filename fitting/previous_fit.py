"""The previous fit: a bundle's fitted plan that a new fit for the same use replaces."""

import logging
from typing import NamedTuple

from fewstep.fitting.requirements import BODY
from fewstep.plans.guidance import Guidance, as_guidance
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.remake_commands import weight_of_fit
from fewstep.runtime.sampling.fitted_plans import read_fitted_plans

LOG = logging.getLogger("fewstep")


class PreviousFit(NamedTuple):
    """A plan that was fitted to the same graph for the same use, and its entry in the manifest."""

    entry: FittedPlan
    plan: Plan


def find_previous_fit(bundle: Bundle, graph: str, plan: Plan) -> PreviousFit | None:
    """Return the stored plan that was fitted to the same graph for the same use (body, evaluations and guidance) as
    `plan`. None if there is none.

    graph: the digest of the fitted body's graph, from `graph_of_fit`.
    """
    for entry in bundle.manifest.fitted:
        plans, _ = read_fitted_plans(bundle, [entry] if entry.body == BODY else [])
        for previous in plans:
            if previous.fitted is not None and previous.fitted.graph == graph and use_of(previous) == use_of(plan):
                return PreviousFit(entry, previous)
    return None


def use_of(plan: Plan) -> tuple[object, ...]:
    """Return the use of a plan, by which a caller selects a body's fitted plan: evaluations, guidance, strength and
    shapings."""
    return len(plan.steps), plan.guidance, plan.strength, {step.shaping for step in plan.steps}


def use_of_entry(bundle: Bundle, entry: FittedPlan) -> tuple[object, ...]:
    """Return the use of a plan in a bundle. If its file is lost, only evaluations and guidance are known."""
    plans, lost = read_fitted_plans(bundle, [entry])
    weight = weight_of_fit(bundle.path, bundle.manifest, entry) if lost else None
    return (entry.evaluations, as_guidance(weight), None, {None}) if lost else use_of(plans[0])


def warn_of_lost_plans(bundle: Bundle, steps: int, guidance: Guidance | None) -> None:
    """Log a warning for each fitted plan whose file cannot be read. It says whether the new plan will replace it, which
    is the case only if both are for the same body, number of evaluations and guidance."""
    for entry in bundle.manifest.fitted:
        for error in read_fitted_plans(bundle, [entry])[1]:
            weight = weight_of_fit(bundle.path, bundle.manifest, entry)
            is_same = (entry.body, entry.evaluations, as_guidance(weight)) == (BODY, steps, guidance)
            ending = "this fit replaces it" if is_same else f"this fit does not replace it; {error.fix}"
            LOG.warning("%s; %s", error.what, ending)
