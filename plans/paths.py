"""Paths give alpha(t) and sigma(t) of each kind of schedule, and the inverse t(lambda).

A `Path` is one kind of schedule with its parameters filled in. `t` is the network's time. lambda =
log(alpha / sigma) decreases as t increases.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.spec import ScheduleSpec

Array = NDArray[np.float64]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Path:
    """(alpha, sigma) as functions of time and of lambda.

    first, last: the range of t. timesteps: the number of timesteps in training, from 0; None for continuous time.
    at, at_lam: (alpha, sigma) at t, and at a lambda. time_of: t for an array of lambdas.
    clock: t as a function of the process's own time, which runs from 1 (noisiest) towards 0 and in which its authors
        place steps uniformly.
    share: the coefficient of y in x at t, for restoration schedules where that is not 1 - alpha.
    """

    first: float
    last: float
    timesteps: int | None
    at: Callable[[float], Pair]
    at_lam: Callable[[float], Pair]
    time_of: Callable[[Array], Array]
    clock: Callable[[float], float]
    share: Callable[[float], float] | None = None


def preserving_pair(lam: float) -> Pair:
    """Return (alpha, sigma) with alpha^2 + sigma^2 = 1, each by its own logistic function, so that no digits are
    lost."""
    if abs(lam) > 300:
        return (0.0, 1.0) if lam < 0 else (1.0, math.exp(-lam))
    return 1 / math.sqrt(1 + math.exp(-2 * lam)), 1 / math.sqrt(1 + math.exp(2 * lam))


def straight_pair(lam: float) -> Pair:
    """Return (alpha, sigma) with alpha + sigma = 1."""
    return (0.0, 1.0) if lam < -700 else (1 / (1 + math.exp(-lam)), math.exp(-lam) / (1 + math.exp(-lam)))


def exploding_pair(lam: float) -> Pair:
    """Return (alpha, sigma) with alpha = 1."""
    return 1.0, math.exp(-lam)


# -- tables of timesteps, variance preserving


def betas(spec: ScheduleSpec) -> Array:
    """Return beta_t, t = 0 .. T - 1.

    linear: Ho et al. 2020 (arXiv 2006.11239). scaled-linear: linear in sqrt(beta), Rombach et al. 2022 (2112.10752).
    cosine: Nichol & Dhariwal 2021 (2102.09672), equation 17, capped at 0.999. sigmoid: GeoDiff, Xu et al. 2022
    (2203.02923), on -6 .. 6.
    """
    T, start, end = spec.timesteps, spec.beta_start, spec.beta_end
    if spec.kind == "linear":
        return np.linspace(start, end, T)
    if spec.kind == "scaled-linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), T) ** 2
    if spec.kind == "sigmoid":
        return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, T)))
    if spec.kind == "betas":
        return np.array(spec.betas, np.float64)
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    capped: Array = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return capped


def lambdas(log_alpha_bar: Array) -> Array:
    """Return lambda = (log alpha_bar - log(1 - alpha_bar)) / 2, without cancellation where alpha_bar is near 1."""
    table: Array = 0.5 * (log_alpha_bar - np.log(-np.expm1(log_alpha_bar)))
    return table


def table(spec: ScheduleSpec) -> Array:
    """Return lambda_t, t = 0 .. T - 1, decreasing. With zero terminal SNR (Lin et al. 2024, arXiv 2305.08891, Algorithm
    1) sqrt(alpha_bar) is shifted to end at 0 and scaled to keep its first value, so the last lambda is -inf."""
    log_alpha_bar = np.cumsum(np.log1p(-betas(spec)))
    if spec.zero_terminal_snr:
        root = np.exp(log_alpha_bar / 2)
        with np.errstate(divide="ignore"):
            log_alpha_bar = 2 * np.log((root - root[-1]) * (root[0] / (root[0] - root[-1])))
    return lambdas(log_alpha_bar)


def table_path(spec: ScheduleSpec) -> Path:
    """Return the path of a table. Between timesteps it is interpolated linearly in lambda, or linearly in alpha towards
    pure noise, where lambda is -inf."""
    return path_through(table(spec))


def path_through(lams: Array) -> Path:
    """Return the variance-preserving path through lambda_t, t = 0 .. T - 1."""
    T = len(lams)
    steps = np.arange(T, dtype=np.float64)
    finite = T if np.isfinite(lams[-1]) else T - 1
    alpha_end = preserving_pair(float(lams[finite - 1]))[0]  # of the last timestep with a finite lambda

    def at(t: float) -> Pair:
        if t > finite - 1:
            alpha = alpha_end * (finite - t)
            return alpha, math.sqrt(1 - alpha * alpha)
        return preserving_pair(float(np.interp(t, steps, lams)))

    def time_of(lam: Array) -> Array:
        inside = np.interp(-lam, -lams[:finite], steps[:finite])
        if finite == T:
            return inside
        with np.errstate(over="ignore"):
            alpha = 1 / np.sqrt(1 + np.exp(-2 * lam))
        return np.where(lam < lams[finite - 1], finite - alpha / alpha_end, inside)

    return Path(0.0, T - 1.0, T, at, preserving_pair, time_of, lambda clock: T * clock - 1)


# -- continuous time


def flow(spec: ScheduleSpec) -> Path:
    """Return the path alpha = 1 - t / T, sigma = t / T of rectified flow (Liu et al. 2023, arXiv 2209.03003)."""
    T = float(spec.timesteps)
    return Path(
        first=0.0,
        last=T,
        timesteps=None,
        at=lambda t: (1 - t / T, t / T),
        at_lam=straight_pair,
        time_of=lambda lam: T / (1 + np.exp(lam)),
        clock=lambda clock: T * clock,
    )


def variance_exploding(spec: ScheduleSpec) -> Path:
    """Return the path of NCSN++ (Song et al. 2021, arXiv 2011.13456): alpha = 1, and a geometric sigma, which is also
    the network's time."""
    low, high = sigma_range(spec)
    scale = spec.time_scale
    return Path(
        first=scale * low,
        last=scale * high,
        timesteps=None,
        at=lambda t: (1.0, t / scale),
        at_lam=exploding_pair,
        time_of=lambda lam: scale * np.exp(-lam),
        clock=lambda clock: scale * low * (high / low) ** clock,
    )


