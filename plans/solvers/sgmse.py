"""SGMSE+ (Richter, Welker, Lemercier, Lay, Gerkmann 2023, arXiv 2208.05830): speech enhancement on the OUVE SDE,

    dx = theta (y - x) dt + g(t) dw,    g(t) = sigma_min (sigma_max / sigma_min)^t sqrt(2 log(sigma_max / sigma_min)),

with predictor and corrector steps from y + sigma_1 z. StoRM (Lemercier, Richter, Welker, Gerkmann 2023, arXiv
2212.11851) has the same recurrence (N steps of 1/N in its code), with the output of a predictive network as y. The
caller runs that network.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log, sqrt

from fewstep.plans.errors import UserError
from fewstep.plans.paths import sigma_range
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.parameters import check_count, check_not_negative
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

MOST_CORRECTIONS = 100  # maximum Langevin steps at each time; published samplers use one or two
MADE_FOR = DenoiserFacts(ScheduleSpec("ou"), "score", towards="y")


@Published("Richter et al. 2023, arXiv 2208.05830", order=1, rows=2, made_for=MADE_FOR)
def sgmse(trace: Tracer, times: Sequence[Time], *, snr: float = 0.5, corrections: int = 1) -> Lin:
    """Annealed-Langevin correction, then a reverse-diffusion step (Algorithm 1, as published). It is for 30 steps, with
    `corrections` + 1 evaluations per step. The rows are x and y.

    The step to the clean end adds no noise: the sample is the denoised mean.

    Args:
        snr: r of the corrector, whose step is 2 (r sigma)^2. This is the authors' default. The corrector of NCSN++
            divides norms of the data instead, which a plan cannot express.
        corrections: Langevin steps at each time.
    """
    check_not_negative("snr", snr)
    check_count("corrections", corrections, MOST_CORRECTIONS)
    spec = trace.schedule.spec
    if spec.kind != "ou":
        raise UserError(
            f"sgmse needs schedule ou, and this is {spec.kind}", "use schedule ou, or the solver score_sde_pc"
        )
    low, high = sigma_range(spec)
    x = trace.start()
    y = trace.reverts_to()
    for s, t in pairwise(times):
        step = 2 * (snr * s.sigma) ** 2
        for _ in range(corrections):
            x, x0 = trace.denoise(x, s)
            x = x + step * score(x, x0, s) + sqrt(2 * step) * trace.noise()
        x, x0 = trace.denoise(x, s)
        clock_s, clock_t = s.network / spec.time_scale, t.network / spec.time_scale
        delta = clock_s - clock_t
        g2 = (low * (high / low) ** clock_s) ** 2 * 2 * log(high / low)
        # x here is the paper's x minus (1 - alpha) y, so the term with y is added
        kept = 1 + spec.theta * delta
        x = kept * x + (t.alpha - kept * s.alpha) * y + g2 * delta * score(x, x0, s)
        if t.sigma > 0:
            x = x + sqrt(g2 * delta) * trace.noise()
    return x


def score(x: Lin, x0: Lin, s: Time) -> Lin:
    """Return the gradient of log p_s at x: (alpha x0 - x) / sigma^2."""
    return (s.alpha * x0 - x) / s.sigma**2
