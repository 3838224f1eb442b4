"""Decode latents that are larger than a bundle's decoder takes. It runs on overlapping windows, which are blended.

    x = sample_tiles(sampler, "dpmpp_2m:8", (4, 96, 96), tiles)
    images = decode_tiles(load_autoencoder("bundle"), x, tiles)

It needs memory for one window and two arrays of the whole image.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32, as_finite, as_model_range
from fewstep.runtime.autoencoder import Autoencoder
from fewstep.runtime.bundle.manifest import AutoencoderEntry, Size
from fewstep.runtime.kinds.sizes import Dimension, infer_sizes, resolve_dimension
from fewstep.runtime.runs.tiles import Tiles
from fewstep.runtime.windows import Place, blend_weights, window_places

FIX = "give finite numbers [N, channels, height, width]"


def decode_tiles(autoencoder: Autoencoder, latents: ArrayLike, tiles: Tiles) -> Float32:
    """Decode latents [N, *shape] to images float32 [N, channels, height, width], one window at a time.

    Windows have the size that the decoder takes, or the largest of its free sizes. `overlap` and `blend` of the tiles
    are in latents; `moves` and `batch` have no effect. If the decoder's receptive field reaches r latents, the result
    equals that of the whole image for 2 r <= overlap - blend. Raises UserError for latents that windows cannot cover or
    that `Autoencoder.decode` refuses.
    """
    array = as_finite(as_model_range(latents, "latents", FIX), "latents", FIX)
    if array.ndim == 0 or not len(array):
        raise UserError(f"latents have the shape {list(array.shape)}", FIX)
    described, sizes = autoencoder.described, autoencoder.bundle.manifest.sizes
    shape = shape_of_image(described, array.shape[1:], tiles, sizes)
    window = _window(described, array.shape[1:], sizes)
    scales = _pixels_per_latent(described, window)
    images = np.zeros((len(array), *shape), np.float32)
    weights = np.zeros(shape, np.float32)
    for place in window_places(array.shape[1:], window, tiles.overlap):
        enlarged = (slice(a.start * scale, a.stop * scale) for a, scale in zip(place[1:], scales, strict=True))
        pixels: Place = (slice(0, shape[0]), *enlarged)
        weight = blend_weights(pixels, shape, tiles.margin, tiles.overlap, (1, *scales)).astype(np.float32)
        weights[pixels] += weight
        for image, latent in zip(images, array, strict=True):
            image[pixels] += weight * autoencoder.decode(latent[place][None])[0]
    images /= weights
    return images


def shape_of_image(
    described: AutoencoderEntry, shape: Sequence[int], tiles: Tiles, sizes: Sequence[Size] = ()
) -> tuple[int, ...]:
    """Return (channels, height, width) of the image of latents [*shape]. `sizes` are the free sizes of x.

    Raises UserError if windows cannot cover them.
    """
    window, (first, *_) = _window(described, shape, sizes), described.decoder.outputs
    if first.role != "image" or len(window) != 3:
        what = f"the decoder converts latents {list(window)} to {first.role} {list(first.shape[1:])}, not in windows"
        raise UserError(what, "leave tiles out, and decode samples of the decoder's size")
    fits = len(shape) == len(window) and all(
        full == part or (full > part > tiles.overlap and axis > 0)
        for axis, (full, part) in enumerate(zip(shape, window, strict=True))
    )
    if not fits:
        raise UserError(
            f"latents {list(shape)} do not fit a decoder of {list(window)} in windows that overlap by {tiles.overlap}",
            "give latents with the decoder's channels, at least as high and wide as its window, and a smaller overlap",
        )
    pixels = (full * scale for full, scale in zip(shape[1:], _pixels_per_latent(described, window), strict=True))
    return (int(first.shape[1]), *pixels)


def _pixels_per_latent(described: AutoencoderEntry, window: Sequence[int]) -> tuple[int, ...]:
    """Return the pixels per latent along height and width. Raises UserError if they are not whole numbers."""
    named = infer_sizes(described.decoder.inputs[0].shape[1:], window)
    parts, sizes = window[1:], [resolve_dimension(size, named) for size in described.decoder.outputs[0].shape[2:]]
    if any(size % part for size, part in zip(sizes, parts, strict=True)):
        what = f"the decoder returns an image of {sizes} for latents of {list(parts)}, no whole number of pixels each"
        raise UserError(what, "leave tiles out, and decode samples of the decoder's size")
    return tuple(size // part for size, part in zip(sizes, parts, strict=True))


def _window(described: AutoencoderEntry, shape: Sequence[int], sizes: Sequence[Size]) -> tuple[int, ...]:
    """Return the shape of the latents that the decoder takes: along a free axis, as many of `shape` as it can."""
    free = {size.name: size for size in sizes}

    def part(axis: int, size: Dimension) -> int:
        if isinstance(size, int):
            return size
        own = free[size]
        full = shape[axis] if axis < len(shape) else own.low
        return max(own.low, min(own.high, full // own.multiple * own.multiple))

    return tuple(part(axis, size) for axis, size in enumerate(described.decoder.inputs[0].shape[1:]))
