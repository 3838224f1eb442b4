"""Split calls with many rows into calls with a few."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.backends import Arrays, LoadedGraph


@dataclass(frozen=True)
class BatchSplitter:
    """A network whose rows are independent, so that a batch of any size can be computed in parts of at most `most`
    rows."""

    network: LoadedGraph
    most: int

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        count = max(len(value) for value in feeds.values())
        starts = range(0, count, self.most)
        parts = [self.network({name: value[at : at + self.most] for name, value in feeds.items()}) for at in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
