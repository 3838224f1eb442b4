"""Where to cut a distribution so that 8 bits tell most about it: the threshold of TensorRT's entropy calibrator.

Migacz 2017, "8-bit Inference with TensorRT" (GTC): of all thresholds, take the one whose quantized distribution Q is
closest to the clipped one P, by the Kullback-Leibler divergence sum P log(P / Q).
"""

import numpy as np
from numpy.typing import NDArray

LEVELS = 128  # magnitudes of int8
STRIDE = 32  # bins from one candidate to the next: 1.6 % of the greatest magnitude or less


def least_divergent(mass: NDArray[np.float64]) -> int:
    """How many bins to keep.

    Args:
        mass: [n], of magnitudes by bin of equal width, from zero; the last is not empty.

    Candidates are n and LEVELS, LEVELS + STRIDE, ... below it; of equally good ones the widest, so that nothing is
    clipped for nothing.
    """
    candidates: list[int] = [len(mass), *range(LEVELS, len(mass), STRIDE)[::-1]]
    return candidates[int(np.argmin([_divergence(mass, kept) for kept in candidates]))]


def _divergence(mass: NDArray[np.float64], kept: int) -> float:
    """P: the first `kept` bins, what is beyond them in the last. Q: what the kept ones hold in LEVELS levels, spread
    evenly over those bins of each level that hold anything. Infinite where P has mass and Q has none."""
    inside = mass[:kept]
    p = inside.copy()
    p[-1] += mass[kept:].sum()
    starts = np.arange(LEVELS) * kept // LEVELS if kept > LEVELS else np.arange(kept)
    filled = inside > 0
    level = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled.astype(np.float64), starts), 1)
    q = np.where(filled, np.repeat(level, np.diff(starts, append=kept)), 0.0)
    held = p > 0
    if not q[held].all():
        return np.inf
    p, q = p[held] / p.sum(), q[held] / q.sum()
    return float(np.sum(p * np.log(p / q)))
