"""A former fitted plan beside a new one, whose last stages have a price in PSNR that the former may not have paid.

Without these prices a plan from before such a stage would seldom be replaced. With them always, each new fit could lose
them again. So a new plan may be behind by a price only where the former lacks the gain for it.
"""

import numpy as np

from fewstep.evaluation.distances.features import Extractor
from fewstep.fitting.ending.energy import PRICE
from fewstep.fitting.ending.sets import set_distances
from fewstep.fitting.endpoint import Gain
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.execute import Array


def price_of_energy(former: Array, taught: Array) -> float:
    """What the teacher's energy would cost samples [seeds, *x_shape] of a former plan, in dB: at most PRICE.

    About 0 where they have it already; 0 where they would gain.
    """
    energy = float(np.square(former.astype(np.float64)).sum())
    if energy == 0:
        return 0.0
    factor = np.float32(np.sqrt(np.square(taught.astype(np.float64)).sum() / energy))
    price = float((psnr(former, taught) - psnr(factor * former, taught)).mean())
    return min(max(price, 0.0), PRICE)


def price_of_features(price: float, extractor: Extractor | None, former: Array, made: Array, taught: Array) -> float:
    """The price of the stages for features, in dB, where features of samples `made` are nearer than a former plan's.

    Their mean squared distance has to be smaller by more than chance, and FD no larger: of 64 seeds, FD alone is too
    uncertain. Stages that gained PSNR have no price: they grant 0. All samples are [seeds, *x_shape], row by row from
    the same seeds.
    """
    if extractor is None or price <= 0:
        return 0.0
    apart = [np.square(np.subtract(*map(extractor.extract, (each, taught)))).sum(axis=1) for each in (former, made)]
    nearer = Gain.of(*apart)
    sets = set_distances(extractor, former, made, taught)
    return price if nearer.counts and sets.fitted <= sets.nominal else 0.0
