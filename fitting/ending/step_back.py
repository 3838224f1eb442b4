"""A step back from the numbers of a fit, where the features of samples gain more by it than pixels lose.

Least squares on pixels go on after the features of samples have come nearest: from there on, pictures are alike and
lack variety. On the straight way back to the numbers that the fit began at, features gain first. Guidance weights may
go back alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.distances.features import Extractor
from fewstep.fitting.blocks import Block
from fewstep.fitting.endpoint import Gain
from fewstep.fitting.recurrence import Recurrence, plan_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.rollouts.metrics import psnr

COST = 0.5  # dB of the mean PSNR on the selection seeds that features may cost
SHARES = tuple(1 - k / 20 for k in range(11))  # of the corrections that stay, in the order in which they are tried
NOTHING = 1e-20  # squared distance of features that are the teacher's


@dataclass(frozen=True)
class StepBack:
    """How much of the corrections stays, and the effect on the selection seeds.

    share: of the corrections to rows and told times. lean: of those to guidance weights. price: what it costs in dB of
    the mean PSNR. gain: by how many dB the mean squared distance of features falls.
    """

    share: float
    lean: float
    price: float
    gain: float


@dataclass(frozen=True)
class _Tried:
    share: float
    lean: float
    pixels: NDArray[np.float64]
    features: float

    @property
    def worth(self) -> float:
        """A decibel of features is worth one of pixels."""
        return float(self.pixels.mean()) + self.features


def step_back(
    rolled: Rollouts,
    numbers: Recurrence,
    origin: Recurrence,
    blocks: Sequence[Block],
    before: NDArray[np.float64],
    extractor: Extractor,
) -> StepBack:
    """The best step from `numbers` towards `origin`, which may be none, on some blocks.

    It costs at most COST, and the gain over the PSNRs `before` [seeds] counts.
    """
    taught = extractor.extract(np.concatenate([block.taught for block in blocks]))

    def tried(share: float, lean: float) -> _Tried:
        made = np.concatenate(list(rolled.samples(plan_of(between(origin, numbers, share, lean)), blocks)))
        pixels = psnr(made, np.concatenate([block.taught for block in blocks]))
        apart = float(np.square(extractor.extract(made).astype(np.float64) - taught).sum(axis=1).mean())
        return _Tried(share, lean, pixels, -10 * float(np.log10(max(apart, NOTHING))))

    first = best = tried(1.0, 1.0)

    def allowed(each: _Tried) -> bool:
        return first.pixels.mean() - each.pixels.mean() <= COST and Gain.of(each.pixels, before).counts

    is_leaning = not np.array_equal(numbers.lean, origin.lean)
    for share in SHARES:
        leans = [0.0] * is_leaning if share == 1 else [share, *[0.0] * is_leaning]
        known = [each for each in (tried(share, lean) for lean in leans) if allowed(each)]
        if not known and share < 1:
            break
        best = max((best, *known), key=lambda each: each.worth)
    price = float((first.pixels - best.pixels).mean())
    return StepBack(best.share, best.lean, price, best.features - first.features)


def between(origin: Recurrence, numbers: Recurrence, share: float, lean: float) -> Recurrence:
    """The numbers on the way from `origin` (0) to `numbers` (1); `lean` is the share of guidance weights."""
    return replace(
        numbers,
        told=origin.told + share * (numbers.told - origin.told),
        rows=origin.rows + share * (numbers.rows - origin.rows),
        lean=origin.lean + lean * (numbers.lean - origin.lean),
    )
