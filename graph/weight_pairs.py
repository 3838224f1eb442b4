"""Pairs of weights whose products x86 CPUs without VNNI add in 16 bits.

There VPMADDUBSW multiplies two codes of an activation, 0 to 255, with their weights, and adds both products in 16 bits,
which saturate. No codes can exceed them if the sum of both weights is in [-128, 128] and each weight in [-127, 127]:

    255 * 128 = 32 640 <= 32 767

So weights of opposite signs need no limit, and one of 127 leaves 1 for another of the same sign.

A pair are the input channels 2k and 2k + 1, at the same tap of a convolution. Kernels of ONNX Runtime and oneDNN take
four channels at a time, two pairs. With an odd number of channels ONNX Runtime counts on over the taps, while oneDNN
starts again at each tap. Such weights are in [-64, 64], so that no two of them exceed the sum.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LARGEST_SUM = 128  # the largest magnitude of a pair's sum
LARGEST_ALONE = LARGEST_SUM // 2  # of each weight, if it may be in any pair

Limits = tuple[NDArray[np.float64], NDArray[np.float64]]


def has_pairs(shape: Sequence[int]) -> bool:
    """Return whether all kernels pair the inputs of a weight [outputs, channels, *taps] alike."""
    return shape[1] % 2 == 0


def largest_sums(rows: NDArray[np.float64], taps: int) -> NDArray[np.float64]:
    """Return the largest magnitude of a pair's sum in each row of a weight, [outputs, channels * taps]."""
    pairs = rows.reshape(len(rows), -1, 2, taps)
    largest: NDArray[np.float64] = np.abs(pairs[:, :, 0] + pairs[:, :, 1]).max(axis=(1, 2))
    return largest


def limit_pairs(exact: NDArray[np.float64], taps: int) -> Limits:
    """Return the smallest and the largest integer for each weight, in [-127, 127], so that no pair of integers within
    them exceeds LARGEST_SUM, and that they are as far as possible from `exact`.

    exact: the weights in units of their scale, [outputs, channels * taps], with an even number of channels.

    Both weights of a pair are equally far from their limits. If the pair exceeds them, each is changed by half of the
    excess.
    """
    pairs = exact.reshape(len(exact), -1, 2, taps)
    middle = (pairs - pairs[:, :, ::-1]) / 2  # of opposite signs in a pair, also rounded
    np.clip(middle, 1 - LARGEST_ALONE, LARGEST_ALONE - 1, out=middle)
    middle = np.rint(middle, out=middle).reshape(exact.shape)
    return middle - LARGEST_ALONE, middle + LARGEST_ALONE
