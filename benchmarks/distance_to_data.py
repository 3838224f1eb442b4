"""FD of samples to real data with its error, and the refusal of a distance that more steps make worse.

A denoiser that was trained too little can be nearer to the data in few steps than in many: the errors of the solver
then hide those of the network. On such a denoiser the distance ranks solvers in the wrong order, and judges nothing.
"""

from collections.abc import Mapping

import numpy as np

from fewstep.measure.distances.frechet import Gaussian, fit_gaussian, frechet_distance
from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.errors import UserError

PARTS = 8  # of the samples that a distance is measured on
FEW = 20  # steps that more steps have to equal
CERTAIN = 2.0  # standard errors


class RisingDistance(UserError):
    """The distance to the data rises with the steps of a solver, so it judges nothing."""


def jackknife_distances(features: Floats, real: Gaussian) -> Floats:
    """Pseudo-values [PARTS] of FD between features [N, D] and a Gaussian of real data (Quenouille 1956, Tukey 1958).

    Their mean is FD without the bias of order 1 / N, and their standard deviation over sqrt(PARTS) is its error. Row
    i belongs to the same part in every set of N samples, so the values of sets of equal seeds are compared in pairs.
    """
    parts = np.array_split(np.arange(len(features)), PARTS)
    whole = frechet_distance(fit_gaussian(features), real)
    without = np.array([frechet_distance(fit_gaussian(np.delete(features, part, 0)), real) for part in parts])
    return np.asarray(PARTS * whole - (PARTS - 1) * without)


def mean_and_error(values: Floats) -> tuple[float, float]:
    """The mean of pseudo-values and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def refuse_unless_falling(name: str, by_steps: Mapping[int, Floats]) -> None:
    """Raise RisingDistance if more steps than FEW are surely farther from the data than FEW steps.

    by_steps: pseudo-values of samples of equal seeds along one solver, by its steps, FEW among them.
    """
    if FEW not in by_steps:
        raise ValueError(f"FD of {FEW} steps is missing")
    for steps, values in by_steps.items():
        difference, error = mean_and_error(np.subtract(values, by_steps[FEW]))
        if steps > FEW and difference > CERTAIN * error:
            raise RisingDistance(
                f"FD of {name} rises from {np.mean(by_steps[FEW]):.1f} with {FEW} steps to {np.mean(values):.1f} with"
                f" {steps}, so it rewards the errors of solvers",
                "judge by PSNR to the teacher, or train the network longer",
            )
