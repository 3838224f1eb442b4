"""Samples with as much energy as the teacher's.

Least squares foretell the mean of what few steps cannot know, so that the nearest samples are a little weak. One factor
of the last row makes all samples stronger or weaker, and gives their mean square back. It is the mean square about 0: a
background far from 0 has most of it, and the rest then stays a little weak. That is as good as a mean square about the
teacher's mean sample. The background of fashion_mnist has most of it, and the latter's factors are at most 0.4 % larger
there. They cost 0.01 to 0.03 dB more, and lower FD by a hundredth of itself. Where the whole factor costs too much, a
part of it is taken: the last of it costs most.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.endpoint import Gain, Nominal, Seeds
from fewstep.fitting.recurrence import Recurrence, plan_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.rollouts.metrics import psnr

PRICE = 0.1  # dB of the mean PSNR on the selection seeds that the energy may cost
SHARES = tuple(1 - k / 20 for k in range(20))  # of the way to the whole factor, in the order in which they are tried


@dataclass(frozen=True)
class Energy:
    """The factor of the last row that gives samples the teacher's energy, and the one that a fit takes.

    price: what `factor` costs on the selection seeds, in dB of their mean PSNR.
    taken: the nearest to `factor`, from 1 on, that costs no more than PRICE; 1 where a fit takes none.
    """

    factor: float
    price: float
    taken: float


def energy_of(rolled: Rollouts, numbers: Recurrence, seeds: Seeds, before: Nominal) -> Energy | None:
    """The factor that gives samples of all seeds the mean square of their targets; None where samples are all zero.

    It is taken as far as the gain over `before` still counts, too.
    """
    blocks = (*seeds.fit, *seeds.selection)
    made = list(rolled.samples(plan_of(numbers), blocks))
    energy = sum(float(np.square(each.astype(np.float64)).sum()) for each in made)
    asked = sum(float(np.square(block.taught.astype(np.float64)).sum()) for block in blocks)
    if energy == 0 or asked == 0:
        return None
    factor = float(np.sqrt(asked / energy))
    chosen = list(zip(made[len(seeds.fit) :], seeds.selection, strict=True))

    def qualities(times: float) -> NDArray[np.float64]:
        return np.concatenate([psnr(times * each, block.taught) for each, block in chosen])

    near, whole = qualities(1.0), qualities(factor)
    price = float((near - whole).mean())
    for share in SHARES:
        taken = factor if share == 1 else 1 + share * (factor - 1)
        strong = whole if share == 1 else qualities(taken)
        if float((near - strong).mean()) <= PRICE and Gain.of(strong, before.selection).counts:
            return Energy(factor, price, taken)
    return Energy(factor, price, 1.0)


def scaled(numbers: Recurrence, factor: float) -> Recurrence:
    """The numbers that make each sample `factor` times as large."""
    rows = numbers.rows.copy()
    rows[-1] *= factor
    return replace(numbers, rows=rows)
