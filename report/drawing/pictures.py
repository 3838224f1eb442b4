"""Convert samples [N, C, H, W] in model range [-1, 1] to a grid of images (gray or RGB) in a PNG, and back."""

import io
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.pictures import check_bits

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 1  # pixels between two samples, before they are enlarged
GAP_SHADE = 128  # neither black nor white, so that the border of a black picture is visible


def check_shape(shape: Sequence[int]) -> None:
    """Raise UserError unless a sample of this shape can be drawn: [C, H, W] with 1 or 3 channels."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"an image has 1 or 3 channels, but these samples have shape {list(shape)}", "save them as an array (.npy)"
        )


def draw_grid(samples: NDArray[np.floating], columns: int, scale: int = 1) -> "Image":
    """Return an image of a grid of samples, with `columns` samples per row in the order of the array. Pixels are
    enlarged by the factor `scale`."""
    from PIL import Image

    check_shape(samples.shape[1:])
    if not len(samples):
        raise ValueError("a grid needs at least one sample")
    pixels = to_pixels(samples).transpose(0, 2, 3, 1)  # [N, H, W, C]
    count, height, width, channels = pixels.shape
    rows = ceil(count / columns)
    columns = min(columns, count)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), GAP_SHADE, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = picture
    image = Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def read_picture(path: Path, shape: Sequence[int]) -> NDArray[np.float32]:
    """Read an image from a file as [channels, height, width] in [-1, 1], cropped to its middle and resized, in gray or
    RGB. Raises UserError if it cannot be read, or has more than 8 bits per channel."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    if channels not in (1, 3):
        raise UserError(
            f"an image has 1 or 3 channels, not {channels}", "give an array in Python: given={'image': ...}"
        )
    try:
        with Image.open(path) as opened:
            check_bits(opened.mode, path)
            upright = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
    except UserError:
        raise
    except Exception as error:  # Pillow raises errors of many unrelated classes for damaged files
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"image {path} cannot be read ({reason})", "give a .png or .jpg") from error
    pixels = np.asarray(fitted, np.float32).reshape(height, width, channels).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels / 127.5 - 1, np.float32)


def to_pixels(samples: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Convert model range [-1, 1] to 0..255, rounded and clamped. Raises UserError for NaN or infinity."""
    if not np.isfinite(samples).all():
        first = int(np.argmin(np.isfinite(samples).reshape(len(samples), -1).all(axis=1)))
        raise UserError(f"sample {first} contains NaN or infinity", "check the weights the bundle was exported from")
    return np.clip(np.rint((samples.astype(np.float64) + 1) * 127.5), 0, 255).astype(np.uint8)


def amplify_difference(
    samples: NDArray[np.floating], references: NDArray[np.floating], gain: float
) -> NDArray[np.float64]:
    """Return the signed error, amplified by `gain` and clipped to model range. Equal pixels are mid gray."""
    return np.clip(gain * (samples.astype(np.float64) - references), -1, 1)


def encode_animation(frames: Sequence["Image"], form: str, rate: float) -> bytes:
    """Encode images as the frames of an animation of a form "gif" or "webp", at `rate` frames per second. A .gif file
    stores the time of a frame in hundredths of a second."""
    first, *others = frames
    stream = io.BytesIO()
    more = {"lossless": True} if form == "webp" else {}
    first.save(stream, form, save_all=True, append_images=others, duration=1000 / rate, loop=0, **more)
    return stream.getvalue()


def encode_png(image: "Image") -> bytes:
    """Encode an image as the bytes of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
