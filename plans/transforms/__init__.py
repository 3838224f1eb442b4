"""Transforms make plans from plans: they change the table and need no trace.

- `repeat_plan`: several runs in a row, each of which carries on from the one before.
- `use_given_noise`: a start from noise of the caller.
- `change_guidance_weight`: another weight of classifier-free guidance.
- `tail`: the rest of a plan, from rows of its state.
- `use_unit_noise`: from noise of deviation 1 in place of sigma_T.
"""

from fewstep.plans.transforms.given_noise import use_given_noise
from fewstep.plans.transforms.guidance_weight import change_guidance_weight
from fewstep.plans.transforms.repeat import repeat_plan
from fewstep.plans.transforms.tail import tail, tail_inputs
from fewstep.plans.transforms.unit_noise import use_unit_noise

__all__ = [
    "tail_inputs",
    "repeat_plan",
    "use_given_noise",
    "change_guidance_weight",
    "tail",
    "use_unit_noise",
]
