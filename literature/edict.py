"""EDICT (Wallace, Gokul, Naik 2022, arXiv 2211.12446): exact inversion with two coupled states.

Each state is updated with the noise that is predicted at the other state, so that every update can be inverted. Mixing
with weight p keeps the two states close to each other.
"""

from collections.abc import Sequence
from itertools import pairwise

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, noise_prediction
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

PAPER = "Wallace, Gokul, Naik 2022, arXiv 2211.12446"


@Published(PAPER, order=1, rows=2)
def edict(trace: Tracer, times: Sequence[Time], *, p: float = 0.93, second: bool = False) -> Lin:
    """Sample with EDICT, starting both states from the same noise.

    A step from pure noise, where the predicted noise is x itself, is a DDIM step with one evaluation.

    Args:
        p: weight of a state's own value when the two are mixed, in (0, 1]. The authors use 0.93.
        second: also return the second state, which inversion needs.
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
        x, y = trace.store(a * x + b * noise_prediction(seen, x0, s)), seen
        seen, x0 = trace.denoise(x, s)
        y = a * y + b * noise_prediction(seen, x0, s)
        x = p * seen + (1 - p) * y
        y = p * y + (1 - p) * x
        x, y = trace.store(x), trace.store(y)
    return y if second else x


@Published(PAPER, order=None, rows=2)
def edict_inverse(trace: Tracer, times: Sequence[Time], *, p: float = 0.93, second: bool = False) -> Lin:
    """Compute the two states at the start of `edict` with the same times and p, from the states at its end. These are
    the given tensors "x" and "y"; to edit an image, both are the image.

    `edict` starts both states from the same noise, so an edit cannot start from the states returned here. It continues
    from the rows before the last evaluation of this plan: their `tail_inputs` are the given tensors of `tail(plan, 1)`
    of `edict`.

    Args:
        times: as for `edict`, from noisy to clean; the first cannot be pure noise.
        p: as for `edict`.
        second: also return the second state.
    """
    _check("edict_inverse", p)
    if times[0].alpha == 0:
        raise UserError(
            "edict_inverse cannot go up to pure noise, where a step has no inverse", "give times that start later"
        )
    x, y = trace.given("x"), trace.given("y")
    for t, s in pairwise(times[::-1]):
        a, b = _ddim(s, t)
        y = (y - (1 - p) * x) / p
        x = trace.store((x - (1 - p) * y) / p)
        y = trace.store(y)
        seen, x0 = trace.denoise(x, s)
        x, y = seen, trace.store((y - b * noise_prediction(seen, x0, s)) / a)
        seen, x0 = trace.denoise(y, s)
        x, y = trace.store((x - b * noise_prediction(seen, x0, s)) / a), seen
    return y if second else x


def _ddim(s: Time, t: Time) -> tuple[float, float]:
    """Return (a, b) of DDIM's step a x + b eps from s to t."""
    return t.alpha / s.alpha, t.sigma - t.alpha * s.sigma / s.alpha


def _check(name: str, p: float) -> None:
    if not 0 < p <= 1:
        raise UserError(f"{name} cannot run with p {p:g}", "choose p in (0, 1]")
