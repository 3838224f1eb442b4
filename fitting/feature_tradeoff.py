"""The last stage of a fit: it trades a little PSNR for features nearer to the teacher's, and for the teacher's energy.

When least squares on pixels continues beyond the point where the features of samples are nearest to the teacher's,
images become too similar to each other. Further steps of a fit therefore lower a sum of two terms: the mean logarithm
of a seed's squared error, and a weight times the logarithm of the mean squared distance of features. With weight 1, a
decibel of features counts as much as a decibel of PSNR. The Jacobian of the features is found by differences of the
extractor's outputs along the columns of the samples' Jacobian, so it needs no calls of the denoiser.

Least squares predicts a conditional mean, so its samples have too little energy, which is the mean of their squared
values. One factor, applied to the last row, gives them the teacher's energy. With the teacher's mean sample subtracted
before squaring, the trade cost 0.01 to 0.03 dB more on fashion_mnist, and lowered FD by only 1 %.

The two trades together may lower the mean PSNR by at most COST, and the trade for energy by at most ENERGY_PART of it.
A step or a factor that would cost more is shortened.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.free_numbers import subtract_numbers
from fewstep.fitting.jacobian import Jacobian
from fewstep.fitting.levenberg_marquardt import ENOUGH, SECANTS, Gain, Refinement, column_energies, normal_equations
from fewstep.fitting.recurrence import Recurrence, build_plan
from fewstep.measure.distances.features import Extractor
from fewstep.measure.rollouts.metrics import psnr
from fewstep.runtime.sampling.finite_checks import NotFinite

Array = NDArray[np.float64]
Samples = NDArray[np.floating]

COST = 0.8  # dB of the mean PSNR on the selection seeds
ENERGY_PART = 1 / 8  # the part of COST for energy; the rest is for features
WEIGHTS = (1.0, 3.0)  # weights of the features' logarithm; both are tried from the least-squares result
SHARES = (1.0, 0.75, 0.5, 0.25)  # shares of a step or of a factor, in the order of the trials
NUDGE = 1e-2  # length of a difference of samples, relative to the sample's root mean square
NOTHING = 1e-20  # lower bound of squared distances, squared errors and root mean squares, so that none is 0


@dataclass(frozen=True)
class Trade:
    """What a trade cost on the selection seeds, and what it gained.

    price: the decrease of the mean PSNR, in dB.
    weight: the weight of the features; 0 if no step was taken.
    features: the decrease of the mean squared distance of features, in dB.
    factor: the factor that was applied to the last row: as close to `energy` as the allowed price permits.
    energy: the factor that would give samples the teacher's energy.
    """

    price: float
    weight: float
    features: float
    factor: float
    energy: float


@dataclass(frozen=True)
class TradeOffer:
    """A candidate for the fitted coefficients, with the quality of its samples on the selection seeds.

    psnr: [seeds], in dB.
    features: the mean squared distance of features, in dB below 1; 0 without an extractor.
    """

    numbers: Recurrence
    psnr: Array
    features: float

    def objective(self, weight: float) -> float:
        """Return the objective of a step: the mean PSNR plus `weight` times the features, in dB."""
        return float(self.psnr.mean()) + weight * self.features

    def price_since(self, before: "TradeOffer") -> float:
        """Return the loss of mean PSNR compared with the offer `before`, in dB."""
        return float((before.psnr - self.psnr).mean())


@dataclass(frozen=True)
class FeatureTradeoff:
    """Trades PSNR for features and energy, starting from `work.origin`, the result of least squares.

    The mean PSNR may fall by at most `cost` dB. Without an extractor, PSNR is traded only for energy.
    """

    work: Refinement
    extractor: Extractor | None
    cost: float = COST

    def trade(self) -> tuple[Recurrence, Trade]:
        """Return the allowed coefficients and times whose samples have features nearest to the teacher's, with the
        samples scaled towards the teacher's energy, and a description of what was traded for what."""
        begin = self.make_offer(self.work.origin)
        if begin is None:
            raise NotFinite("samples of the fitted plan are not finite", "fit with --features none")
        nearest, weight = (begin, 0.0) if self.extractor is None else self._improve_features(begin, self.extractor)
        energy = self._energy_factor(nearest.numbers)
        for share in SHARES:
            factor = 1 + share * (energy - 1)
            strong = self.make_offer(scale_numbers(nearest.numbers, factor))
            if strong is not None and self.is_allowed(strong, nearest, ENERGY_PART * self.cost):
                break
        else:
            factor, strong = 1.0, nearest
        price = strong.price_since(begin)
        return strong.numbers, Trade(price, weight, strong.features - begin.features, factor, energy)

    def make_offer(self, numbers: Recurrence) -> TradeOffer | None:
        """Return these coefficients and times with the quality of the resulting samples, or None if samples are not
        finite."""
        blocks = self.work.seeds.selection
        try:
            with np.errstate(all="ignore"):
                samples = np.concatenate(list(self.work.rolled.sample_blocks(build_plan(numbers), blocks)))
        except NotFinite:
            return None
        targets = np.concatenate([block.required_target for block in blocks])
        features = 0.0 if self.extractor is None else feature_psnr(self.extractor, samples, targets)
        return TradeOffer(numbers, psnr(samples, targets), features)

    def is_allowed(self, offer: TradeOffer, before: TradeOffer, cost: float) -> bool:
        """True if an offer loses at most `cost` compared with `before`, and still gains over the nominal plan."""
        return (
            offer.price_since(before) <= cost and Gain.from_psnr(offer.psnr, self.work.nominal.selection).is_significant
        )

    def _improve_features(self, begin: TradeOffer, extractor: Extractor) -> tuple[TradeOffer, float]:
        """Return the allowed plan whose features are nearest to the teacher's, and the weight of the features in the
        loss that led to it. For each weight, steps are made until one is not allowed; then fractions of that step are
        tried."""
        jacobian = self.work.measure(self.work.origin, self.work.seeds.fit)
        best, cost = (begin, 0.0), (1 - ENERGY_PART) * self.cost
        for weight in WEIGHTS:
            last = begin
            for whole in self._feature_steps(begin, weight, jacobian, extractor):
                is_whole = self.is_allowed(whole, begin, cost)
                if is_whole:
                    offers = [whole]
                else:
                    parts = [
                        self.make_offer(interpolate_numbers(last.numbers, whole.numbers, share)) for share in SHARES[1:]
                    ]
                    offers = [part for part in parts if part is not None and self.is_allowed(part, begin, cost)]
                best = max((best, *((offer, weight) for offer in offers)), key=lambda pair: pair[0].features)
                if not is_whole:
                    break
                last = whole
        return best

    def _feature_steps(
        self, begin: TradeOffer, weight: float, jacobian: Jacobian, extractor: Extractor
    ) -> Iterator[TradeOffer]:
        """Yield offers of increasing objective. The columns are measured once, and corrected after each step."""
        work, now, energies = self.work, begin, column_energies(jacobian)
        for _ in range(1 + SECANTS):
            joint = joint_equations(jacobian, extractor, weight, work.seeds.fit[0].x_shape)
            offers = [self.make_offer(numbers) for numbers in work.propose_steps(now.numbers, *joint, energies)]
            best = max(
                (offer for offer in offers if offer is not None), key=lambda each: each.objective(weight), default=now
            )
            gained = best.objective(weight) - now.objective(weight)
            if gained <= 0:
                return
            step, now = subtract_numbers(best.numbers, now.numbers, work.free) / work.number_sizes, best
            yield now
            if gained < ENOUGH:
                return
            jacobian = jacobian.broyden_update(
                step, np.concatenate(list(work.rolled.sample_blocks(build_plan(now.numbers), work.seeds.fit)))
            )

    def _energy_factor(self, numbers: Recurrence) -> float:
        """Return the factor that gives samples of all seeds the mean square of their targets; 1 if all are zero."""
        blocks = (*self.work.seeds.fit, *self.work.seeds.selection)
        samples = self.work.rolled.sample_blocks(build_plan(numbers), blocks)
        sample_energy = sum(_sum_of_squares(sample) for sample in samples)
        target_energy = sum(_sum_of_squares(block.required_target) for block in blocks)
        return float(np.sqrt(target_energy / sample_energy)) if sample_energy > 0 and target_energy > 0 else 1.0


