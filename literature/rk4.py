"""The classical Runge-Kutta method on the probability-flow ODE."""

from collections.abc import Sequence
from itertools import pairwise
from math import isinf

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, noise_prediction
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Kutta 1901", order=4, rows=3)
def rk4(trace: Tracer, times: Sequence[Time]) -> Lin:
    """Integrate d(x / alpha) / d rho = eps with rho = sigma / alpha by the classical Runge-Kutta method. DPM-Solver's
    authors compare with it (Lu et al. 2022, arXiv 2206.00927, table 2).

    Steps from pure noise or to the clean end have order 1 and one evaluation.
    """
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        if isinf(t.lam - s.lam):
            x = first_order(x, x0, s, t)
            continue
        delta = t.rho - s.rho
        u = trace.schedule.time_at_rho((s.rho + t.rho) / 2)
        y = x / s.alpha

        slope = noise_prediction(x, x0, s)
        y = trace.store(y)
        total = trace.store(y + delta / 6 * slope)
        for fraction, weight, time in ((1 / 2, 1 / 3, u), (1 / 2, 1 / 3, u), (1.0, 1 / 6, t)):
            x, x0 = trace.denoise(time.alpha * (y + fraction * delta * slope), time)
            slope = noise_prediction(x, x0, time)
            total = trace.store(total + weight * delta * slope)
        x = t.alpha * total
    return x
