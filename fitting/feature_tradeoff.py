"""The end of a fit gives up a little PSNR for two things that it does not see: features near the teacher's, and energy.

Least squares on pixels go on after the features of samples have come nearest. From there on pictures are alike and lack
variety. So further steps lower both: the mean logarithm of a seed's squared error, and a weight times the logarithm of
the mean squared distance of features. A weight of 1 makes a decibel of features worth one of PSNR. The columns of
features are differences of the extractor's outputs along the columns of the samples. They ask the denoiser for nothing.

Least squares also foretell the mean of what few steps cannot know, so that the nearest samples are a little weak. One
factor of the last row gives them the teacher's mean square about 0. A mean square about the teacher's mean sample cost
0.01 to 0.03 dB more on fashion_mnist, and lowered FD by a hundredth of itself.

Both together cost at most COST, and energy a part of it. A step or a factor that would cost more is taken in part.
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
ENERGY_PART = 1 / 8  # of COST; the rest is for features
WEIGHTS = (1.0, 3.0)  # of the features' logarithm; each begins at the nearest pixels, and the better one is taken
SHARES = (1.0, 0.75, 0.5, 0.25)  # of a step or of a factor, in the order in which they are tried
NUDGE = 1e-2  # length of a difference of samples, in the sample's root mean square
NOTHING = 1e-20  # the least of a squared distance, of a squared error and of a root mean square: none may be 0


@dataclass(frozen=True)
class Trade:
    """The price of a fit on the selection seeds, and its gain in features.

    price: dB of the mean PSNR. weight: of the features; 0 where no step was taken. features: by how many dB the mean
    squared distance of features fell. energy: the factor that would give samples the teacher's energy. factor: the
    factor of the last row, 1 or on the way to `energy` as far as the price allows.
    """

    price: float
    weight: float
    features: float
    factor: float
    energy: float


@dataclass(frozen=True)
class TradeOffer:
    """Numbers that may be taken, with what their samples reach on the selection seeds.

    psnr: [seeds], in dB. features: the mean squared distance of features, in dB below 1; 0 without an extractor.
    """

    numbers: Recurrence
    psnr: Array
    features: float

    def objective(self, weight: float) -> float:
        """The objective of a step: the mean PSNR and `weight` times the features, in dB."""
        return float(self.psnr.mean()) + weight * self.features

    def price_since(self, before: "TradeOffer") -> float:
        """The loss since the offer `before`, in dB of the mean PSNR."""
        return float((before.psnr - self.psnr).mean())


@dataclass(frozen=True)
class FeatureTradeoff:
    """The trade of the numbers `work.origin`, which are nearest in pixels, for at most `cost` dB of the mean PSNR.
    Without an extractor energy alone is traded."""

    work: Refinement
    extractor: Extractor | None
    cost: float = COST

    def trade(self) -> tuple[Recurrence, Trade]:
        """The allowed numbers nearest in features, scaled towards the teacher's energy, and what both steps cost."""
        begin = self.make_offer(self.work.origin)
        if begin is None:
            raise NotFinite("samples of the numbers so far are not finite", "fit with --features none")
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
        """The numbers with what they reach; None where samples are not finite."""
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
        """True where an offer lost at most `cost` since the offer `before`, and still gains over the nominal plan."""
        return (
            offer.price_since(before) <= cost and Gain.from_psnr(offer.psnr, self.work.nominal.selection).is_significant
        )

    def _improve_features(self, begin: TradeOffer, extractor: Extractor) -> tuple[TradeOffer, float]:
        """The allowed numbers that are nearest in features, and the weight that led there. The steps of a weight end at
        the first that is not allowed, of which a part is tried."""
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
        """Offers that are worth more and more. The columns are measured once, and learn from each step."""
        work, now, energies = self.work, begin, column_energies(jacobian)
        for _ in range(1 + SECANTS):
            joint = joint_equations(jacobian, extractor, weight, work.seeds.fit[0].x_shape)
            offers = [self.make_offer(numbers) for numbers in work.propose_steps(now.numbers, *joint, energies)]
            best = max(
                (each for each in offers if each is not None), key=lambda each: each.objective(weight), default=now
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
        """The factor that gives samples of all seeds the mean square of their targets; 1 where all are zero."""
        blocks = (*self.work.seeds.fit, *self.work.seeds.selection)
        samples = self.work.rolled.sample_blocks(build_plan(numbers), blocks)
        own = sum(_sum_of_squares(each) for each in samples)
        taught = sum(_sum_of_squares(block.required_target) for block in blocks)
        return float(np.sqrt(taught / own)) if own > 0 and taught > 0 else 1.0


def joint_equations(
    jacobian: Jacobian, extractor: Extractor, weight: float, x_shape: Sequence[int]
) -> tuple[Array, Array]:
    """The matrix [P, P] and the slope [P] of a step for pixels and for features at once.

    They are Gauss-Newton's for mean_s log |e_s|^2 + weight log sum_s |f_s|^2, with e_s and f_s what a seed's pixels and
    features lack. Both parts are divided by the mean of 1 / |e_s|^2, as `normal_equations` has divided the pixels'.
    """
    H, slope = normal_equations(jacobian)
    columns, residual = feature_columns(extractor, jacobian, x_shape)
    scale = weight / max(float(np.square(residual).sum()), NOTHING)
    scale *= len(jacobian.error) / float((1 / np.maximum(jacobian.error, NOTHING)).sum())
    H = H + scale * np.einsum("spd,sqd->pq", columns, columns)
    return H, slope + scale * np.einsum("spd,sd->p", columns, residual)


def feature_columns(extractor: Extractor, jacobian: Jacobian, x_shape: Sequence[int]) -> tuple[Array, Array]:
    """The change of features with each number [seeds, P, D], by one difference along each column of the samples, and
    the teacher's features minus theirs [seeds, D]."""

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
    """The mean squared distance of features, in dB below 1."""
    distance = float(np.mean(feature_distances(extractor, samples, targets)))
    return -10 * float(np.log10(max(distance, NOTHING)))


def feature_distances(extractor: Extractor, samples: Samples, targets: Samples) -> Array:
    """Squared distances [seeds] between the features of samples and of their targets."""
    apart = extractor.extract(samples).astype(np.float64) - extractor.extract(targets)
    return np.asarray(np.square(apart).sum(axis=1))


def interpolate_numbers(origin: Recurrence, numbers: Recurrence, share: float) -> Recurrence:
    """The numbers on the way from `origin` (0) to `numbers` (1)."""
    return replace(
        numbers,
        times=origin.times + share * (numbers.times - origin.times),
        rows=origin.rows + share * (numbers.rows - origin.rows),
        lean=origin.lean + share * (numbers.lean - origin.lean),
    )


def scale_numbers(numbers: Recurrence, factor: float) -> Recurrence:
    """The numbers that make each sample `factor` times as large."""
    rows = numbers.rows.copy()
    rows[-1] *= factor
    return replace(numbers, rows=rows)


def _sum_of_squares(samples: Samples) -> float:
    return float(np.square(samples.astype(np.float64)).sum())


def _root_mean_squares(rows: Samples) -> Array:
    """The root mean square of each row [seeds, 1]."""
    return np.asarray(np.sqrt(np.square(rows.astype(np.float64)).mean(axis=1, keepdims=True)))
