"""BDIA (Zhang, Lewis, Kleijn 2023, arXiv 2307.10829): bidirectional integration approximation, which can be inverted
exactly.

D(i -> j) is DDIM's step from i to j, in either direction. BDIA averages over two steps,

    x_{i-1} = gamma (x_{i+1} - D(i -> i+1)) + D(i -> i-1),

where i + 1 is the noisier neighbour. Only x_i is evaluated, so the same equation, solved for x_{i+1}, gives the
inverse.
"""

from collections.abc import Sequence
from itertools import pairwise

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.ddim import ddim_step
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

PAPER = "Zhang, Lewis, Kleijn 2023, arXiv 2307.10829"


@Published(PAPER, order=2, rows=2)
def bdia(trace: Tracer, times: Sequence[Time], *, gamma: float = 1.0) -> Lin:
    """Sample with BDIA-DDIM, of order 2 for gamma 1 and otherwise of order 1.

    Args:
        gamma: in [0, 1]; 0 is DDIM. The authors use 0.5 for 10 steps and 1 for 40.
    """
    check_share("gamma", gamma)
    x, before, before_time = trace.start(), Lin({}), None
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        after = ddim_step(x, x0, s, t)
        if before_time is not None:
            after = after + gamma * (before - ddim_step(x, x0, s, before_time))
        x, before, before_time = after, x, s
    return x


@Published(PAPER, order=None, rows=2)
def bdia_inverse(trace: Tracer, times: Sequence[Time], *, gamma: float = 1.0) -> Lin:
    """Compute the first x of a `bdia` run with the same times and gamma from the last two x of that run. The given
    tensor "x" is the run's sample, and "x_before" is the last x that it evaluated. The network is evaluated once at
    each time between the first and the last.

    The result is exact up to rounding errors, which 1 / gamma amplifies at every step. In float32, use gamma 1.

    Args:
        times: as for `bdia`, from noisy to clean, at least two steps.
        gamma: in (0, 1].
    """
    if not 0 < gamma <= 1 or len(times) < 3:
        raise UserError(
            f"bdia_inverse cannot run with gamma {gamma:g} over {len(times) - 1} steps",
            "choose gamma in (0, 1] and 2 steps or more",
        )
    cleaner, x = trace.given("x"), trace.given("x_before")
    for clean, s, noisy in zip(times[:1:-1], times[-2::-1], times[-3::-1]):
        x, x0 = trace.denoise(x, s)
        before = ddim_step(x, x0, s, noisy) + (cleaner - ddim_step(x, x0, s, clean)) / gamma
        cleaner, x = x, before
    return x
