"""Kinetic-optimal paths: the alpha and sigma whose probability flow has the least kinetic energy (Shaul, Chen, Nickel,
Le & Lipman 2023, arXiv 2306.06626).

For data with second moment 1 per dimension, the energy depends on the data through one function of s = alpha / sigma,
called the separation: 1 - (1 + s^2) times the mean squared error of the best denoiser. It is 0 for Gaussian data, and 1
where the data points are far apart. With alpha = r sin(phi), sigma = r cos(phi) and d theta = sqrt(separation) d phi,
the energy is that of a point in the plane,

    int E|u_t(x_t)|^2 dt = int r'^2 + r^2 theta'^2 dt,

so the best path is a straight line in polar coordinates (r, theta) at constant speed. Only the integral of theta has to
be computed. If the separation is 1, the line is alpha = 1 - t, sigma = t.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec

Array = NDArray[np.float64]
ANGLES = 20_000  # points of the integral


def kinetic_optimal(separation: Callable[[Array], Array], deviation: float = 1.0, nodes: int = 129) -> ScheduleSpec:
    """Return the schedule, as a table over `nodes` evenly spaced times.

    Args:
        separation: the separation as a function of s = alpha / sigma from 0 to infinity, with values from 0 to 1, for
            data that are divided by `deviation`. `estimate_separation` returns such a function.
        deviation: the root of the data's second moment, above 0.
    """
    phi = np.linspace(0, np.pi / 2, ANGLES + 1)
    middle = np.tan((phi[1:] + phi[:-1]) / 2)
    squared = np.asarray(separation(middle), np.float64)
    if not (deviation > 0 and np.all((squared >= 0) & (squared <= 1 + 1e-6)) and squared.any()):
        fix = "give a deviation above 0, and a function with values in 0 .. 1 that are not all 0"
        raise UserError("no data has this separation and this deviation", fix)
    theta = np.append(0.0, np.cumsum(np.sqrt(squared))) * (phi[1] - phi[0])
    way = np.linspace(0, 1, nodes)  # from the data to the noise
    line = way + (1 - way) * deviation * np.exp(1j * theta[-1])
    r, at = np.abs(line), np.interp(np.angle(line), theta, phi)
    alphas, sigmas = r * np.sin(at) / deviation, r * np.cos(at)
    alphas[-1] = sigmas[0] = 0.0
    alphas[0] = sigmas[-1] = 1.0
    return ScheduleSpec("table", alphas=tuple(alphas.tolist()), sigmas=tuple(sigmas.tolist()))


def estimate_separation(ratios: Array, errors: Array) -> Callable[[Array], Array]:
    """Return the separation of data as a function, from the errors of a denoiser.

    Args:
        ratios: alpha / sigma [N], increasing and above 0, for data that are divided by the root of their second moment.
        errors: the mean squared error per dimension [N] of the predicted x0 at these ratios.
    """
    angles, values = np.arctan(ratios), np.clip(1 - (1 + ratios**2) * errors, 0.0, 1.0)
    return lambda s: np.interp(np.arctan(s), angles, values)
