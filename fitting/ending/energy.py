"""Samples with as much energy as the teacher's.

Least squares foretell the mean of what few steps cannot know, so that the nearest samples are a little weak. One factor
of the last row makes all samples stronger or weaker, and gives their mean square back. It is the mean square about 0: a
background far from 0 has most of it, and the rest then stays a little weak. That is as good as a mean square about the
teacher's mean sample: on fashion_mnist, whose background has most of it, the latter's factors are at most 0.4 % larger.
They cost 0.01 to 0.03 dB more, and lower FD by a hundredth.
"""

from dataclasses import dataclass, replace

import numpy as np

from fewstep.calibration.metrics import psnr
from fewstep.fitting.endpoint import Gain, Nominal, Seeds
from fewstep.fitting.recurrence import Recurrence, plan_of
from fewstep.fitting.rollouts import Rollouts

PRICE = 0.1  # dB of the mean PSNR on the selection seeds that the energy may cost


@dataclass(frozen=True)
class Energy:
    """The factor of the last row that gives samples the teacher's energy, and whether a fit took it.

    price: what it costs on the selection seeds, in dB of their mean PSNR.
    """

    factor: float
    price: float
    is_taken: bool


def energy_of(rolled: Rollouts, numbers: Recurrence, seeds: Seeds, before: Nominal) -> Energy | None:
    """The factor that gives samples of all seeds the mean square of their targets; None where samples are all zero.

    It is not to be taken if its price is over PRICE, or the gain over `before` would no longer count.
    """
    blocks = (*seeds.fit, *seeds.selection)
    made = list(rolled.samples(plan_of(numbers), blocks))
    energy = sum(float(np.square(each.astype(np.float64)).sum()) for each in made)
    asked = sum(float(np.square(block.taught.astype(np.float64)).sum()) for block in blocks)
    if energy == 0 or asked == 0:
        return None
    factor = float(np.sqrt(asked / energy))
    chosen = list(zip(made[len(seeds.fit) :], seeds.selection, strict=True))
    near, strong = (np.concatenate([psnr(share * each, b.taught) for each, b in chosen]) for share in (1.0, factor))
    price = float((near - strong).mean())
    return Energy(factor, price, price <= PRICE and Gain.of(strong, before.selection).counts)


def scaled(numbers: Recurrence, factor: float) -> Recurrence:
    """The numbers that make each sample `factor` times as large."""
    rows = numbers.rows.copy()
    rows[-1] *= factor
    return replace(numbers, rows=rows)
