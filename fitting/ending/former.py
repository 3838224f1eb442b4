"""A former fitted plan beside a new one, whose last stages have a price in PSNR that the former may not have paid.

Without these prices a plan from before such a stage would seldom be replaced. With them always, each new fit could lose
them again. So a new plan may be behind by a price only where the former lacks the gain for it.
"""

import numpy as np

from fewstep.calibration.metrics import psnr
from fewstep.evaluation.distances.features import Extractor
from fewstep.fitting.ending.energy import PRICE
from fewstep.fitting.ending.sets import set_distances
from fewstep.fitting.ending.step_back import StepBack
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


def price_of_features(
    back: StepBack | None, extractor: Extractor | None, former: Array, made: Array, taught: Array
) -> float:
    """The price of a step back, in dB, where samples `made` after it have a lower FD than a former plan's.

    It has to be lower by more than chance. A step back that gained PSNR has no price: it grants 0. All samples are
    [seeds, *x_shape], row by row from the same seeds.
    """
    if back is None or extractor is None or back.price <= 0:
        return 0.0
    return back.price if set_distances(extractor, made, former, taught).is_worse else 0.0
