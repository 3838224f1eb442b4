"""Channels whose extremes still grew in the last half of the trajectories: more trajectories would reach further.

Of the extremes of n trajectories, those of n more go beyond with a chance of one half, whatever is followed. How far is
the question: a light tail adds some percent, a heavy one as much as there was. So the reach after half of the
trajectories is kept, and the growth since then stands for the growth to come.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.ranges.histogram import Histogram

GREW = 0.5  # of the reach of the activation in its group: more growth is worth a warning
LEAST = 16  # trajectories: of fewer, half shows nothing

Key = tuple[str, int]  # tensor and range group
Reach = NDArray[np.float32]  # [channels]


@dataclass(frozen=True)
class Growth:
    """An activation one channel of which still grew: by which share of the activation's reach, in which group."""

    tensor: str
    group: int
    channel: int
    share: float


def reaches(histograms: Mapping[Key, Histogram]) -> dict[Key, Reach]:
    """The greatest magnitude of each channel."""
    return {key: np.maximum(-each.lows, each.highs) for key, each in histograms.items()}


def still_growing(half: Mapping[Key, Reach], histograms: Mapping[Key, Histogram]) -> tuple[Growth, ...]:
    """For each activation with a channel that grew by more than GREW since `half`, the one that grew most in the group
    where it did; the activation that grew most comes first."""
    most: dict[str, Growth] = {}
    for (name, group), reach in reaches(histograms).items():
        before = half.get((name, group))
        if before is None or not reach.max() > 0:
            continue
        shares = (reach - before) / reach.max()
        growth = Growth(name, group, int(shares.argmax()), float(shares.max()))
        if growth.share > GREW and (name not in most or growth.share > most[name].share):
            most[name] = growth
    return tuple(sorted(most.values(), key=lambda each: -each.share))