def edm(spec: ScheduleSpec) -> Path:
    """Return the path of EDM (Karras et al. 2022, arXiv 2206.00364): alpha = 1, and the network's time is c_noise =
    log(sigma) / 4 (table 1). The process's own time is that of equation 5 with rho = 7."""
    low, high = sigma_range(spec)
    scale = spec.time_scale / 4
    ends = low ** (1 / 7), high ** (1 / 7)
    return Path(
        first=scale * math.log(low),
        last=scale * math.log(high),
        timesteps=None,
        at=lambda t: (1.0, math.exp(t / scale)),
        at_lam=exploding_pair,
        time_of=lambda lam: -scale * lam,
        clock=lambda clock: scale * 7 * math.log(ends[0] + clock * (ends[1] - ends[0])),
    )


def trigonometric(spec: ScheduleSpec) -> Path:
    """Return the path alpha = cos(pi t / 2), sigma = sin(pi t / 2), t in [0, 1] (Albergo & Vanden-Eijnden 2023, arXiv
    2209.15571). With time_scale pi / 2 it is TrigFlow (Lu & Song 2025, 2410.11081)."""
    scale = spec.time_scale

    def at(t: float) -> Pair:
        angle = math.pi / 2 * (t / scale)
        return (0.0, 1.0) if t == scale else (math.cos(angle), math.sin(angle))

    return Path(
        first=0.0,
        last=scale,
        timesteps=None,
        at=at,
        at_lam=preserving_pair,
        time_of=lambda lam: scale * 2 / math.pi * np.arctan(np.exp(-lam)),
        clock=lambda clock: scale * clock,
    )


def interpolate_path(spec: ScheduleSpec) -> Path:
    """Return a schedule that interpolates given alphas and sigmas linearly between evenly spaced times, t in [0, 1].

    With `shares`, x is alpha x0 + share y + sigma eps: the two-sided interpolant of Albergo, Boffi & Vanden-Eijnden
    2023 (arXiv 2303.08797, definition 2.1), whose alpha, beta and gamma are our shares, alphas and sigmas. Then sigma^2
    is interpolated instead of sigma, which may grow like a square root at both ends.
    """
    ways, scale, power = np.linspace(0, 1, len(spec.alphas)), spec.time_scale, 2 if spec.shares else 1
    powers = np.array(spec.sigmas) ** power

    def at(t: float) -> Pair:
        return float(np.interp(t / scale, ways, spec.alphas)), float(np.interp(t / scale, ways, powers)) ** (1 / power)

    def share(t: float) -> float:
        return float(np.interp(t / scale, ways, spec.shares))

    path = _analytic_path(at, 0.0, scale, None, lambda clock: scale * clock)
    return replace(path, share=share) if spec.shares else path


