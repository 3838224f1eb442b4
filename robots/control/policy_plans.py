"""Compile the plans of a policy, so that nothing moves a robot to actions that no data have.

A network that predicts noise divides its error by alpha, which is small at the first steps. In few steps without a clip
its actions may be a thousand times those of the data. Plans of the scheduler have the scheduler's clip, and those of a
calibrated bundle the clip of the calibration. This module gives the scheduler's clip to all other plans SOLVER:STEPS.
"""

from fewstep.plans.any_plan import PlanLike, parse_plan_reference, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import NamedReference, split_plan_name
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip
from fewstep.runtime.sampling.calibrated_plans import find_calibrated_body
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.suggested_clip import suggest_clip


def compile_policy_plan(sampler: Sampler, plan: PlanLike | None) -> Plan:
    """Return a plan, with the clip of the policy's own scheduler if it is SOLVER:STEPS, the network predicts noise, and
    the bundle is not calibrated.

    A plan that was compiled before is returned as it is. Raises UserError if no clip is known.
    """
    compiled = sampler.compile(plan)
    bundle = sampler.bundle
    is_named = plan is None or isinstance(parse_plan_reference(plan), NamedReference)
    is_own = split_plan_name(compiled.name).is_of_scheduler
    if bundle.manifest.prediction != "epsilon" or not is_named or is_own or shaping_of(compiled) is not None:
        return compiled
    if find_calibrated_body(bundle.manifest, sampler.body) is not None:
        return compiled
    clip = suggest_clip(bundle)
    if clip is not None:
        return sampler.compile(plan, shaping=Clip(-clip, clip))
    what = f"policy {bundle.manifest.name!r} predicts noise, and nothing limits the actions of {compiled.name}"
    fix = "calibrate it with --clip LIMIT, the largest number in its data (in Python shaping=Clip(-LIMIT, LIMIT))"
    raise UserError(what, fix if bundle.manifest.scheduler is None else f"{fix}, or choose the plan scheduler:STEPS")
