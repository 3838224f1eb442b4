"""Estimate empirical model statistics on rollouts (Zheng, Lu, Chen, Zhu 2023, arXiv 2310.13268), for
`fewstep.literature.dpm_v3`."""

from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from fewstep.literature.dpm_v3 import Ems, dpm_v3
from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.ddim import ddim
from fewstep.runtime.sampling.execute import build_evaluation

Array = NDArray[np.float64]
NEGLIGIBLE = 1e-5  # least spread of f relative to x / alpha: f is a difference, which float32 rounds


def estimate_ems(
    predict_noise: Callable[[Array, Time], Array],
    times: Sequence[Time],
    states: Sequence[Array],
    probes: int = 1,
    seed: int = 0,
    nudge: float = 1e-2,
) -> Ems:
    """Estimate the statistics of a denoiser from rollouts of its probability-flow ODE, by calls of the denoiser only.

    l is sigma times the mean diagonal of the Jacobian of the predicted noise, by Hutchinson's estimator with central
    differences. s and b are the coefficients of a linear regression of df / d lambda, taken along the rollouts, on f.
    The regression is separate for each element, over all rollouts.

    Args:
        predict_noise: (x [B, ...], time) -> eps, after guidance.
        times: times of the rollouts from noisy to clean, about 100 spaced uniformly in lambda, none pure noise or
            clean.
        states: x [B, ...] at each time, for the same B trajectories; B of some hundred.
        probes: number of random directions for each state.
        nudge: length of the differences, in units of sigma.
    """
    rng = np.random.default_rng(seed)
    lams = np.array([time.lam for time in times])
    if len(states) != len(times) or not np.isfinite(lams).all():
        raise UserError(
            f"{len(states)} states at {len(times)} times, lambda {lams[0]:g} to {lams[-1]:g}, give no statistics",
            "give the state at each time, and times with sigma > 0 and alpha > 0",
        )
    diagonals, residuals = [], []
    for x, time in zip(states, times, strict=True):
        slopes = []
        for _ in range(probes):
            v = rng.choice((-1.0, 1.0), size=x.shape)
            forward, backward = (predict_noise(x + way * nudge * time.sigma * v, time) for way in (1, -1))
            slopes.append((v * (forward - backward) / (2 * nudge * time.sigma)).mean(axis=0))
        diagonal = time.sigma * np.mean(slopes, axis=0)
        diagonals.append(diagonal)
        residuals.append((time.sigma * predict_noise(x, time) - diagonal * x) / time.alpha)
    f = np.array(residuals)  # [n, B, ...]
    moving = np.gradient(f, lams, axis=0, edge_order=2)
    centred = f - f.mean(axis=1, keepdims=True)
    spread = (centred**2).mean(axis=1)
    rounded = [float(np.sqrt(np.square(x).mean())) / time.alpha for x, time in zip(states, times, strict=True)]
    is_spread = spread > np.square(NEGLIGIBLE * np.array(rounded)).reshape(-1, *[1] * (spread.ndim - 1))
    s = np.where(is_spread, (centred * moving).mean(axis=1) / np.where(is_spread, spread, 1.0), 0.0)
    return Ems(lams, np.array(diagonals), s, moving.mean(axis=1) - s * f.mean(axis=1))


GRID = 100  # number of times of the statistics
ORDERS = (2, 3)


def fit_plan(setting: FitSetting) -> Plan:
    """Return DPM-Solver-v3 over the nominal plan's times, with statistics along the teacher's trajectory, and of the
    order that is better.

    The blocks should contain some hundred seeds. The authors use 512 to 4 096 trajectories.
    """
    times = [time for time in setting.times(GRID)[:-1] if isfinite(time.lam)]
    probe = setting.compile(ddim, [*times, setting.times(GRID)[-1]], f"ddim:{len(times)}")
    networks = [block.step_network(setting.rolled.sampler, probe) for block in setting.blocks]
    places = {time.network: place for place, time in enumerate(times)}

    def predict_noise(x: Array, time: Time) -> Array:
        """Predict the noise of all blocks with the plan's step at this time."""
        place, parts, start = places[time.network], [], 0
        for block, network in zip(setting.blocks, networks, strict=True):
            rows = x[start : start + len(block.seeds)].astype(np.float32)
            scaled = rows * np.float32(sum(probe.steps[place].input))
            evaluation = build_evaluation(probe, place, [rows], scaled, network(place, probe.steps[place], scaled))
            parts.append((rows - np.float32(time.alpha) * evaluation.x0) / np.float32(time.sigma))
            start += len(block.seeds)
        return np.concatenate(parts).astype(np.float64)

    shape = (-1, *setting.blocks[0].x_shape)
    ems = estimate_ems(
        predict_noise, times, [states.reshape(shape) for states in setting.teacher_states(probe.steps)[:-1]]
    )
    chosen, name = setting.times(setting.evaluations), f"dpm_v3:{setting.evaluations}"
    solvers = [(dpm_v3(ems, order), f"{name} of order {order}") for order in ORDERS]
    return setting.best(partial(setting.compile, solver, chosen, named) for solver, named in solvers)
