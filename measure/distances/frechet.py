"""The Frechet distance between two sets of samples, computed on their features [N, D].

It depends on the feature extractor, so a distance is given with the extractor's name, as FD(fashion-mnist-cnn).
Distances are only comparable for the same extractor and the same N.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.metrics import Floats

Float64 = NDArray[np.float64]

RESAMPLES = 200
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian fitted to a set of features: mean [D], covariance [D, D] (unbiased), of `count` samples."""

    mean: Float64
    covariance: Float64
    count: int


def fit_gaussian(features: Floats) -> Gaussian:
    """Fit a Gaussian to features [N, D], N at least 2, in float64."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a Gaussian is fitted to features [N, D] of two samples or more, not {features.shape}")
    values = features.astype(np.float64)
    centred = values - values.mean(axis=0)
    return Gaussian(values.mean(axis=0), centred.T @ centred / (len(values) - 1), len(values))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2): the squared 2-Wasserstein distance of
    Gaussians.

    Frechet 1957; as a measure of generated images Heusel et al. 2017 (arXiv 1706.08500). Square roots are computed for
    symmetric matrices, by eigendecomposition, so there are no imaginary parts, and covariances may be singular.
    Estimated from finite sets, the distance is biased upwards by about 1/N: see `bias_of_distance`.
    """
    root = _matrix_root(a.covariance)
    product = root @ b.covariance @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0)).sum()
    shift = np.square(a.mean - b.mean).sum()
    return float(max(shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross, 0))


def bias_of_distance(gaussian: Gaussian, count: int, other: int) -> float:
    """Return the expectation of `frechet_distance` between sets of `count` and `other` samples of the same Gaussian.

    To first order in 1/N, it is the sum of two terms. The means contribute tr S (1/n + 1/m). In the eigenbasis, the
    entries of the covariances have the variances v_ij = (1 + d_ij) l_i l_j (1/n + 1/m), and contribute
    sum_ij v_ij / (2 (l_i + l_j)).
    """
    eigenvalues = np.maximum(np.linalg.eigvalsh(gaussian.covariance), 0)
    sums = eigenvalues[:, None] + eigenvalues[None, :]
    variances = np.outer(eigenvalues, eigenvalues) * (1 + np.eye(len(eigenvalues)))
    spread = np.divide(variances, 2 * sums, out=np.zeros_like(sums), where=sums > 0).sum()
    return float((eigenvalues.sum() + spread) * (1 / count + 1 / other))


@dataclass(frozen=True)
class SetComparison:
    """The distances of two sets from the same seeds to a reference set, and the first distance minus the second.

    error, low, high: the standard error of the difference and its 95 % interval, from sets resampled with replacement
    (bootstrap: Efron 1979). The interval is centred on the measured difference, since duplicates in the resampled sets
    shift their distances.
    """

    frechet: float
    frechet_paired: float
    error: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.frechet - self.frechet_paired

    def is_detectable(self, noise_floor: float) -> bool:
        """Return whether the difference exceeds chance: it is outside the noise floor, and its interval excludes 0."""
        return abs(self.difference) > noise_floor and not self.low <= 0 <= self.high


def compare_sets(
    candidate: Floats,
    paired: Floats,
    reference: Floats,
    resamples: int = RESAMPLES,
    shares_seeds: bool = False,
) -> SetComparison:
    """Return the distances of two sets to a reference, on features, and their difference.

    Rows of `candidate` and `paired` [N, D] come from the same seeds and are resampled together. Rows of `reference`
    [M, D] are resampled independently, or together with the others if `shares_seeds`.
    """

    def distances(rows: Any, others: Any) -> tuple[float, float]:
        fitted = fit_gaussian(reference[others])
        return frechet_distance(fit_gaussian(candidate[rows]), fitted), frechet_distance(
            fit_gaussian(paired[rows]), fitted
        )

    of_candidate, of_paired = distances(slice(None), slice(None))
    rng, differences = np.random.default_rng(0), list[float]()
    for _ in range(resamples):
        rows = rng.integers(len(candidate), size=len(candidate))
        others = rows if shares_seeds else rng.integers(len(reference), size=len(reference))
        differences.append(float(np.subtract(*distances(rows, others))))
    deviations = np.array(differences) - np.mean(differences)
    low, high = np.quantile(deviations, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    error, difference = float(np.std(differences, ddof=1)), of_candidate - of_paired
    return SetComparison(of_candidate, of_paired, error, difference + float(low), difference + float(high))


def _matrix_root(matrix: Float64) -> Float64:
    """Return the symmetric square root of a symmetric matrix. Eigenvalues below zero, due to rounding, count as
    zero."""
    values, vectors = np.linalg.eigh(matrix)
    root: Float64 = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
