"""Random images and masks, as substitutes for conditions with x's height and width.

The pixels of an image are not independent: neighbours are similar, surfaces have edges, and some areas are black or
white. Activations have larger ranges on such images than on white noise, so int8 that was calibrated and judged on
white noise looks better than it is. A random image mixes two models of natural images:

- *dead leaves*: surfaces that occlude each other, whose radii have the density r^-3 (Lee, Mumford and Huang 2001,
  "Occlusion models for natural images");
- a field whose amplitude falls as 1/frequency (Field 1987, "Relations between the statistics of natural images and the
  response properties of cortical cells").

Networks learn useful features of such images (Baradad et al. 2021, arXiv 2106.05963). A random mask is a box or a
half-plane, like typical regions for inpainting.
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.bundle.manifest import Condition, Description

LEAVES = 24
LEAST_RADIUS, MOST_RADIUS = 0.05, 0.5  # radii of a leaf, as shares of the shorter side
LEAST_SIDE = 4  # pixels of a picture
MOST_CONTRAST = 3.0  # above 1, values outside the range are clipped to black and white surfaces

Floats = NDArray[np.float64]
Uniform = Callable[[int], Floats]  # a function that returns `count` numbers in (0, 1), new ones at each call


def picture_axes(takes: Description) -> tuple[int, ...]:
    """Return (height, width) if samples are images; () for tokens, sound or vectors."""
    is_picture = len(takes.x_shape) >= 3 and takes.vocabulary is None and takes.spectrogram is None
    return takes.x_shape[-2:] if is_picture else ()


def is_mask(condition: Condition, axes: Sequence[int]) -> bool:
    """Return whether a condition is a mask: booleans, or numbers with the limits 0 and 1, in a single channel with the
    height and width of the samples.

    axes: `picture_axes` of its denoiser.
    """
    limits = (0, 1) if condition.dtype == "bool" else (condition.low, condition.high)
    has_one_channel = prod(condition.shape[:-2]) == 1
    return limits == (0, 1) and condition.typical is None and has_one_channel and _covers(condition.shape, axes)


def is_picture(condition: Condition, axes: Sequence[int]) -> bool:
    """Return whether a condition consists of real numbers in channels with the height and width of x, or with the same
    aspect ratio."""
    is_real = np.dtype(condition.dtype).kind == "f" and len(condition.shape) >= 3
    return is_real and not is_mask(condition, axes) and _covers(condition.shape, axes)


def random_mask(shape: tuple[int, ...], uniform: Uniform) -> Floats:
    """Return a mask [..., height, width] of 0 and 1: a box whose sides are a quarter to three quarters of the mask's,
    or the half-plane on one side of a line through a random point."""
    is_box, angle, *at = uniform(6)
    height, width = shape[-2:]
    rows, columns = np.ogrid[:height, :width]
    if is_box < 0.5:
        inside = _within(rows, height, *at[:2]) & _within(columns, width, *at[2:])
    else:
        down, right = np.sin(2 * np.pi * angle), np.cos(2 * np.pi * angle)
        inside = (rows - at[0] * height) * down + (columns - at[1] * width) * right > 0
    return np.broadcast_to(inside.astype(np.float64), shape)


def random_picture(shape: tuple[int, ...], uniform: Uniform) -> Floats:
    """Return a random image [..., height, width] with values in [0, 1]: a random mixture of dead leaves and a smooth
    field, with a random contrast around a random gray."""
    share, contrast, grey = uniform(3)
    mixed = share * _leaves(shape, uniform) + (1 - share) * _smooth(shape, uniform)
    gain = 1 + contrast * (MOST_CONTRAST - 1)
    picture: Floats = np.clip(gain * (mixed - grey) + grey, 0, 1)
    return picture


def _covers(shape: Sequence[int], axes: Sequence[int]) -> bool:
    """Return whether the last two axes of `shape` have the aspect ratio of an image with the sizes `axes`."""
    if len(axes) != 2 or len(shape) < 2:
        return False
    (height, width), (rows, columns) = axes, shape[-2:]
    return min(height, width, rows, columns) >= LEAST_SIDE and rows * width == columns * height


def _within(places: NDArray[np.int64], size: int, length: float, start: float) -> NDArray[np.bool_]:
    """Return a mask of a random interval on an axis; `length` and `start` are in (0, 1)."""
    side = size // 4 + int(length * (size // 2 + 1))
    first = int(start * (size - side + 1))
    return (places >= first) & (places < first + side)


def _leaves(shape: tuple[int, ...], uniform: Uniform) -> Floats:
    """Return an image of discs and squares of random colors in (0, 1), each drawn over the earlier ones, with edges one
    pixel wide."""
    height, width = shape[-2:]
    rows, columns = np.ogrid[:height, :width]
    channels = (*shape[:-2], 1, 1)
    made = np.broadcast_to(uniform(prod(channels)).reshape(channels), shape)
    for spread, is_disc, down, right, *colours in uniform(LEAVES * (4 + prod(channels))).reshape(LEAVES, -1):
        colour = np.reshape(colours, channels)
        share = (1 - spread * (1 - (LEAST_RADIUS / MOST_RADIUS) ** 2)) ** -0.5  # the density r^-3, from 1 on
        radius = LEAST_RADIUS * share * min(height, width)
        y, x = abs(rows - down * height), abs(columns - right * width)
        distance = np.hypot(y, x) if is_disc < 0.5 else np.maximum(y, x)
        opacity = np.clip(radius - distance + 0.5, 0, 1)
        made = made + opacity * (colour - made)
    return made


def _smooth(shape: tuple[int, ...], uniform: Uniform) -> Floats:
    """Return a field of amplitude 1/frequency around a random gray, in [0, 1], different for each channel."""
    height, width = shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf  # no mean
    white = uniform(prod(shape)).reshape(shape)
    field = np.fft.irfft2(np.fft.rfft2(white) / frequency, (height, width))
    grey = 0.25 + 0.5 * uniform(prod(shape[:-2])).reshape((*shape[:-2], 1, 1))
    room = np.minimum(grey, 1 - grey) / np.abs(field).max((-2, -1), keepdims=True)
    made: Floats = grey + room * field
    return made
