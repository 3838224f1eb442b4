"""Last steps of a fit that come near to the teacher's features and to its pixels at once.

A step lowers the mean logarithm of a seed's squared error, and a weight times the logarithm of the mean squared
distance of features. A weight of 1 makes a decibel of features worth one of PSNR. The columns of features are
differences of the extractor's outputs along the columns of the samples, so that they ask the denoiser for nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.distances.features import Extractor
from fewstep.fitting.ending.step_back import between
from fewstep.fitting.endpoint import ENOUGH, RESTRAINTS, SECANTS, Gain, Refinement, energies_of, restrained, weights_of
from fewstep.fitting.free import difference, moved
from fewstep.fitting.recurrence import Recurrence, plan_of
from fewstep.fitting.sensitivity import Sensitivity
from fewstep.plans.errors import UserError
from fewstep.rollouts.metrics import psnr

Array = NDArray[np.float64]
Samples = NDArray[np.floating]

WEIGHTS = (1.0, 3.0)  # of the features' logarithm, each by itself
COST = 0.5  # dB of the mean PSNR on the selection seeds
SHARES = (0.75, 0.5, 0.25)  # of a step that costs too much
NUDGE = 1e-2  # of a sample, in its root mean square: the length of a difference
NOTHING = 1e-20  # a squared distance of features that are the teacher's, and a length that is none


@dataclass(frozen=True)
class FeatureResidual:
    """The weight that a fit takes, and the effect on the selection seeds.

    weight: 0 where the numbers stay as they are. price: what the steps cost in dB of the mean PSNR. gain: by how many
    dB the mean squared distance of features falls.
    """

    weight: float
    price: float
    gain: float


@dataclass(frozen=True)
class FeatureColumns:
    """How features change with each number: columns [seeds, P, D], and what they lack of the teacher's, [seeds, D]."""

    columns: Array
    residual: Array


@dataclass(frozen=True)
class Place:
    """Numbers with the PSNRs of their samples on the selection seeds, [seeds]. features: the mean squared distance
    there, in dB below 1."""

    numbers: Recurrence
    pixels: Array
    features: float

    def worth(self, weight: float) -> float:
        return float(self.pixels.mean()) + weight * self.features


def feature_columns(extractor: Extractor, found: Sensitivity, x_shape: Sequence[int]) -> FeatureColumns:
    """Of the samples of `found`, by one difference along each of its columns."""

    def features(samples: Samples) -> Array:
        return extractor.extract(samples.reshape(-1, *x_shape).astype(np.float32)).astype(np.float64)

    at, size = features(found.samples), _lengths(found.samples)
    columns = np.zeros((*found.columns.shape[:2], at.shape[1]))
    for place in range(columns.shape[1]):
        column = found.columns[:, place].astype(np.float64)
        reach = NUDGE * size / np.maximum(_lengths(column), NOTHING)
        columns[:, place] = (features(found.samples + reach * column) - at) / np.maximum(reach, NOTHING)
    return FeatureColumns(columns, features(found.targets) - at)


def step_of(
    found: Sensitivity, seen: FeatureColumns, weight: float, energies: Array, so_far: Array, by: tuple[float, float]
) -> Array:
    """`fewstep.fitting.endpoint.step_of` with features beside pixels; `by` are damping and anchor."""
    shares = weights_of(found)
    scale = weight / max(float(np.square(seen.residual).sum()), NOTHING)
    scale *= len(found.error) / float((1 / np.maximum(found.error, NOTHING)).sum())
    gram = np.tensordot(shares, found.gram, 1) + scale * sum(each @ each.T for each in seen.columns)
    slope = shares @ found.slope
    slope += scale * sum(each @ left for each, left in zip(seen.columns, seen.residual, strict=True))
    return restrained(gram, slope, energies, so_far, *by)


def feature_residual(work: Refinement, extractor: Extractor, cost: float = COST) -> tuple[Recurrence, FeatureResidual]:
    """Numbers that are nearest in features, of those that the weights lead to from `work.origin`.

    The mean PSNR is at most `cost` dB lower on the selection seeds, and their gain over the nominal plan counts.
    """
    begin = _at(work, extractor, work.origin)
    if begin is None:
        raise UserError("samples of the numbers so far are not finite", "fit with --features none")
    found = work.measure(work.origin, work.seeds.fit)

    def allowed(place: Place) -> bool:
        is_cheap = float((begin.pixels - place.pixels).mean()) <= cost
        return is_cheap and Gain.of(place.pixels, work.nominal.selection).counts

    best, taken = begin, 0.0
    for weight in WEIGHTS:
        last = begin
        for place in _steps(work, extractor, found, begin, weight):
            ways = [] if allowed(place) else [between(last.numbers, place.numbers, each, each) for each in SHARES]
            reached = [place, *(_at(work, extractor, way) for way in ways)]
            best, taken = max(
                ((best, taken), *((each, weight) for each in reached if each is not None and allowed(each))),
                key=lambda known: known[0].features,
            )
            if not allowed(place):
                break
            last = place
    price = float((begin.pixels - best.pixels).mean())
    return best.numbers, FeatureResidual(taken, price, best.features - begin.features)


def _steps(work: Refinement, extractor: Extractor, found: Sensitivity, begin: Place, weight: float) -> Iterator[Place]:
    """Places that are worth more and more. The columns are measured once, and learn from each step."""
    now, energies, shape = begin, energies_of(found), work.seeds.fit[0].x_shape
    for _ in range(1 + SECANTS):
        seen = feature_columns(extractor, found, shape)
        so_far = difference(now.numbers, work.origin, work.free) / work.sizes
        steps = [step_of(found, seen, weight, energies, so_far, by) for by in RESTRAINTS]
        tried = [_at(work, extractor, moved(now.numbers, work.free, step * work.sizes)) for step in steps]
        best = max((each for each in tried if each is not None), key=lambda each: each.worth(weight), default=now)
        gained = best.worth(weight) - now.worth(weight)
        if gained <= 0:
            return
        step, now = difference(best.numbers, now.numbers, work.free) / work.sizes, best
        yield now
        if gained < ENOUGH:
            return
        found = found.after(step, np.concatenate(list(work.rolled.samples(plan_of(now.numbers), work.seeds.fit))))


def _at(work: Refinement, extractor: Extractor, numbers: Recurrence) -> Place | None:
    """None where samples are not finite."""
    blocks = work.seeds.selection
    try:
        with np.errstate(all="ignore"):
            made = np.concatenate(list(work.rolled.samples(plan_of(numbers), blocks)))
    except UserError:
        return None
    exact = np.concatenate([block.taught for block in blocks])
    return Place(numbers, psnr(made, exact), features_psnr(extractor, made, exact))


def features_psnr(extractor: Extractor, made: Samples, exact: Samples) -> float:
    """The mean squared distance of features, in dB below 1."""
    apart = extractor.extract(made).astype(np.float64) - extractor.extract(exact)
    return -10 * float(np.log10(max(float(np.square(apart).sum(axis=1).mean()), NOTHING)))


def _lengths(rows: Samples) -> Array:
    """Root mean squares [seeds, 1]."""
    return np.asarray(np.sqrt(np.square(rows.astype(np.float64)).mean(axis=1, keepdims=True)))
