"""Samples of a fitted plan as a set: a fit compares one sample after the other, and sees no distance between sets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.distances import distance
from fewstep.evaluation.distances.features import Extractor
from fewstep.fitting.endpoint import ERRORS
from fewstep.runtime.execute import Array

RESAMPLES = 100  # draws of the seeds


@dataclass(frozen=True)
class SetDistances:
    """FD in the features of an extractor, between samples of a plan and the teacher's from the same seeds.

    nominal, fitted: of the plan without fitted numbers, and of the fitted one. error: the standard error of their
    difference, by draws of the seeds that are the same for both.
    """

    features: str
    nominal: float
    fitted: float
    error: float

    @property
    def is_worse(self) -> bool:
        """Whether the fitted plan is further from the teacher by more than chance."""
        return self.fitted - self.nominal > ERRORS * self.error


def set_distances(extractor: Extractor, nominal: Array, fitted: Array, taught: Array) -> SetDistances:
    """Of samples [seeds, *x_shape], row by row from the same seeds; at least 2 of them."""
    sets = [extractor.extract(each) for each in (nominal, fitted, taught)]
    rng = np.random.default_rng(0)
    count = len(taught)
    draws = [np.arange(count), *rng.integers(count, size=(RESAMPLES, count))]
    found = np.array([_distances(sets, rows) for rows in draws])
    differences = found[1:, 1] - found[1:, 0]
    return SetDistances(extractor.name, float(found[0, 0]), float(found[0, 1]), float(np.std(differences, ddof=1)))


def _distances(sets: list[NDArray[np.float32]], rows: NDArray[np.int64]) -> tuple[float, float]:
    nominal, fitted, taught = (distance.fit(each[rows]) for each in sets)
    return distance.frechet(nominal, taught), distance.frechet(fitted, taught)
