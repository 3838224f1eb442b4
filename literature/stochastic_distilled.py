"""The stochastic sampler of distilled guided models (Meng, Rombach, Gao, Kingma, Ermon, Ho & Salimans 2023, arXiv
2210.03142, section 3.3)."""

from collections.abc import Sequence

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers import ancestral
from fewstep.plans.solvers.exponential import first_order
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Meng et al. 2023, arXiv 2210.03142", order=None, rows=1, distilled=True)
def stochastic_distilled(trace: Tracer, times: Sequence[Time]) -> Lin:
    """Sample with DDIM steps over two intervals, each followed by noise that goes back over the second interval, so
    that each evaluation advances by one interval. The last interval is a DDIM step without noise. The network takes the
    guidance weight as a condition."""
    x = trace.start()
    for s, t, beyond in zip(times, times[1:], [*times[2:], None], strict=False):
        x, x0 = trace.denoise(x, s)
        x = first_order(x, x0, s, beyond or t)
        if beyond is not None:
            x = ancestral.add_noise(trace, x, beyond, t)
    return x
