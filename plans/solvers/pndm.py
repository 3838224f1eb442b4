"""PNDM (Liu, Ren, Lin, Zhao 2022, arXiv 2202.09778): Adams-Bashforth for equal steps on the predicted noise, then a
DDIM step with the combination. The variants differ in their first steps. iPNDM is from Zhang & Chen 2023 (arXiv
2204.13902).

The weights are those of equal steps in sigma / alpha, which no grid has, so the order is 2. `lms_4` costs the same and
uses the weights of the actual steps. A step from pure noise (sigma / alpha infinite) has first order. As published, the
step to the clean end combines as many values as the other steps.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, noise_prediction, transfer
from fewstep.plans.solvers.momentum import combine_velocities, ghvb
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

PAPER = "Liu et al. 2022, arXiv 2202.09778"


@Published("Zhang & Chen 2023, arXiv 2204.13902", order=2, rows=4)
def ipndm(trace: Tracer, times: Sequence[Time]) -> Lin:
    """iPNDM: no special first steps. The first three steps combine one, two and three values."""
    return ghvb(trace, times, beta=1.0, order=4)


@Published(PAPER, order=2, rows=3)
def s_pndm(trace: Tracer, times: Sequence[Time]) -> Lin:
    """S-PNDM: a pseudo improved Euler step, then two values. It takes one evaluation per step plus one."""
    return _improved_euler_start(trace, times, 2, noise_prediction, transfer)


@Published(PAPER, order=2, rows=4)
def pndm(trace: Tracer, times: Sequence[Time], *, on_v: bool = False) -> Lin:
    """PLMS (as in latent diffusion, and in diffusers with `skip_prk_steps`): a pseudo improved Euler step, then
    multistep with two, three and four past values. It takes one evaluation per step plus one.

    `on_v` combines values of v, as diffusers does for networks that predict v. It is for variance-preserving schedules.
    """
    value, move = (_v_prediction, _transfer_v) if on_v else (noise_prediction, transfer)
    return _improved_euler_start(trace, times, 4, value, move)


@Published(PAPER, order=2, rows=6)
def f_pndm(trace: Tracer, times: Sequence[Time], *, on_v: bool = False) -> Lin:
    """F-PNDM: three pseudo Runge-Kutta steps of four evaluations, then four values. It takes one evaluation per step
    plus nine. `on_v` is that of `pndm`.

    The Runge-Kutta steps evaluate at the midpoint of the network's time. A step to the clean end, where the network
    cannot be evaluated, combines the available values instead.
    """
    value, move = (_v_prediction, _transfer_v) if on_v else (noise_prediction, transfer)
    x = trace.start()
    history: list[Lin] = []  # newest first
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        if s.alpha == 0:
            x = first_order(x, x0, s, t)
            continue
        e = trace.store(value(x, x0, s))
        history = [e, *history[:3]]
        if len(history) == 4 or t.sigma == 0:
            x = move(x, combine_velocities(history), s, t)
            continue
        middle = trace.schedule.time((s.network + t.network) / 2)
        start, total = trace.store(x), e / 6
        for u, weight in ((middle, 1 / 3), (middle, 1 / 3), (t, 1 / 6)):
            x, x0 = trace.denoise(move(start, e, s, u), u)
            e = value(x, x0, u)
            total = trace.store(total + weight * e)
        x = move(start, total, s, t)
    return x


def _improved_euler_start(
    trace: Tracer,
    times: Sequence[Time],
    order: int,
    value: Callable[[Lin, Lin, Time], Lin],
    move: Callable[[Lin, Lin, Time, Time], Lin],
) -> Lin:
    """Multistep, but repeat the first step that is not from pure noise, with the mean of the values at its ends."""
    x = trace.start()
    history: list[Lin] = []  # newest first
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        if s.alpha == 0:
            x = first_order(x, x0, s, t)
            continue
        e = trace.store(value(x, x0, s))
        history = [e, *history[: order - 1]]
        if len(history) == 1 and t.sigma > 0:
            half = trace.store(move(x, e / 2, s, t))
            end, x0 = trace.denoise(move(x, e, s, t), t)
            x = half + move(Lin({}), value(end, x0, t) / 2, s, t)
        else:
            x = move(x, combine_velocities(history), s, t)
    return x


def _v_prediction(x: Lin, x0: Lin, s: Time) -> Lin:
    """Return v = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv 2202.00512), for alpha^2 + sigma^2 = 1."""
    return (s.alpha * x - x0) / s.sigma


def _transfer_v(x: Lin, v: Lin, s: Time, t: Time) -> Lin:
    return transfer(x, s.alpha * v + s.sigma * x, s, t)
