"""Noise schedules give alpha(t) and sigma(t) of x_t = alpha x0 + sigma eps, and the times of a plan.

Symbols as in DPM-Solver (Lu et al. 2022, arXiv 2206.00927): lambda = log(alpha / sigma) increases as noise is removed.
`t` is the network's time: a DDPM timestep in [0, T - 1] for tables, T sigma (such as 1000 sigma) for flows,
log(sigma) / 4 for EDM. Kinds that restore a degraded sample y are schedules of x - y.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.paths import PATHS, Path, eta_range, sigma_range
from fewstep.plans.spec import ScheduleSpec

_fields = cache(msgspec.structs.fields)


@dataclass(frozen=True)
class Time:
    """A point of the schedule. `network` is the network's time; the coefficients come from alpha and sigma."""

    network: float
    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """log(alpha / sigma): -inf for pure noise, +inf for a clean sample."""
        if self.alpha == 0:
            return -math.inf
        return math.inf if self.sigma == 0 else math.log(self.alpha) - math.log(self.sigma)

    @property
    def rho(self) -> float:
        """sigma / alpha, which is sigma in EDM and k-diffusion; infinite for pure noise."""
        return self.sigma / self.alpha if self.alpha else math.inf


TIMESTEPS_LIMIT = 1_000_000  # maximum number of timesteps of a table; training usually has 1000
BETA_LEAST = 1e-12  # smaller values add no noise, and lambda leaves the range of exp
LARGEST = 1e6  # upper limit of sigma and other scales
CLEAN = Time(network=0.0, alpha=1.0, sigma=0.0)  # the end of every grid; no network is evaluated here
ALWAYS = ("kind", "timesteps", "beta_start", "beta_end")  # fields that are part of every fingerprint


def spec_problem(spec: ScheduleSpec) -> tuple[str, str] | None:
    """Return (field, what is wrong with it) for a schedule with an invalid value, or None if nothing is wrong."""
    if not 1 <= spec.timesteps <= TIMESTEPS_LIMIT:
        return "timesteps", f"{spec.timesteps} is not in 1 .. {TIMESTEPS_LIMIT}"
    if not BETA_LEAST <= spec.beta_start < 1:
        return "beta_start", f"{spec.beta_start:g} is not in {BETA_LEAST:g} .. 1"
    if not spec.beta_start <= spec.beta_end < 1:
        return "beta_end", f"{spec.beta_end:g} is not in beta_start .. 1"
    if spec.kind == "betas" and len(spec.betas) != spec.timesteps:
        return "betas", f"has {len(spec.betas)} values for {spec.timesteps} timesteps"
    if not all(BETA_LEAST <= beta < 1 for beta in spec.betas):
        return "betas", f"has values outside {BETA_LEAST:g} .. 1"
    for field in ("sigma_data", "time_scale", "kappa", "noise_variance", "theta", "growth", "rate", "alpha_min"):
        if not 1e-6 <= getattr(spec, field) <= LARGEST:
            return field, f"{getattr(spec, field):g} is not in 1e-6 .. {LARGEST:g}"
    if spec.power is not None and not 0.01 <= spec.power <= 100:
        return "power", f"{spec.power:g} is not in 0.01 .. 100"
    if spec.kind in ("exploding", "edm", "ou"):
        low, high = sigma_range(spec)
        if not 1e-6 <= low < high <= LARGEST:
            return "sigma_min, sigma_max", f"{low:g}, {high:g} are not increasing in 1e-6 .. {LARGEST:g}"
    if spec.kind == "residual-shift":
        low, high = eta_range(spec)
        if not 0 < low < high <= 1:
            return "eta_min, eta_max", f"{low:g}, {high:g} are not increasing in 0 .. 1"
    if spec.kind in ("table", "interpolant") and (problem := _numbers_problem(spec)):
        return problem
    if spec.kind == "bridge" and not 1 < spec.growth <= 1000:
        return "growth", f"{spec.growth:g} is not in 1 .. 1000"
    sigma_max = 1.0 if spec.sigma_max is None else spec.sigma_max
    if spec.kind == "mean-reverting" and not (spec.alpha_min < 1 and 1e-6 <= sigma_max <= LARGEST):
        return "alpha_min, sigma_max", f"are not an alpha below 1 and a deviation in 1e-6 .. {LARGEST:g}"
    if spec.timesteps == 1 and (spec.kind in ("residual-shift", "rddm") or spec.zero_terminal_snr):
        return "timesteps", "is 1, and a path from data to noise needs at least 2"
    return None


