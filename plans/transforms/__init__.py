"""Transforms make plans from plans: they change the table and need no trace.

- `analytic_first_step`: the first evaluation replaced by what is known of it.
- `gaussian_start`: the way from pure noise to the plan's first time taken in one step, as Gaussian data have it.
- `scale_noise`: predicted noise divided by a factor for each step (epsilon scaling).
- `shift_times`: the network told other times (time shift), from `measured_shift`.
- `unit_start`: from noise of deviation 1 in place of sigma_T.
"""

from fewstep.plans.transforms.analytic_start import analytic_first_step, gaussian_start
from fewstep.plans.transforms.noise_scale import scale_noise
from fewstep.plans.transforms.time_shift import measured_shift, shift_times
from fewstep.plans.transforms.unit_start import unit_start

__all__ = ["analytic_first_step", "gaussian_start", "measured_shift", "scale_noise", "shift_times", "unit_start"]
