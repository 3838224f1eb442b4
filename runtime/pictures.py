"""Conversion between samples and images, videos or sound, with the autoencoder of a bundle if it has one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32
from fewstep.runtime.autoencoder import Autoencoder, load_autoencoder
from fewstep.runtime.backends import CompanionEngine
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine.memory_pages import release_free_memory
from fewstep.runtime.runs.tiled_images import decode_tiles
from fewstep.runtime.runs.tiles import Tiles


def pictures_of(
    bundle: Bundle,
    x: Float32,
    conditions: Mapping[str, Sequence[ArrayLike]],
    tiles: Tiles | None = None,
    threads: int = 0,
    in_bands: bool = False,
    engine: CompanionEngine | None = None,
) -> Float32:
    """Return images [N, channels, height, width], or videos [N, frames, channels, height, width], of samples [N,
    *x_shape] with these conditions. `tiles` decodes larger samples to images. `in_bands` and `engine`: see
    `load_autoencoder`."""
    if bundle.manifest.autoencoder is None:
        return x
    release_free_memory()  # of the denoiser
    decoder = load_autoencoder(bundle, threads, encoder=False, in_bands=in_bands, engine=engine)
    return decoder.decode(x, _rows_for(decoder, conditions)) if tiles is None else decode_tiles(decoder, x, tiles)


def sound_of(
    bundle: Bundle,
    x: Float32,
    conditions: Mapping[str, Sequence[ArrayLike]],
    threads: int = 0,
    engine: CompanionEngine | None = None,
) -> Float32:
    """Return the sound [N, channels, samples] of samples [N, *x_shape] with these conditions. `engine`: see
    `load_autoencoder`. Raises UserError if the bundle decodes none."""
    described = bundle.manifest.autoencoder
    if described is None or all(output.role != "sound" for output in described.decoder.outputs):
        raise UserError(f"{bundle.path} decodes no sound", "write the samples as an array (.npy)")
    release_free_memory()  # of the denoiser
    decoder = load_autoencoder(bundle, threads, encoder=False, engine=engine)
    return decoder.decode_all(x, _rows_for(decoder, conditions))["sound"]


def _rows_for(decoder: Autoencoder, conditions: Mapping[str, Sequence[ArrayLike]]) -> dict[str, ArrayLike]:
    """Return the conditions that a decoder takes, as arrays."""
    names = {tensor.name for tensor in decoder.described.decoder.inputs[1:]}
    return {name: np.stack([np.asarray(row) for row in conditions[name]]) for name in names & conditions.keys()}


def sample_of(bundle: Bundle, picture: Float32, threads: int = 0) -> Float32:
    """Return x [*x_shape] of an image [channels, height, width] in [-1, 1], for image-to-image."""
    if bundle.manifest.autoencoder is None:
        return picture
    latent: Float32 = load_autoencoder(bundle, threads).encode(picture[None])[0]
    return latent


def check_bits(mode: str, path: Path) -> None:
    """Raise UserError for the mode of a Pillow image with more than 8 bits per channel. Pillow's conversion to L or RGB
    clips its values at 255, so that a 16-bit image becomes white."""
    if mode.startswith(("I", "F")):  # integers of 16 and 32 bits, and floating point
        what = f"picture {path} has more than 8 bits per channel (mode {mode})"
        raise UserError(what, "write it with 8 bits, as a .png of mode L or RGB")
