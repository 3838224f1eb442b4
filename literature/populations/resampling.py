"""Resampling: which particles of a group go on, chosen by their weights."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choice = Literal["systematic", "one", "best"]


def effective(log_weights: Floats) -> Floats:
    """The effective number of particles of each group, (sum w)^2 / sum w^2, of log weights [G, M]."""
    w = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return np.asarray(w.sum(1) ** 2 / (w**2).sum(1))


def ancestors(log_weights: Floats, choice: Choice, chance: float) -> NDArray[np.intp]:
    """The particle that each particle of a group continues [M], for log weights [M].

    systematic: copies in proportion to the weight, rounded by one uniform number for all (Kitagawa 1996). one: all
    continue one particle, drawn by its weight. best: all continue the heaviest.
    """
    count = len(log_weights)
    if choice == "best":
        return np.full(count, np.argmax(log_weights))
    share = np.exp(log_weights - log_weights.max())
    ends = np.cumsum(share) / share.sum()
    places = np.full(count, chance) if choice == "one" else (np.arange(count) + chance) / count
    return np.minimum(np.searchsorted(ends, places, side="right"), count - 1)
