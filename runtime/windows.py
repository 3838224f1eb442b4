"""Overlapping windows of one size in a larger array: where they are, and the weights with which they are averaged."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

Place = tuple[slice, ...]


def window_places(
    shape: Sequence[int], window: Sequence[int], overlap: int, multiple: int = 1, offset: int = 0
) -> list[Place]:
    """Return windows that cover an array. Neighbours overlap by at least `overlap`.

    Windows begin at multiples of `multiple`. An `offset` above 0 moves the inner windows; each offset moves them
    differently. Raises UserError if windows of this size cannot cover the array.
    """
    axes = [_starts(full, part, overlap, multiple, offset) for full, part in zip(shape, window, strict=True)]
    return [tuple(slice(at, at + part) for at, part in zip(start, window, strict=True)) for start in product(*axes)]


def _starts(full: int, part: int, overlap: int, multiple: int, offset: int) -> list[int]:
    """Return the starts of windows along one axis."""
    if full == part:
        return [0]
    stride = (part - overlap) // multiple * multiple
    if stride < 1 or (full - part) % multiple:
        raise UserError(
            f"windows of {part} that overlap by {overlap}, at multiples of {multiple}, cannot cover {full}",
            f"give a smaller overlap, or a size that is larger than a window by a multiple of {multiple}",
        )
    places = stride // multiple
    first = stride - offset * max(1, round(places * 0.618)) % places * multiple if offset else stride  # golden section
    inner = range(first, full - part, stride)
    return [0, *inner, full - part]


def blend_weights(
    place: Place, shape: Sequence[int], margin: int, overlap: int, scales: Sequence[int] = ()
) -> NDArray[np.float64]:
    """Return the weights with which the elements of a window are averaged with overlapping windows.

    Weights are 1 in the middle and at the array's own borders, and 0 on `margin` elements at an inner border. Between
    them is a linear slope, which ends `margin` elements before the overlap does. `margin` and `overlap` are multiplied
    by the scale of each axis, 1 by default.
    """
    weights = np.ones(())
    for along, full, scale in zip(place, shape, scales or (1,) * len(shape), strict=True):
        size = along.stop - along.start
        inside = np.arange(size) + 0.5
        rise = np.clip((inside - margin * scale) / max((overlap - 2 * margin) * scale, 1e-9), 0, 1)
        one = np.ones(size)
        if along.start > 0:
            one = one * rise
        if along.stop < full:
            one = one * rise[::-1]
        weights = np.multiply.outer(weights, one)
    return weights
