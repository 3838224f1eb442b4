"""Change the weight of classifier-free guidance in a compiled plan. This is needed for fitted plans, which cannot be
compiled again with another weight."""

from collections.abc import Sequence

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND, Cfg, weight_of
from fewstep.plans.plan import Plan, Row, Step
from fewstep.plans.shaping import GuidedShaping, Project


def change_guidance_weight(plan: Plan, weight: float) -> Plan:
    """Return a plan with another weight of classifier-free guidance. Wherever a step reads the guided output, the
    difference of the weights is added to the coefficient of the conditional branch, and subtracted from that of the
    unconditional branch. Raises UserError for a plan without a single guidance weight."""
    form = plan.guidance
    weight_before = weight_of(form)
    if weight_before is None or not isinstance(form, Cfg):
        raise UserError(f"plan {plan.name!r} has no single guidance weight to change", "run it as it was fitted")
    if any(isinstance(step.shaping, Project) for step in plan.steps):
        raise UserError(f"plan {plan.name!r} has projected guidance, whose weight cannot change", "run it as it is")
    steps = tuple(_shift_weight(step, weight - weight_before) for step in plan.steps)
    return msgspec.structs.replace(plan, steps=steps, guidance=Cfg(weight))


def _shift_weight(step: Step, by: float) -> Step:
    """Return the step with `by` added to its guidance weight. All its rows that read outputs read both branches."""
    if UNCOND not in step.branches:
        return step
    K = len(step.input)
    cond, uncond = (K + step.branches.index(branch) * step.heads for branch in (COND, UNCOND))

    def lean(row: Row) -> Row:
        numbers = list(row)
        total = numbers[cond] + numbers[uncond]
        numbers[cond] += total * by
        numbers[uncond] -= total * by
        return tuple(numbers)

    shaping_of: Sequence[Row] = step.shaping_of
    if shaping_of:
        # the other value of a guided shaping is the conditional output
        guided = 1 if isinstance(step.shaping, GuidedShaping) else len(shaping_of)
        shaping_of = [lean(row) if place < guided else row for place, row in enumerate(shaping_of)]
    return msgspec.structs.replace(
        step,
        shaping_of=tuple(shaping_of),
        x0=lean(step.x0),
        update=tuple(lean(row) for row in step.update),
    )
