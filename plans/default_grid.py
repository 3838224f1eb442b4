"""The default grid of plan names, by a rule on the denoiser's schedule and prediction if its spec names no grid."""

from fewstep.plans.paths import RESTORING
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec

ANGLES = "arctan"
TRAINED = "trailing"
KEPT = ("sample", "residual", "consistency")  # predictions that keep `trailing`
FEW = 80  # timesteps; with fewer, times between them are too far from the trained ones


def default_grid(schedule: ScheduleSpec, prediction: Prediction) -> str:
    """Return the default grid: `arctan`, or `trailing` (equal steps of the training's time) in four cases.

    `trailing` is for:

    - tables of fewer than 80 timesteps, whose networks know only those times;
    - consistency functions of timesteps or flows, for the same reason;
    - restoration;
    - denoisers that predict the sample or the residual. These are often policies, whose actions have a far smaller
      spread than images, so `arctan` would place its steps at too much noise.

    If the schedule has a sigma_min, the second and fourth case get `arctan` too, since `trailing` would spend an
    evaluation at sigma_min.

    The rule was measured on trained denoisers (lab/measured/nominal.md), two of which were not used to choose it.
    """
    timesteps = NoiseSchedule(schedule).timesteps
    is_few = timesteps is not None and timesteps < FEW
    is_kept = prediction in KEPT and not _has_least_noise(schedule)
    return TRAINED if schedule.kind in RESTORING or is_kept or is_few else ANGLES


def find_trained_grid(denoiser: DenoiserFacts) -> str:
    """Return the default grid of solvers for distilled denoisers, and of loops with equal steps over a flow: a grid
    that the spec named, else `trailing`. If `trailing` would end at sigma_min, where a distilled denoiser does nothing,
    it is `arctan`."""
    if denoiser.grid not in (ANGLES, TRAINED):
        return denoiser.grid
    return ANGLES if _has_least_noise(denoiser.schedule) else TRAINED


def _has_least_noise(schedule: ScheduleSpec) -> bool:
    """True if `trailing` evaluates at sigma_min."""
    known = NoiseSchedule(schedule)
    return known.timesteps is None and known.cleanest.sigma > 0
