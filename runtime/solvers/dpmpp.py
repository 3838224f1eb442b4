"""DPM-Solver++ (Lu, Zhou, Bao, Chen, Li, Zhu 2022, arXiv 2211.01095)."""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isinf

from fewstep.runtime.lin import Lin
from fewstep.runtime.schedule import Time
from fewstep.runtime.trace import Tracer


def dpmpp_2m(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """Second-order multistep on x0 (Algorithm 2). One evaluation a step, two rows; order 2 on any grid.

    The step to the clean end is first order: lambda is infinite there, so x is the predicted x0.
    """
    x, previous, h_previous = sampler.start(), None, 0.0
    for s, t in pairwise(times):
        x, x0 = sampler.denoise(x, s)
        h = t.lam - s.lam
        d = x0
        if previous is not None and not isinf(h):
            d = x0 + h / (2 * h_previous) * (x0 - previous)
        x = t.sigma / s.sigma * x - t.alpha * expm1(-h) * d
        previous, h_previous = x0, h
    return x
