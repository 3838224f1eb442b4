"""DDIM run backwards: from a sample to the noise that generates it (Song, Meng, Ermon 2021, arXiv 2010.02502, section
5.4)."""

from collections.abc import Sequence
from itertools import pairwise

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import noise_left, predicted_noise, transfer
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Song, Meng, Ermon 2021, arXiv 2010.02502", order=1, rows=1)
def ddim_inverse(trace: Tracer, times: Sequence[Time]) -> Lin:
    """Return the noise at the first time for a given "x" at the last time.

    It inverts `ddim` only in the limit of small steps. DDIM predicts the noise from x at the noisier end of a step,
    which is not known yet. So the denoiser gets the time of that end and x of the cleaner end, as in published code. A
    step to pure noise keeps x0 fixed, as predicted at the cleaner end. `bdia_inverse` and `edict_inverse` are exact.

    Args:
        times: as for `ddim`, from noisy to clean.
    """
    if len(times) == 2 and times[0].alpha == 0:
        raise UserError("ddim_inverse cannot go from clean to pure noise in one step", "take 2 steps or more")
    x = trace.given("x")
    for s, t in pairwise(times[::-1]):
        if t.alpha == 0:
            x, x0 = trace.denoise(x, s)
            x = ddim_step(x, x0, s, t)
        else:
            x, x0 = trace.denoise(x, t)
            x = transfer(x, predicted_noise(x, x0, t), s, t)
    return x


def ddim_step(x: Lin, x0: Lin, s: Time, t: Time) -> Lin:
    """Return a DDIM step from s to t. Either may be the noisier one."""
    kept = noise_left(s, t)
    return kept * x + (t.alpha - kept * s.alpha) * x0
