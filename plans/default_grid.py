"""The grid of plan names without one: a rule from the denoiser's schedule and prediction, where its spec says none."""

from fewstep.plans.paths import RESTORING
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Prediction, ScheduleSpec

ANGLES = "arctan"
TRAINED = "trailing"
KEPT = ("sample", "residual", "consistency")  # predictions that keep `trailing`
FEW = 80  # timesteps: with fewer, times between them are far from the trained ones


def default_grid(schedule: ScheduleSpec, prediction: Prediction) -> str:
    """`arctan` on the way from noise to data. `trailing`, even steps of the training's time, for denoisers that know
    certain times only (tables of fewer than 80 timesteps, distilled denoisers), for restoration, and for denoisers that
    predict the sample itself. These are often policies, whose actions have far less spread than images: `arctan` has
    its steps at too much noise for them.

    Measured on trained denoisers (docs/measured/nominal.md), two of which the rule was not made on.
    """
    timesteps = NoiseSchedule(schedule).timesteps
    is_few = timesteps is not None and timesteps < FEW
    if schedule.kind in RESTORING or prediction in KEPT or is_few:
        return TRAINED
    return ANGLES