def ou(spec: ScheduleSpec) -> Path:
    """Return the path of OUVE, in which the mean decays from x0 to y at rate theta while noise grows: Richter et al.
    2023 (arXiv 2208.05830).

    It solves dx = theta (y - x) dt + sigma_min (sigma_max / sigma_min)^t sqrt(2 log(sigma_max / sigma_min)) dw, and
    describes x - y; t in [0, 1]. Networks are trained on t >= 0.03.
    """
    low, high = sigma_range(spec)
    theta, growth = spec.theta, math.log(high / low)

    def at(t: float) -> Pair:
        t = t / spec.time_scale
        grown = low * math.exp(growth * t)
        variance = -(grown**2) * growth / (theta + growth) * math.expm1(-2 * (theta + growth) * t)
        return math.exp(-theta * t), math.sqrt(variance)

    return _analytic_path(at, 0.0, spec.time_scale, None, lambda clock: spec.time_scale * clock)


def residual_shift(spec: ScheduleSpec) -> Path:
    """Return the path of ResShift for x - y, alpha = 1 - eta_t and sigma = kappa sqrt(eta_t): Yue et al. 2023 (arXiv
    2307.12348). sqrt(eta) grows geometrically in (t / (T - 1))^power, from eta_min to eta_max (section 2.2)."""
    T, kappa, power = spec.timesteps, spec.kappa, spec.power or 0.3
    low, high = eta_range(spec)

    def at_eta(eta: float) -> Pair:
        return 1 - eta, kappa * math.sqrt(eta)

    def eta_of(lam: Array) -> Array:
        slope = kappa * np.exp(lam)  # 1 - eta = slope sqrt(eta)
        return np.asarray((2 / (slope + np.sqrt(slope**2 + 4))) ** 2)

    def time_of(lam: Array) -> Array:
        way = np.log(eta_of(lam) / low) / math.log(high / low)
        return np.asarray((T - 1) * np.clip(way, 0, 1) ** (1 / power))

    return Path(
        first=0.0,
        last=T - 1.0,
        timesteps=T,
        at=lambda t: at_eta(low * (high / low) ** ((t / (T - 1)) ** power)),
        at_lam=lambda lam: at_eta(float(eta_of(np.array(lam)))),
        time_of=time_of,
        clock=lambda clock: T * clock - 1,
    )


def rddm(spec: ScheduleSpec) -> Path:
    """Return the path of RDDM for x - y, alpha = 1 - abar_t and sigma = bbar_t: Liu et al. 2024 (arXiv 2308.13712).

    The increments of the noise variance bbar^2 grow as (t + 1)^power, to a total of `noise_variance`. The increments of
    the residual's share abar decrease in the same way, to a total of 1."""
    T = spec.timesteps
    weights = np.linspace(1 / T, 1, T) ** (spec.power or 1.0)
    alphas = 1 - np.minimum(np.cumsum(weights[::-1]) / weights.sum(), 1.0)
    sigmas = np.sqrt(np.cumsum(weights) / weights.sum() * spec.noise_variance)
    steps = np.arange(T)

    def at(t: float) -> Pair:
        return float(np.interp(t, steps, alphas)), float(np.interp(t, steps, sigmas))

    return _analytic_path(at, 0.0, T - 1.0, T, lambda clock: T * clock - 1)


def bridge(spec: ScheduleSpec) -> Path:
    """Return the path of the Schroedinger bridge between x0 and y in its variance-exploding form: Jukic et al. 2024
    (arXiv 2407.16074).

    It describes x - y; t in [0, 1]. At t = 1 alpha and sigma are both 0, so x is y.
    With s2(t) = rate (growth^2t - 1) / (2 log growth) and r = s2(t) / s2(1): alpha = 1 - r, sigma^2 = s2(1) r (1 - r).
    """
    k, scale = spec.growth, spec.time_scale
    whole = spec.rate * (k**2 - 1) / (2 * math.log(k))

    def at_share(r: float) -> Pair:
        return 1 - r, math.sqrt(whole * r * (1 - r))

    def share(lam: Array) -> Array:
        return np.asarray(1 / (1 + whole * np.exp(2 * lam)))

    return Path(
        first=0.0,
        last=scale,
        timesteps=None,
        at=lambda t: at_share(math.expm1(2 * math.log(k) * (t / scale)) / (k**2 - 1) if t < scale else 1.0),
        at_lam=lambda lam: at_share(float(share(np.array(lam)))),
        time_of=lambda lam: scale * np.log1p((k**2 - 1) * share(lam)) / (2 * math.log(k)),
        clock=lambda clock: scale * clock,
    )


