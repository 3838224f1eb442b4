"""Stochastic interpolants (Albergo, Boffi, Vanden-Eijnden 2023, arXiv 2303.08797): one pair of networks, velocity and
score, for a family of equations from the ODE to SDEs with more and more noise."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.parameters import check_not_negative
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

WAYS = tuple(i / 64 for i in range(65))
BROWNIAN = ScheduleSpec(  # I = (1 - t) y + t x0, gamma = sqrt(t (1 - t)), as t falls from the data on
    "interpolant",
    alphas=tuple(1 - way for way in WAYS),
    sigmas=tuple(sqrt(way * (1 - way)) for way in WAYS),
    shares=WAYS,
)
MADE_FOR = DenoiserFacts(BROWNIAN, "velocity", heads=2, towards="y")


@Published("Albergo et al. 2023, arXiv 2303.08797", order=1, rows=2, made_for=MADE_FOR)
def interpolant(trace: Tracer, times: Sequence[Time], *, epsilon: float = 0.0, power: float = 0.0) -> Lin:
    """Sample with Euler-Maruyama for dx = (b + e score) dt + sqrt(2 e) dw from y to the data, where e(t) = epsilon
    sigma_t^power.

    The denoiser's first output is the velocity (prediction "velocity": from the data to y, so that b is minus the
    velocity). Its second output is the score, -eta / sigma. With one output only the ODE is possible, and `epsilon`
    must be 0.

    Args:
        epsilon: 0 or more. 0 is the ODE; a constant above 0 is the SDE of the authors' code.
        power: 0 or more. With 1 or more, the noise vanishes together with sigma at both ends, where the score is
            infinite.
    """
    check_not_negative("epsilon", epsilon)
    check_not_negative("power", power)
    if trace.prediction != "velocity" or trace.heads < (2 if epsilon else 1):
        raise UserError(
            f"interpolant cannot use a denoiser of {trace.heads} output(s) that predicts {trace.prediction}",
            'give one with prediction "velocity", and for epsilon above 0 with heads 2: velocity and score',
        )
    x, whole = trace.start(), trace.schedule.path.last
    for s, t in pairwise(times):
        way = (s.network - t.network) / whole
        x, (velocity, *score) = trace.outputs(x, s)
        moved = trace.add_share(x, s) - way * velocity
        e = epsilon * s.sigma**power if s.sigma > 0 and t.sigma > 0 else 0.0
        if e:
            moved = moved + e * way * score[0] + sqrt(2 * e * way) * trace.noise()
        x = moved - (trace.add_share(x, t) - x)
    return x
