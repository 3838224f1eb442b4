"""Residual denoising diffusion (Liu, Wang, Fan, Wang, Tang, Qu 2024, arXiv 2308.13712): the denoiser predicts the
residual y - x0 and the noise, which have separate schedules."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

MADE_FOR = DenoiserFacts(ScheduleSpec("rddm"), "residual", heads=2, towards="y")


@Published("Liu et al. 2024, arXiv 2308.13712", order=1, rows=2, made_for=MADE_FOR)
def rddm(trace: Tracer, times: Sequence[Time], *, eta: float = 0.0) -> Lin:
    """x_t = x_s - (abar_s - abar_t) res - (bbar_s - sqrt(bbar_t^2 - n^2)) eps + n z, where abar = 1 - alpha is the
    residual's share and bbar = sigma. The rows are x and y.

    It is for denoisers of two outputs: the residual (prediction "residual"), then the noise. If a denoiser predicts
    only one of them, the other follows from it: use `ddim`.

    Args:
        eta: in [0, 1], scales the noise: n^2 = eta (bbar_s^2 - bbar_t^2) bbar_t^2 / bbar_s^2. The published value is 0.
    """
    check_share("eta", eta)
    if trace.heads != 2 or trace.prediction != "residual":
        raise UserError(
            f"rddm needs a residual and a noise output, but the denoiser predicts {trace.prediction} "
            f"with {trace.heads} output(s)",
            'use a denoiser with both (prediction "residual", heads 2), or the solver ddim',
        )
    x = trace.start()
    y = trace.reverts_to()
    for s, t in pairwise(times):
        x, (residual, eps) = trace.outputs(x, s)
        n2 = max(0.0, eta * (s.sigma**2 - t.sigma**2) * t.sigma**2 / s.sigma**2)  # no noise if sigma increases
        # x here is the paper's x minus abar y, so its change has y - res in the place of -res
        x = x + (t.alpha - s.alpha) * (y - residual) - (s.sigma - sqrt(t.sigma**2 - n2)) * eps
        if n2 > 0:
            x = x + sqrt(n2) * trace.noise()
    return x
