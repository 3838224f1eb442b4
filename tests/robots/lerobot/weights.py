"""Weights that depend only on a name and a shape, so that two environments fill the same network without a file."""

import zlib

import numpy as np
from numpy.typing import NDArray


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return normal numbers with a deviation that keeps the scale from layer to layer. A norm's weights are near 1,
    or near 0 for Gemma's, which are differences from 1.
    """
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) < 2:
        is_gemma = "gemma" in name and "vision" not in name
        drawn = 0.1 * drawn + ("norm" in name and name.endswith("weight") and not is_gemma)
    else:
        drawn = drawn / np.sqrt(np.prod(shape[1:]))
    return drawn.astype(np.float32)