def mean_reverting(spec: ScheduleSpec) -> Path:
    """Return the path of IR-SDE, in which the mean decays from x0 to y at rate theta_t until alpha is alpha_min: Luo et
    al. 2023 (arXiv 2301.11699). It describes x - y, with alpha^2 + (sigma / sigma_max)^2 = 1 and the theta of the
    paper's cosine schedule; t in [0, T]."""
    T, high = spec.timesteps, 50 / 255 if spec.sigma_max is None else spec.sigma_max
    f = np.cos((np.arange(T + 3) / (T + 2) + 0.008) / 1.008 * math.pi / 2) ** 2
    total = np.cumsum(1 - f[2:-1] / f[0])
    decay = np.log(spec.alpha_min) * np.append(0.0, total / total[-1])  # log alpha_t, t = 0 .. T
    steps = np.arange(T + 1, dtype=np.float64)

    def at(t: float) -> Pair:
        log_alpha = float(np.interp(t, steps, decay))
        return math.exp(log_alpha), high * math.sqrt(-math.expm1(2 * log_alpha))

    def at_lam(lam: float) -> Pair:
        alpha, sigma = preserving_pair(lam + math.log(high))
        return alpha, high * sigma

    def time_of(lam: Array) -> Array:
        log_alpha = -0.5 * np.log1p(np.exp(-2 * (lam + math.log(high))))
        return np.interp(-log_alpha, -decay, steps)

    return Path(0.0, float(T), None, at, at_lam, time_of, lambda clock: T * clock)


def _analytic_path(
    at: Callable[[float], Pair], first: float, last: float, timesteps: int | None, clock: Callable[[float], float]
) -> Path:
    """Return a path that is given by the function `at` only. The inverse, t(lambda), is computed by bisection."""

    def time_of_one(lam: float) -> float:
        low, high = first, last
        for _ in range(80):
            middle = (low + high) / 2
            alpha, sigma = at(middle)
            cleaner = alpha > 0 and (sigma == 0 or math.log(alpha / sigma) > lam)
            low, high = (middle, high) if cleaner else (low, middle)
        return high if high == last else low

    def time_of(lams: Array) -> Array:
        return np.array([time_of_one(lam) for lam in lams.ravel()]).reshape(lams.shape)

    return Path(first, last, timesteps, at, lambda lam: at(time_of_one(lam)), time_of, clock)


SIGMAS = {"exploding": (0.01, 50.0), "edm": (0.002, 80.0), "ou": (0.05, 0.5)}  # published values


def sigma_range(spec: ScheduleSpec) -> Pair:
    """Return (sigma_min, sigma_max) of a spec. The published values of its kind replace None."""
    low, high = SIGMAS.get(spec.kind, (0.0, 0.0))
    return low if spec.sigma_min is None else spec.sigma_min, high if spec.sigma_max is None else spec.sigma_max


def eta_range(spec: ScheduleSpec) -> Pair:
    """Return (eta_min, eta_max) of ResShift. By default sqrt(eta) is from min(0.04 / kappa, 0.04) to 0.99."""
    low = min(0.04 / spec.kappa, 0.04) ** 2 if spec.eta_min is None else spec.eta_min
    return low, 0.99**2 if spec.eta_max is None else spec.eta_max


PATHS: dict[str, Callable[[ScheduleSpec], Path]] = {
    "linear": table_path,
    "scaled-linear": table_path,
    "cosine": table_path,
    "sigmoid": table_path,
    "betas": table_path,
    "flow": flow,
    "trigonometric": trigonometric,
    "exploding": variance_exploding,
    "edm": edm,
    "table": interpolate_path,
    "interpolant": interpolate_path,
    "ou": ou,
    "residual-shift": residual_shift,
    "rddm": rddm,
    "bridge": bridge,
    "mean-reverting": mean_reverting,
}
RESTORING = ("residual-shift", "rddm", "ou", "bridge", "mean-reverting", "interpolant")  # schedules of x - y
EVEN = ("flow", "trigonometric", "table", "interpolant")  # their t is proportional to the process's own time
STEP = 1e-4  # step of finite differences, as a share of the range of t


def rates(spec: ScheduleSpec, t: float) -> Pair:
    """Return the derivatives of (alpha, sigma) at t with respect to t / last, by finite differences."""
    path = PATHS[spec.kind](spec)
    low, high = max(t - STEP * path.last, 0.0), min(t + STEP * path.last, path.last)
    before, after = path.at(low), path.at(high)
    over = (high - low) / path.last
    return (after[0] - before[0]) / over, (after[1] - before[1]) / over
