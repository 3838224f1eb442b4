"""Plans that start from noise that the caller passes as an array."""

import msgspec

from fewstep.plans.any_plan import check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.plan import NOISE, Plan


def use_given_noise(plan: Plan) -> Plan:
    """Return the plan with its first draw replaced by the given tensor `noise` [B, *x_shape], of standard deviation 1.

    The noise may have another spectrum (such as the phase of an image, as in NeuralRemaster), be optimised, or be
    shared by two samples. A hold noises its value with it too, unless it is fresh. Later draws depend on the seed.
    """
    check_compiled(plan)
    again = any(draw in plan.start_draws for step in plan.steps for draw in step.draws)
    if len(plan.start_draws) != 1 or again:
        raise UserError(
            f"plan {plan.name!r} must start from a single draw of noise that no later step reads again",
            "choose another plan, such as ddim:8",
        )
    name = f"{plan.name} from own noise"
    return msgspec.structs.replace(plan, name=name, given=(*plan.given, NOISE), start_draws=())
