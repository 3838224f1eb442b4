"""Select the plans along which bodies are timed."""

from collections.abc import Sequence

from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.plan_selection import select_plans
from fewstep.measure.sampling import FLOAT
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import TextReference
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import Bundle


def select_timed_plans(
    bundle: Bundle,
    names: Sequence[str],
    reference: TextReference | None,
    guidance: float | Guidance | None,
    threads: int,
) -> dict[str, Plan]:
    """Return a plan for each body of the bundle.

    `select_plans` selects the plans of the calibrated bodies in `names`. If there are none, it selects the plan of the
    bundle's first calibrated body, or else that of float32. All other bodies get the first of these plans.
    """
    bodies = bundle.manifest.bodies
    opened = open_body(bundle, FLOAT if FLOAT in bodies else names[0], threads)
    calibrated = [name for name, body in bodies.items() if body.plan is not None]
    chosen = [name for name in calibrated if name in names] or calibrated[:1]
    judged = {name: bodies[name] for name in chosen} or {FLOAT: opened.body}
    plans = select_plans(opened.plans, judged, reference, guidance)
    first = next(iter(plans.values()))
    return {name: plans.get(name, first) for name in bodies}
