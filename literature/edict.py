"""EDICT (Wallace, Gokul, Naik 2022, arXiv 2211.12446): exact inversion by two coupled states.

Each state moves by the noise predicted at the other, so that every line can be solved for what it started from; mixing
with weight p keeps the two together.
"""

from collections.abc import Sequence
from itertools import pairwise

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, predicted_noise
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

PAPER = "Wallace, Gokul, Naik 2022, arXiv 2211.12446"


@Published(PAPER, order=1, rows=2)
def edict(trace: Tracer, times: Sequence[Time], *, p: float = 0.93, second: bool = False) -> Lin:
    """EDICT from one noise for both states.

    A step from pure noise, where the noise predicted is x itself, is DDIM's, with one evaluation.

    Args:
        p: weight of a state's own value when they are mixed, in (0, 1]. The authors take 0.93.
        second: return the second state; inverting needs both.
    """
    _check("edict", p)
    x = y = trace.start()
    for s, t in pairwise(times):
        if s.alpha == 0:
            x, x0 = trace.denoise(x, s)
            x = y = trace.store(first_order(x, x0, s, t))
            continue
        a, b = _ddim(s, t)
        seen, x0 = trace.denoise(y, s)
        x, y = trace.store(a * x + b * predicted_noise(seen, x0, s)), seen
        seen, x0 = trace.denoise(x, s)
        y = a * y + b * predicted_noise(seen, x0, s)
        x = p * seen + (1 - p) * y
        y = p * y + (1 - p) * x
        x, y = trace.store(x), trace.store(y)
    return y if second else x


@Published(PAPER, order=None, rows=2)
def edict_inverse(trace: Tracer, times: Sequence[Time], *, p: float = 0.93, second: bool = False) -> Lin:
    """The two states at the start of `edict` with the same times and p, out of those at its end: given "x" and given
    "y" (for a picture to edit, the picture twice). `edict` starts from one noise for both, so that an edit goes on from
    the rows before the last evaluation here: `tail_inputs` of them is what `tail(plan, 1)` of `edict` is given.

    Args:
        times: as for `edict`, from noisy to clean; the first may not be pure noise.
        p: as for `edict`.
        second: return the second state.
    """
    _check("edict_inverse", p)
    if times[0].alpha == 0:
        raise UserError("edict_inverse up to pure noise, where a step has no inverse", "give times that start later")
    x, y = trace.given("x"), trace.given("y")
    for t, s in pairwise(times[::-1]):
        a, b = _ddim(s, t)
        y = (y - (1 - p) * x) / p
        x = trace.store((x - (1 - p) * y) / p)
        y = trace.store(y)
        seen, x0 = trace.denoise(x, s)
        x, y = seen, trace.store((y - b * predicted_noise(seen, x0, s)) / a)
        seen, x0 = trace.denoise(y, s)
        x, y = trace.store((x - b * predicted_noise(seen, x0, s)) / a), seen
    return y if second else x


def _ddim(s: Time, t: Time) -> tuple[float, float]:
    """(a, b) of DDIM's step a x + b eps from s to t."""
    return t.alpha / s.alpha, t.sigma - t.alpha * s.sigma / s.alpha


def _check(name: str, p: float) -> None:
    if not 0 < p <= 1:
        raise UserError(f"{name} with p {p:g}", "choose p in (0, 1]")
