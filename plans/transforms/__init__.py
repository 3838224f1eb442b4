"""Transforms: functions from a plan to a changed plan. They change its tables, and do not trace the solver again.

- `repeat_plan`: several runs in a row, each of which continues the previous one.
- `use_given_noise`: start from noise that the caller passes.
- `change_guidance_weight`: another weight of classifier-free guidance.
- `tail`: the rest of a plan, from rows of its state.
- `use_unit_noise`: start from noise of standard deviation 1 instead of sigma_T.
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
