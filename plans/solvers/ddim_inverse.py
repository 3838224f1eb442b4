"""DDIM run backwards: from a sample to the noise that leads to it (Song, Meng, Ermon 2021, arXiv 2010.02502, section
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
    """The noise at the first time, out of given "x" at the last one.

    An inverse only as steps get small: DDIM's own noise is predicted at the noisier end of a step, which is not known
    yet, so the denoiser gets that time and the x of the cleaner end, as in published code. A step to pure
    noise holds x0, predicted at its cleaner end. `bdia_inverse` and `edict_inverse` are exact.

    Args:
        times: as for `ddim`, from noisy to clean.
    """
    if len(times) == 2 and times[0].alpha == 0:
        raise UserError("ddim_inverse from clean to pure noise in one step", "take 2 steps or more")
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
    """DDIM from s to t, of which either may be the noisier."""
    kept = noise_left(s, t)
    return kept * x + (t.alpha - kept * s.alpha) * x0
