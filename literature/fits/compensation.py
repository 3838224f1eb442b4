"""Fit the ratios of DC-Solver's dynamic compensation (Zhao, Wang, Zhou, Lu 2024, arXiv 2409.03755) by least squares."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import flatten_samples
from fewstep.literature.dc_solver import dc_solver
from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.plans.plan import Plan
from fewstep.runtime.sampling.execute import finish

LOWEST, HIGHEST = 0.5, 1.5  # bounds of rho, from the authors


def fit_ratios(
    inputs: Callable[[tuple[float, ...]], Sequence[NDArray[np.floating]]], teacher: Sequence[NDArray[np.floating]]
) -> tuple[float, ...]:
    """Return the `ratios` of `dc_solver` that bring each of its steps closest to a teacher's trajectory, one step after
    the other.

    The result of a step is a polynomial of degree 2 in its rho, so three runs determine it, and the least squares are
    exact without gradients. (The authors minimise the distance after the next correction by gradient descent.)

    Args:
        inputs: runs the solver with given ratios on a batch. It returns the network's input at each time, then the
            sample.
        teacher: x at the same times from a solver of many steps with the same noise, then its sample.
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


def fit_plan(setting: FitSetting) -> Plan:
    """Return the plan of DC-Solver over the nominal plan's times, with ratios fitted to the teacher's trajectory."""
    times = setting.times(setting.evaluations)

    def plan(ratios: tuple[float, ...]) -> Plan:
        return setting.compile(partial(dc_solver, ratios=ratios), times, f"dc_solver:{len(times) - 1}, fitted ratios")

    def inputs(ratios: tuple[float, ...]) -> list[NDArray[np.floating]]:
        compensated = plan(ratios)
        runs = [[*map(setting.x, states), finish(compensated, states)] for states in setting.states(compensated)]
        return [np.concatenate([flatten_samples(run[i]) for run in runs]) for i in range(len(times))]

    return plan(fit_ratios(inputs, setting.teacher_states(plan(()).steps)))