def _numbers_problem(spec: ScheduleSpec) -> tuple[str, str] | None:
    """Return (field, what is wrong with it) for a schedule that is given as lists of alphas and sigmas, or None if
    nothing is wrong."""
    count = len(spec.alphas)
    for field, wanted in (("alphas", count), ("sigmas", count), ("shares", count * (spec.kind == "interpolant"))):
        values = getattr(spec, field)
        if len(values) != wanted or not 2 <= count <= TIMESTEPS_LIMIT:
            return field, f"has {len(values)} values for {count} alphas (2 to {TIMESTEPS_LIMIT} are allowed)"
        if not all(0 <= value <= LARGEST for value in values):
            return field, f"has values outside 0 .. {LARGEST:g}"
    lams = [Time(0.0, *pair).lam for pair in zip(spec.alphas, spec.sigmas, strict=True)]
    if not all(b < a for a, b in pairwise(lams)):
        return "alphas, sigmas", "do not lose signal at every step: alpha / sigma must decrease"
    return None


@lru_cache(maxsize=64)
def _make_path(spec: ScheduleSpec) -> Path:
    """Return the path of a spec, computed once: a plan, its grid and its checks each make a schedule of the spec."""
    return PATHS[spec.kind](spec)


@dataclass(frozen=True)
class NoiseSchedule:
    """A noise schedule, continuous in t. Tables are interpolated linearly in lambda between their timesteps."""

    spec: ScheduleSpec

    def __post_init__(self) -> None:
        if problem := spec_problem(self.spec):
            raise UserError(f"schedule {self.spec.kind}: {problem[0]} {problem[1]}", "use the schedule of the training")

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the schedule. Plans store the fingerprint, so that no plan is run with
        another schedule."""
        import hashlib  # loads OpenSSL, which importing the runtime does not need

        named: dict[str, object] = {name: getattr(self.spec, name) for name in ALWAYS}
        for field in _fields(type(self.spec)):
            value = getattr(self.spec, field.name)
            if field.name not in ALWAYS and value != field.default:
                named[field.name] = float(value) if type(value) is int else value
        return hashlib.sha256(msgspec.json.encode(named)).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The name in messages, e.g. "cosine-1000"."""
        return (
            f"{self.spec.kind}-{self.spec.timesteps}" if self.timesteps or self.spec.kind == "flow" else self.spec.kind
        )

    @cached_property
    def path(self) -> Path:
        """The `Path` of the schedule's kind and parameters."""
        numbers = {name: tuple(getattr(self.spec, name)) for name in ("betas", "alphas", "sigmas", "shares")}
        return _make_path(msgspec.structs.replace(self.spec, **numbers))

    @property
    def timesteps(self) -> int | None:
        """The number of whole timesteps in training; None where time is continuous."""
        return self.path.timesteps

    def time(self, t: float) -> Time:
        """Return the point at network time t: in [0, T - 1] (tables), [0, T] (flow), or in the path's range.

        Raises UserError for a time outside this range.
        """
        path = self.path
        if not path.first <= t <= path.last:
            raise UserError(
                f"time {t:g} is outside {path.first:g} .. {path.last:g} of schedule {self.name}",
                "choose times in this range",
            )
        return Time(t, *path.at(t))

    def clock(self, clock: float) -> Time:
        """Return the point of the schedule at the process's own time, from 1 (noisiest) towards 0. In a schedule that
        is a table, the time is rounded to a whole timestep."""
        t = self.path.clock(clock)
        return self.time(min(max(float(round(t)) if self.timesteps else t, self.path.first), self.path.last))

    def time_at_lam(self, lam: float) -> Time:
        """Return the point where log(alpha / sigma) is `lam`. Its network time is usually fractional."""
        return Time(float(self.network_time(np.array([lam]))[0]), *self.path.at_lam(lam))

    def time_at_rho(self, rho: float) -> Time:
        """Return the point where sigma / alpha is `rho`."""
        return CLEAN if rho == 0 else self.time_at_lam(-math.log(rho))

    def network_time(self, lam: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the network times of an array of lambdas: the inverse of `lam(t)`, clamped to the range of a table."""
        return self.path.time_of(lam)

    def share(self, time: Time) -> float:
        """Return the fraction of y in x at a time, for schedules of x - y."""
        return 1 - time.alpha if self.path.share is None else self.path.share(time.network)

    @cached_property
    def noisiest(self) -> Time:
        """The time at which sampling starts."""
        return self.time(self.path.last)

    @cached_property
    def cleanest(self) -> Time:
        """The time with the least noise: timestep 0 of a table, sigma_min, or the clean end of a flow."""
        return self.time(self.path.first)

    def alpha(self, t: float) -> float:
        return self.time(t).alpha

    def sigma(self, t: float) -> float:
        return self.time(t).sigma

    def lam(self, t: float) -> float:
        return self.time(t).lam


def check_times(times: Sequence[Time]) -> None:
    """Raise UserError unless noise decreases at every step. Other steps would be identities or divide by zero."""
    for s, t in pairwise(times):
        if not t.lam > s.lam:
            raise UserError(
                f"noise does not decrease from time {s.network:g} to {t.network:g} (lambda {s.lam:.4g}, {t.lam:.4g})",
                "give each time once, from noisy to clean",
            )
