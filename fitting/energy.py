"""Samples with as much energy as the teacher's.

Least squares foretell the mean of what few steps cannot know, so that the nearest samples are a little weak. One factor
of the last row makes all samples stronger or weaker, and gives their mean square back. It is the mean square about 0: a
background far from 0 has most of it, and the rest then stays a little weak.
"""

from dataclasses import replace

import numpy as np

from fewstep.calibration.metrics import psnr
from fewstep.fitting.endpoint import Gain, Nominal, Seeds
from fewstep.fitting.recurrence import Recurrence, plan_of
from fewstep.fitting.rollouts import Rollouts

PRICE = 0.1  # dB of the mean PSNR on the selection seeds that the energy may cost


def with_energy(rolled: Rollouts, numbers: Recurrence, seeds: Seeds, before: Nominal) -> Recurrence | None:
    """The numbers with a last row that gives samples of all seeds the mean square of their targets.

    None if the mean PSNR on the selection seeds falls by more than PRICE, or its gain over `before` would no longer
    count, or where samples are all zero.
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
    if (near - strong).mean() > PRICE or not Gain.of(strong, before.selection).counts:
        return None
    rows = numbers.rows.copy()
    rows[-1] *= factor
    return replace(numbers, rows=rows)
