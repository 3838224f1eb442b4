"""The grid of plan names without one: a rule from the denoiser's schedule and prediction, where its spec says none."""

from fewstep.plans.paths import RESTORING
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec

ANGLES = "arctan"
TRAINED = "trailing"
KEPT = ("sample", "residual", "consistency")  # predictions that keep `trailing`
FEW = 80  # timesteps: with fewer, times between them are far from the trained ones


def default_grid(schedule: ScheduleSpec, prediction: Prediction) -> str:
    """`arctan` on the way from noise to data. `trailing`, even steps of the training's time, for denoisers that know
    certain times only (tables of fewer than 80 timesteps, consistency functions of timesteps or flows), for
    restoration, and for denoisers that predict the sample itself. These are often policies, whose actions have far less
    spread than images: `arctan` has its steps at too much noise for them. Where the schedule has a sigma_min, these
    predictions get `arctan` too: `trailing` would spend an evaluation there.

    Measured on trained denoisers (docs/measured/nominal.md), two of which the rule was not made on.
    """
    timesteps = NoiseSchedule(schedule).timesteps
    is_few = timesteps is not None and timesteps < FEW
    is_kept = prediction in KEPT and not _has_least_noise(schedule)
    return TRAINED if schedule.kind in RESTORING or is_kept or is_few else ANGLES


def distilled_grid(denoiser: DenoiserFacts) -> str:
    """The grid of a distilled denoiser's solver in a name without one: that which a spec named, else even steps. Where
    these would end at sigma_min, at which a distilled denoiser has nothing to do, it is `arctan`."""
    if denoiser.grid not in (ANGLES, TRAINED):
        return denoiser.grid
    return ANGLES if _has_least_noise(denoiser.schedule) else TRAINED


def _has_least_noise(schedule: ScheduleSpec) -> bool:
    """True where `trailing` evaluates sigma_min."""
    known = NoiseSchedule(schedule)
    return known.timesteps is None and known.cleanest.sigma > 0
