"""Checks of the images, videos and sound that `fewstep run` reads and writes, made before the denoiser is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.output import ARRAY, PICTURE, SOUND, default_scale, square_columns
from fewstep.cli.run.tiles import Tiling
from fewstep.plans.errors import UserError
from fewstep.plans.plan import IMAGE
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import image_shape
from fewstep.runtime.kinds.sizes import describe_sizes, sizes_in_range
from fewstep.runtime.pictures import sample_of
from fewstep.runtime.runs.tiled_images import shape_of_image
from fewstep.runtime.sampling.execute import Hold

VIDEO_AXES = 4  # of one video [frames, channels, height, width]
PIXELS_LIMIT = 2**27  # of one picture: 400 MB in colour, which is more than most viewers open


def check_latents(options: RunOptions, bundle: Bundle, tiled: Tiling | None) -> None:
    """Raise UserError for latents of a size that the bundle's autoencoder does not accept."""
    described, manifest = bundle.manifest.autoencoder, bundle.manifest
    if described is None:
        return
    ways = []
    if not options.is_array and tiled is None:  # windows are decoded separately
        ways.append(("decoder", described.decoder.inputs[0].shape[1:]))
    if options.image is not None and described.encoder is not None:
        ways.append(("encoder", described.encoder.outputs[0].shape[1:]))
    for way, takes in ways:
        if sizes_in_range(takes, manifest.x_shape, manifest.sizes) is None:
            ranges = "" if all(isinstance(size, int) for size in takes) else f" with {describe_sizes(manifest.sizes)}"
            array = "" if options.image is not None else ", or write the latents as an array (.npy)"
            raise UserError(
                f"the {way} of {options.bundle} takes latents {list(takes)}{ranges}, not {list(manifest.x_shape)}",
                f"leave --size out{array}",
            )


def find_image_shape(bundle: Bundle, tiled: Tiling | None) -> tuple[int, ...]:
    """Return the shape [C, H, W] of a sample after decoding, including all its tiles."""
    described = bundle.manifest.autoencoder
    if tiled is None or described is None:
        return image_shape(bundle.manifest)
    return shape_of_image(described, tiled.shape, tiled.tiles, bundle.manifest.sizes)


def find_rate(options: RunOptions, bundle: Bundle) -> float | None:
    """Return the frames of a video, or the samples of sound, per second of the file to write; None for other files.
    Raises UserError if neither the bundle nor an option states it, or if the bundle decodes no video or no sound."""
    role = "sound" if options.output.suffix == SOUND else "video"
    if options.is_array or options.output.suffix == PICTURE:
        return None
    described = bundle.manifest.autoencoder
    if described is None or all(output.role != role for output in described.decoder.outputs):
        what = f"{options.output}: the bundle {options.bundle} decodes no {role}"
        raise UserError(what, f"write images ({PICTURE}), or an array ({ARRAY})")
    stated = described.frame_rate if role == "video" else described.sample_rate
    rate = stated if options.rate is None else options.rate
    if rate is None:
        parts = "frames" if role == "video" else "samples"
        raise UserError(f"{options.bundle} does not state the {parts} per second of its {role}", "give --rate NUMBER")
    return rate


def check_picture(options: RunOptions, shape: tuple[int, ...]) -> None:
    """Raise UserError if samples of this shape are neither images nor videos, or if the image of all samples (without
    the gaps between them) has too many pixels."""
    from fewstep.report.drawing import pictures

    pictures.check_shape(shape[-3:] if len(shape) == VIDEO_AXES else shape)
    is_strip = len(shape) == VIDEO_AXES and options.output.suffix == PICTURE
    count, (height, width) = options.count * (shape[0] if is_strip else 1), shape[-2:]
    columns = min(options.columns or (shape[0] if is_strip else square_columns(count)), count)
    rows, scale = -(-count // columns), options.scale or default_scale(shape)
    height, width = rows * height * scale, columns * width * scale
    if height * width > PIXELS_LIMIT:
        raise UserError(
            f"an image of {width} x {height} pixels is too large",
            f"lower --scale or --samples (at most {PIXELS_LIMIT} pixels), or write an array (.npy)",
        )


def read_start(options: RunOptions, image: Path, bundle: Bundle) -> tuple[dict[str, list[Any]], Hold | None]:
    """Return the tensors from which samples start, and the part of the image that they keep. The tensors are empty
    without --strength and --start-noise, and the part is None without --known."""
    encoded = _encode_image(image, bundle, options.threads)
    given = {} if options.start is None else {IMAGE: [encoded]}
    return given, None if options.known is None else _read_hold(options.known, encoded, bundle)


def _encode_image(image: Path, bundle: Bundle, threads: int) -> NDArray[np.float32]:
    """Read an image file and encode it as a sample x [*x_shape]. Raises UserError if x is not an image."""
    from fewstep.report.drawing import pictures

    shape = image_shape(bundle.manifest)
    if len(shape) != 3:
        raise UserError(f"x has the shape {list(shape)}, which is not an image", "leave --image out")
    return sample_of(bundle, pictures.read_picture(image, shape), threads)


def _read_hold(mask: Path, x: NDArray[np.float32], bundle: Bundle) -> Hold:
    """Return the part of x [*x_shape] that a mask image keeps: black is kept, and white is sampled. The mask is resized
    to the image. If x is a latent, each of its elements takes the mask's pixel at the upper left of its area."""
    from fewstep.report.drawing import pictures

    if x.ndim != 3:
        raise UserError(
            f"x has the shape {list(x.shape)}, which has no rows and columns for a mask", "leave --known out"
        )
    height, width = image_shape(bundle.manifest)[-2:]
    (drawn,) = pictures.read_picture(mask, (1, height, width))
    rows, columns = (np.arange(size) * whole // size for size, whole in zip(x.shape[1:], (height, width), strict=True))
    kept = (drawn[np.ix_(rows, columns)] < 0).astype(np.float32)
    return Hold(x[None], np.broadcast_to(kept, x.shape)[None])
