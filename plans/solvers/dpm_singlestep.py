"""Singlestep DPM-Solver and DPM-Solver++ on a given grid: intermediate evaluations are at times of the grid.

A block of k evaluations at times s, u_1, .. u_(k-1) is one step of order k from s to t, the next time. Blocks of the
highest order cover the grid, with shorter blocks at its end (Lu et al. 2022, arXiv 2206.00927). So N steps of the grid
cost N evaluations for any N, as in DPMSolverSinglestepScheduler of diffusers. `dpm_2`, `dpm_3`, `dpmpp_2s` and
`dpmpp_3s` instead place evaluations between the times of the grid.

Two parameters are common. `midpoint` uses the papers' simple weights, which omit the second difference; otherwise the
weights are those of the polynomial through all predictions ("heun" in published code). `lower_order_final` ends with
blocks of 2 and 1 evaluations. A clean end requires this anyway: it is infinitely far in lambda, so its step is a
separate block, and so is a step from pure noise.

`eta` in [0, 1] adds noise, that of the diffusion SDE at 1. As published, the noise of intermediate evaluations is not
part of the step's noise. This leaves order 1 in the sample's variance, and a larger error than `ddpm`. In `dpmpp_sde`
it is part of the step's noise.
"""

from collections.abc import Sequence
from math import expm1

from fewstep.plans.publication import Published, published_orders
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import DataPrediction, Form, NoisePrediction, phi
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

DPMPP = "Lu et al. 2022, arXiv 2211.01095"


@published_orders({k: Published("Lu et al. 2022, arXiv 2206.00927", order=k, rows=k) for k in (2, 3)})
def dpm_singlestep(
    trace: Tracer, times: Sequence[Time], *, order: int, midpoint: bool = True, lower_order_final: bool = False
) -> Lin:
    """DPM-Solver-2 or -3: each block of `order` evaluations is one step of that order of accuracy."""
    return _singlestep(trace, times, order, NoisePrediction(), midpoint, lower_order_final)


@published_orders(
    {
        2: Published(DPMPP, order=2, rows=2, lacks=("diffusers_sign",)),
        3: Published(DPMPP, order=3, rows=3),
    }
)
def dpmpp_singlestep(
    trace: Tracer,
    times: Sequence[Time],
    *,
    order: int,
    eta: float = 0.0,
    midpoint: bool = True,
    lower_order_final: bool = False,
    diffusers_sign: bool = False,
) -> Lin:
    """DPM-Solver++(2S) or (3S): each block of `order` evaluations is one step of that order of accuracy. With noise,
    the order is 1.

    `diffusers_sign` repeats the sign error of diffusers at third order with noise and without `midpoint` (see
    `dpmpp_3m_sde`).
    """
    return _singlestep(trace, times, order, DataPrediction(eta), midpoint, lower_order_final, off=float(diffusers_sign))


def _singlestep(
    trace: Tracer,
    times: Sequence[Time],
    order: int,
    form: Form,
    midpoint: bool,
    lower_order_final: bool,
    off: float = 0.0,
) -> Lin:
    """Take a step for each block of times. `off` is added to the weight of the second difference."""
    x = trace.start()
    for block in _blocks(times, order, lower_order_final):
        s, *later = block
        x, x0 = trace.denoise(x, s)
        m = form.prediction(trace, x, x0, s)
        # x at each later time of the block, with the terms of the predictions so far
        weights = [_weights(form, s, block[1 : k + 1], t, midpoint, off) for k, t in enumerate(later)]
        towards = [form.first_order(trace, x, x0, m, s, t) - sum(w) * m for w, t in zip(weights, later)]
        for k, u in enumerate(later[:-1]):
            towards = [trace.store(value) for value in towards]
            x, x0 = trace.denoise(towards[0], u)
            m = form.prediction(trace, x, x0, u)
            weights = weights[1:]
            towards = [value + w[k] * m for w, value in zip(weights, towards[1:])]
        x = towards[0]
    return x


def _blocks(times: Sequence[Time], order: int, lower_order_final: bool) -> list[Sequence[Time]]:
    """Return the times of each block of steps. The last time of a block is the one at which it ends."""
    steps = len(times) - 1
    alone = int(times[0].alpha == 0 and steps > 0)  # the step from pure noise
    full, rest = divmod(steps - alone, order)
    sizes = [1] * alone + [order] * full + [rest] * (rest > 0)
    last = sizes[-1]
    if last > 1 and (times[-1].sigma == 0 or (lower_order_final and last == order)):
        sizes[-1:] = [last - 1, 1]
    ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return [times[start : end + 1] for start, end in zip(ends, ends[1:])]


def _weights(form: Form, s: Time, between: Sequence[Time], t: Time, midpoint: bool, off: float) -> list[float]:
    """Return the weights in x_t of the differences m_u - m_s for the predictions at times u between s and t."""
    if not between:
        return []
    scale, z = form.curve(s, t)
    h = t.lam - s.lam
    r = [(u.lam - s.lam) / h for u in between]
    if len(r) == 1:
        return [scale * (expm1(z) / 2 if midpoint else z * phi(2, z)) / r[0]]
    r1, r2 = r
    if midpoint:
        return [0.0, scale * z * phi(2, z) / r2]
    # D1 and D2 of the parabola through m_s, m_u1 and m_u2
    D1 = (r2 / r1 / (r2 - r1), -r1 / r2 / (r2 - r1))
    D2 = (-2 / r1 / (r2 - r1), 2 / r2 / (r2 - r1))
    return [scale * (z * phi(2, z) * d1 + (z * phi(3, z) + off) * d2) for d1, d2 in zip(D1, D2)]
