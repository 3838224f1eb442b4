"""Tables of alpha_bar = alpha^2 and sigma / alpha over the training timesteps, as diffusers computes them.

diffusers computes betas and their products in float32. This changes sigma at timestep 0 by a few parts in 10 000. It
also affects where diffusers truncates timesteps to integers.
"""

import numpy as np
from numpy.typing import NDArray

from fewstep.plans import paths
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]
NEARLY_ZERO = 2.0**-24  # the k-diffusion and DPM classes of diffusers replace a terminal alpha_bar of 0 by this


def rhos(spec: ScheduleSpec) -> Array:
    """Return sigma / alpha, t = 0 .. T - 1. The last is 2^12 with zero terminal SNR."""
    bars = alpha_bars(spec).astype(np.float32)
    if spec.zero_terminal_snr:
        bars = np.append(bars[:-1], np.float32(NEARLY_ZERO))
    with np.errstate(divide="ignore", over="ignore"):
        rounded: Array = _root((1 - bars) / bars).astype(np.float64)
    return rounded


def alpha_bars(spec: ScheduleSpec) -> Array:
    """Return alpha_bar_t, t = 0 .. T - 1. Raises UserError if 1 - beta rounds to 1 in float32 for all betas."""
    betas = _betas(spec)
    if np.all(1 - betas == 1):
        raise UserError(f"schedule {spec.kind}: its betas add no noise in float32", "use the training's own betas")
    if spec.zero_terminal_snr:
        root = _root(_products(1 - betas))
        first, last = root[0], root[-1]
        bar = ((root - last) * (first / (first - last))) ** 2
        betas = 1 - np.concatenate([bar[:1], bar[1:] / bar[:-1]])
    return np.asarray(_products(1 - betas).astype(np.float64))


def _root(values: Float32) -> Float32:
    """Return the correctly rounded square root. The last bit of torch's result depends on the processor."""
    root: Float32 = np.sqrt(values)
    return root


def _products(alphas: Float32) -> Float32:
    """Return the cumulative product, computed in float64 and rounded at each element, as torch's cumprod on a CPU."""
    products: Float32 = np.cumprod(alphas.astype(np.float64)).astype(np.float32)
    return products


def _betas(spec: ScheduleSpec) -> Float32:
    T, start, end = spec.timesteps, spec.beta_start, spec.beta_end
    if spec.kind == "linear":
        return _linspace(start, end, T)
    if spec.kind == "scaled-linear":
        return _linspace(start**0.5, end**0.5, T) ** 2
    if spec.kind == "sigmoid":
        steep = _linspace(-6, 6, T)
        return np.asarray((1 / (1 + np.exp(-steep))) * np.float32(end - start) + np.float32(start), np.float32)
    return paths.betas(spec).astype(np.float32)


def _linspace(start: float, end: float, count: int) -> Float32:
    """Return torch's float32 linspace on CPUs with a fused multiply-add (x86 since AVX2): from both ends towards the
    middle, with one rounding per element."""
    first, last = np.float32(start), np.float32(end)
    step = np.float64(np.float32((last - first) / np.float32(max(count - 1, 1))))
    i = np.arange(count)
    return np.where(i < count // 2, first + step * i, last - step * (count - 1 - i)).astype(np.float32)
