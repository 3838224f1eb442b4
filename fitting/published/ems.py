"""Empirical model statistics measured on rollouts (Zheng, Lu, Chen, Zhu 2023, arXiv 2310.13268).

`fewstep.plans.solvers.ems` says how DPM-Solver-v3 uses them.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.ems import Ems

Array = NDArray[np.float64]
NEGLIGIBLE = 1e-8  # a spread of f, relative to its size, that only rounding explains


def estimate_ems(
    predict_noise: Callable[[Array, Time], Array],
    times: Sequence[Time],
    states: Sequence[Array],
    probes: int = 1,
    seed: int = 0,
    nudge: float = 1e-2,
) -> Ems:
    """Statistics of a denoiser from rollouts of its probability-flow ODE; nothing but calls of it.

    l is sigma times the mean diagonal of the Jacobian of the predicted noise, found by Hutchinson's estimator with
    central differences; s and b are the regression of df / d lambda, taken along the rollouts, on f, element by element
    over the rollouts.

    Args:
        predict_noise: (x [B, ...], time) -> eps, after guidance.
        times: of the rollouts, from noisy to clean, 100 or so uniform in lambda, none pure noise or clean.
        states: x [B, ...] at each time, of the same B trajectories; B of some hundred.
        probes: random directions for each state.
        nudge: length of the differences, in sigma.
    """
    rng = np.random.default_rng(seed)
    lams = np.array([time.lam for time in times])
    if len(states) != len(times) or not np.isfinite(lams).all():
        raise UserError(
            f"statistics from {len(states)} states at {len(times)} times, lambda {lams[0]:g} to {lams[-1]:g}",
            "give the state at each time, and times with sigma > 0 and alpha > 0",
        )
    diagonals, residuals = [], []
    for x, time in zip(states, times, strict=True):
        slopes = []
        for _ in range(probes):
            v = rng.choice((-1.0, 1.0), size=x.shape)
            ahead, behind = (predict_noise(x + way * nudge * time.sigma * v, time) for way in (1, -1))
            slopes.append((v * (ahead - behind) / (2 * nudge * time.sigma)).mean(axis=0))
        diagonal = time.sigma * np.mean(slopes, axis=0)
        diagonals.append(diagonal)
        residuals.append((time.sigma * predict_noise(x, time) - diagonal * x) / time.alpha)
    f = np.array(residuals)  # [n, B, ...]
    moving = np.gradient(f, lams, axis=0, edge_order=2)
    centred = f - f.mean(axis=1, keepdims=True)
    spread = (centred**2).mean(axis=1)
    is_spread = spread > (NEGLIGIBLE * np.abs(f).max()) ** 2
    s = np.where(is_spread, (centred * moving).mean(axis=1) / np.where(is_spread, spread, 1.0), 0.0)
    return Ems(lams, np.array(diagonals), s, moving.mean(axis=1) - s * f.mean(axis=1))
