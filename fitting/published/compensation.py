"""The ratios of DC-Solver's dynamic compensation (Zhao, Wang, Zhou, Lu 2024, arXiv 2409.03755), by least squares."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.5, 1.5  # of rho, as the authors bound it


def fit_ratios(
    inputs: Callable[[tuple[float, ...]], Sequence[NDArray[np.floating]]], teacher: Sequence[NDArray[np.floating]]
) -> tuple[float, ...]:
    """The `ratios` of `dc_solver` that bring each of its steps nearest to a teacher's trajectory, one after the other.

    What a step predicts is a polynomial of degree 2 in its rho, so three runs tell all of it and the least squares are
    exact, without gradients. (The authors descend on the distance after the next correction.)

    Args:
        inputs: runs the solver with such ratios on a batch: what the network is shown at each time, then the sample.
        teacher: x at the same times from a solver of many steps, then its sample, from the same noise.
    """
    ratios = [1.0] * (len(teacher) - 1)
    probes = np.array([LOWEST, 1.0, HIGHEST])
    inverse = np.linalg.inv(np.vander(probes, increasing=True))
    for i in range(2, len(ratios)):
        runs = [inputs((*ratios[:i], float(probe), *ratios[i + 1 :]))[i + 1] for probe in probes]
        curve = inverse @ np.array([np.ravel(run).astype(np.float64) for run in runs])
        curve[0] -= np.ravel(teacher[i + 1])
        gram = curve @ curve.T
        loss = np.polynomial.Polynomial([sum(gram[j, k - j] for j in range(3) if 0 <= k - j < 3) for k in range(5)])
        stationary = [float(root.real) for root in loss.deriv().roots() if abs(root.imag) < 1e-9]
        ratios[i] = min((rho for rho in (*probes, *stationary) if LOWEST <= rho <= HIGHEST), key=lambda rho: loss(rho))
    return tuple(float(rho) for rho in ratios)
