"""Ancestral steps (k-diffusion): a deterministic step to less noise than t has, then fresh noise up to t."""

from math import expm1, log, sqrt

from fewstep.plans.schedule import CLEAN, NoiseSchedule, Time
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


def ancestral_time(schedule: NoiseSchedule, s: Time, t: Time, eta: float) -> Time:
    """Return the end of the deterministic part of a step from s to t: rho_down^2 = rho_t^2 - rho_up^2, with
    rho_up^2 = eta^2 rho_t^2 (1 - rho_t^2 / rho_s^2). `eta` is in [0, 1]."""
    if eta == 0 or t.sigma == 0:
        return t
    h = t.lam - s.lam
    kept = sqrt(1 + eta**2 * expm1(-2 * h))  # rho_down / rho_t
    return CLEAN if kept == 0 else schedule.time_at_lam(t.lam - log(kept))


def add_noise(trace: Tracer, x: Lin, reached: Time, t: Time, noise: Lin | None = None) -> Lin:
    """Return x at t from x at `reached` plus noise of variance rho_t^2 - rho_reached^2 (in units of x / alpha). `noise`
    is standard normal; None draws fresh noise."""
    if reached is t:
        return x
    noise = trace.noise() if noise is None else noise
    fresh = t.sigma * sqrt(max(0.0, -expm1(2 * (t.lam - reached.lam))))  # rounding could give a negative difference
    return t.alpha / reached.alpha * x + fresh * noise
