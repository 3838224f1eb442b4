"""Suggest a clip of x0, from what is known about the data before anything is sampled."""

from contextlib import suppress

from fewstep.plans.any_plan import shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import Clip
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sample_space import LARGEST


def suggest_clip(bundle: Bundle) -> float | None:
    """Return the limit of the suggested clip: the clip of the scheduler that came with the denoiser, or else 1 for an
    epsilon denoiser of data in [-1, 1].

    An epsilon denoiser needs a clip because the error of its prediction is divided by alpha, which is small at the
    first steps. Return None in all other cases, such as latents, which have no sharp limit.
    """
    manifest = bundle.manifest
    if manifest.scheduler is not None and manifest.space.has_squared_error:
        from fewstep.runtime.sampling.scheduler_plans import scheduler_plan  # slow to load

        with suppress(UserError):
            shaping = shaping_of(scheduler_plan(2, None, False, bundle, None))  # any number of steps has the same clip
            if isinstance(shaping, Clip) and shaping.high == -shaping.low:
                return shaping.high
    is_bounded = manifest.data_limit is not None and manifest.data_limit <= LARGEST
    return 1.0 if is_bounded and manifest.prediction == "epsilon" else None