def joint_equations(
    jacobian: Jacobian, extractor: Extractor, weight: float, x_shape: Sequence[int]
) -> tuple[Array, Array]:
    """Return the matrix [P, P] and the slope [P] of a step for pixels and features together.

    They are the Gauss-Newton equations of mean_s log |e_s|^2 + weight log sum_s |f_s|^2, with e_s and f_s the residuals
    of a seed's pixels and features. Both terms are divided by the mean of 1 / |e_s|^2, as in `normal_equations`.
    """
    H, slope = normal_equations(jacobian)
    columns, residual = feature_columns(extractor, jacobian, x_shape)
    scale = weight / max(float(np.square(residual).sum()), NOTHING)
    scale *= len(jacobian.error) / float((1 / np.maximum(jacobian.error, NOTHING)).sum())
    H = H + scale * np.einsum("spd,sqd->pq", columns, columns)
    return H, slope + scale * np.einsum("spd,sd->p", columns, residual)


def feature_columns(extractor: Extractor, jacobian: Jacobian, x_shape: Sequence[int]) -> tuple[Array, Array]:
    """Return the derivatives of features with respect to each coefficient and time [seeds, P, D], from one finite
    difference along each column of the Jacobian, and the residual: the teacher's features minus those of the samples
    [seeds, D]."""

    def features(samples: Samples) -> Array:
        return extractor.extract(samples.reshape(-1, *x_shape).astype(np.float32)).astype(np.float64)

    here, size = features(jacobian.samples), _root_mean_squares(jacobian.samples)
    columns = np.zeros((*jacobian.columns.shape[:2], here.shape[1]))
    for place in range(columns.shape[1]):
        column = jacobian.columns[:, place].astype(np.float64)
        reach = NUDGE * size / np.maximum(_root_mean_squares(column), NOTHING)
        columns[:, place] = (features(jacobian.samples + reach * column) - here) / np.maximum(reach, NOTHING)
    return columns, features(jacobian.targets) - here


