"""The plan that a body was calibrated along, and the words in which warnings about it name plans."""

from fewstep.runtime.bundle import Bundle
from fewstep.runtime.guidance import describe
from fewstep.runtime.manifest import Body
from fewstep.runtime.plan import Plan
from fewstep.runtime.plan_file import decode

MISFIT = "ranges may not fit"  # of a body that runs along another plan than it was calibrated along


def calibrated_plan(bundle: Bundle, body: Body) -> Plan | None:
    """None if it was not calibrated, or its plan is not in the bundle."""
    file = bundle.manifest.plans.get(body.plan or "")
    return None if file is None else decode(bundle.read(file), file)


def along(plan: Plan) -> str:
    """A plan in words, with its guidance: "dpmpp_2m:8, guidance 2"."""
    return f"{plan.name}, guidance {describe(plan.guidance)}"
