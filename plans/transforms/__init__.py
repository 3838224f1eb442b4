"""Transforms make plans from plans: they change the table and need no trace.

- `analytic_first_step`: the first evaluation replaced by its analytic result.
- `chained`: several runs in a row, each of which carries on from the one before.
- `gaussian_start`: the way from pure noise to the plan's first time taken in one step, as Gaussian data have it.
- `own_noise`: a start from noise of the caller.
- `reguided`: another weight of classifier-free guidance.
- `scale_noise`: predicted noise divided by a factor for each step (epsilon scaling).
- `shift_times`: other times for the network (time shift), from `measured_shift`.
- `tail`: the rest of a plan, from rows of its state.
- `time_travel`: blocks of steps that are noised again and repeated.
- `unit_start`: from noise of deviation 1 in place of sigma_T.
"""

from fewstep.plans.transforms.analytic_start import analytic_first_step, gaussian_start
from fewstep.plans.transforms.chained import chained
from fewstep.plans.transforms.noise_scale import scale_noise
from fewstep.plans.transforms.own_noise import own_noise
from fewstep.plans.transforms.reguide import reguided
from fewstep.plans.transforms.tail import as_given, tail
from fewstep.plans.transforms.time_shift import measured_shift, shift_times
from fewstep.plans.transforms.time_travel import time_travel
from fewstep.plans.transforms.unit_start import unit_start

__all__ = [
    "analytic_first_step",
    "as_given",
    "chained",
    "gaussian_start",
    "measured_shift",
    "own_noise",
    "reguided",
    "scale_noise",
    "shift_times",
    "tail",
    "time_travel",
    "unit_start",
]