def feature_psnr(extractor: Extractor, samples: Samples, targets: Samples) -> float:
    """Return the mean squared distance of features, in dB below 1."""
    distance = float(np.mean(feature_distances(extractor, samples, targets)))
    return -10 * float(np.log10(max(distance, NOTHING)))


def feature_distances(extractor: Extractor, samples: Samples, targets: Samples) -> Array:
    """Return the squared distances [seeds] between the features of samples and of their targets."""
    difference = extractor.extract(samples).astype(np.float64) - extractor.extract(targets)
    return np.asarray(np.square(difference).sum(axis=1))


def interpolate_numbers(origin: Recurrence, numbers: Recurrence, share: float) -> Recurrence:
    """Interpolate linearly between the coefficients and times of two recurrences: `share` 0 is `origin`, and 1 is
    `numbers`."""
    return replace(
        numbers,
        times=origin.times + share * (numbers.times - origin.times),
        rows=origin.rows + share * (numbers.rows - origin.rows),
        lean=origin.lean + share * (numbers.lean - origin.lean),
    )


def scale_numbers(numbers: Recurrence, factor: float) -> Recurrence:
    """Return numbers whose samples are `factor` times those of `numbers`. Only the last row, which gives the sample,
    differs."""
    rows = numbers.rows.copy()
    rows[-1] *= factor
    return replace(numbers, rows=rows)


def _sum_of_squares(samples: Samples) -> float:
    return float(np.square(samples.astype(np.float64)).sum())


def _root_mean_squares(rows: Samples) -> Array:
    """Return the root mean square of each row, [seeds, 1]."""
    return np.asarray(np.sqrt(np.square(rows.astype(np.float64)).mean(axis=1, keepdims=True)))
