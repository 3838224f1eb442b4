"""The plan that a body was calibrated along, and the wording of warnings about it."""

from fewstep.plans.file import decode
from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan, shaping_of
from fewstep.plans.shaping import described
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle

MISFIT = "ranges may not fit"  # of a body that runs along another plan than it was calibrated along


def calibrated_plan(bundle: Bundle, body: Body) -> Plan | None:
    """None if it was not calibrated, or its plan is not in the bundle."""
    file = bundle.manifest.plans.get(body.plan or "")
    return None if file is None else decode(bundle.read(file), file)


def along(plan: Plan) -> str:
    """A plan in words, with its guidance and shaping: "dpmpp_2m:8, guidance 2, clipped to [-1, 1]"."""
    shaping = shaping_of(plan)
    shaped = "" if shaping is None else f", {described(shaping)}"
    return f"{plan.name}, guidance {describe(plan.guidance)}{shaped}"
