"""Noise schedules: alpha(t) and sigma(t) of x_t = alpha x0 + sigma eps, and the times a sampler visits.

Symbols as in DPM-Solver (Lu et al. 2022, arXiv 2206.00927): lambda = log(alpha / sigma) grows as noise leaves. `t` is
the network's time: a DDPM timestep in [0, T - 1] for the discrete schedules, 1000 sigma or the like for flows.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import ScheduleSpec


@dataclass(frozen=True)
class Time:
    """A point of the schedule. `network` is what the network is told; the coefficients come from alpha and sigma."""

    network: float
    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """log(alpha / sigma): -inf for pure noise, +inf for a clean sample."""
        if self.sigma == 0:
            return math.inf
        return -math.inf if self.alpha == 0 else math.log(self.alpha) - math.log(self.sigma)


TIMESTEPS_LIMIT = 1_000_000  # of a table; trainings use 1000
STEPS_LIMIT = 10_000  # a flow's time is continuous, so nothing else bounds them
BETA_LEAST = 1e-12  # below it nothing is noise, and lambda leaves the range of exp
CLEAN = Time(network=0.0, alpha=1.0, sigma=0.0)  # where every grid ends; no network is evaluated here


def spec_problem(spec: ScheduleSpec) -> tuple[str, str] | None:
    """(field, what is wrong with it) of a spec that describes no schedule, or None."""
    if not 1 <= spec.timesteps <= TIMESTEPS_LIMIT:
        return "timesteps", f"{spec.timesteps} is not in 1 .. {TIMESTEPS_LIMIT}"
    if not BETA_LEAST <= spec.beta_start < 1:
        return "beta_start", f"{spec.beta_start:g} is not in {BETA_LEAST:g} .. 1"
    if not spec.beta_start <= spec.beta_end < 1:
        return "beta_end", f"{spec.beta_end:g} is not in beta_start .. 1"
    return None


@dataclass(frozen=True)
class NoiseSchedule:
    """A schedule continuous in t. Discrete tables are interpolated linearly in lambda between their timesteps."""

    spec: ScheduleSpec

    def __post_init__(self) -> None:
        if problem := spec_problem(self.spec):
            raise UserError(f"schedule {self.spec.kind}: {problem[0]} {problem[1]}", "use the training's own schedule")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name the schedule; plans carry it, so that none runs on another schedule."""
        return hashlib.sha256(msgspec.json.encode(self.spec)).hexdigest()[:16]

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        """lambda at t = 0 .. T - 1 of a discrete schedule, decreasing."""
        T = self.spec.timesteps
        if self.spec.kind == "linear":
            betas = np.linspace(self.spec.beta_start, self.spec.beta_end, T)
        else:  # Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17, betas capped at 0.999
            f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
        log_alpha_bar = np.cumsum(np.log1p(-betas))
        # lambda = (log alpha_bar - log(1 - alpha_bar)) / 2, without cancellation where alpha_bar is near 1
        table: NDArray[np.float64] = 0.5 * (log_alpha_bar - np.log(-np.expm1(log_alpha_bar)))
        return table

    def time(self, t: float) -> Time:
        """The point at network time t, in [0, T - 1] (discrete schedules) or [0, T] (flow)."""
        T = self.spec.timesteps
        last = T if self.spec.kind == "flow" else T - 1
        if not 0 <= t <= last:
            raise UserError(
                f"time {t:g} is outside 0 .. {last} of schedule {self.spec.kind}-{T}", "choose times inside it"
            )
        if self.spec.kind == "flow":
            return Time(network=t, alpha=1 - t / T, sigma=t / T)
        lam = float(np.interp(t, np.arange(T), self._table))
        # alpha^2 = sigmoid(2 lambda), sigma^2 = sigmoid(-2 lambda), each from its own side: no cancellation
        return Time(network=t, alpha=1 / math.sqrt(1 + math.exp(-2 * lam)), sigma=1 / math.sqrt(1 + math.exp(2 * lam)))

    def at_lam(self, lam: float) -> Time:
        """The point where log(alpha / sigma) is `lam`; its network time is usually fractional."""
        t = float(self.network_time(np.array([lam]))[0])
        alpha, sigma = 1 / (1 + math.exp(-lam)), 1 / (1 + math.exp(lam))
        if self.spec.kind == "flow":
            return Time(network=t, alpha=alpha, sigma=sigma)
        scale = math.hypot(alpha, sigma)
        return Time(network=t, alpha=alpha / scale, sigma=sigma / scale)

    def network_time(self, lam: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `lam(t)`, for arrays."""
        T = self.spec.timesteps
        if self.spec.kind == "flow":
            return T / (1 + np.exp(lam))
        return np.interp(-lam, -self._table, np.arange(T, dtype=np.float64))

    def alpha(self, t: float) -> float:
        return self.time(t).alpha

    def sigma(self, t: float) -> float:
        return self.time(t).sigma

    def lam(self, t: float) -> float:
        return self.time(t).lam


def time_grid(schedule: NoiseSchedule, steps: int) -> tuple[Time, ...]:
    """`steps` + 1 times, uniform in t from pure noise to `CLEAN`: the "trailing" grid of Lin et al. 2024 (2305.08891).

    It starts at the noisiest trained timestep, as a sampler that starts from pure noise must. Discrete schedules get
    whole timesteps, those the network was trained on.
    """
    T = schedule.spec.timesteps
    if steps < 1:
        raise UserError(f"{steps} steps make no sample", "ask for at least 1")
    if steps > STEPS_LIMIT:
        raise UserError(f"{steps} steps are more than a plan holds", f"ask for at most {STEPS_LIMIT}")
    if schedule.spec.kind == "flow":
        return (*(schedule.time(T * (1 - i / steps)) for i in range(steps)), CLEAN)
    if steps > T:
        raise UserError(
            f"{steps} steps on schedule {schedule.spec.kind}-{T}, which has {T} timesteps", f"ask for at most {T} steps"
        )
    return (*(schedule.time(float(round(T - i * T / steps) - 1)) for i in range(steps)), CLEAN)


def check_times(times: Sequence[Time]) -> None:
    """Times must lose noise at every step; equal or rising ones would make a silent identity or a division by zero."""
    for s, t in pairwise(times):
        if not t.lam > s.lam:
            raise UserError(
                f"times {s.network:g}, {t.network:g} do not lose noise (lambda {s.lam:.4g}, {t.lam:.4g})",
                "give each time once, from noisy to clean",
            )
