"""The autoencoder of a diffusers folder: it converts images to the latents that the denoiser samples, and back."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from fewstep.export.companions.autoencoder import AutoencoderSource
from fewstep.export.companions.companion import Companion
from fewstep.export.sources.model_files import CONFIG, GIVE_PIPELINE, find_weights, float_bytes, read_json
from fewstep.graph.graph import Array
from fewstep.pipelines.companions.text_modules import Decoder, Encoder, LatentScale
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.loading import load_network
from fewstep.plans.configs.pipelines import PIPELINES
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import TensorEntry

LOG = logging.getLogger("fewstep")
COMPONENT = "vae"
CLASSES = ("AutoencoderKL", "AutoencoderTiny")
LATENT, IMAGE = "latent", "image"  # names of the graphs' ports
COLOURS = 3
SHIFTS, MEANS = ("shift_factor",), ("latents_mean", "latents_std")  # fields that only some pipelines read
SHIFTED = "FluxTransformer2DModel"  # the denoiser whose pipelines read SHIFTS
XL = "StableDiffusionXL"  # prefix of the pipelines that read MEANS
XL_WITHOUT_MEANS = ("StableDiffusionXLAdapterPipeline", "StableDiffusionXLControlNetInpaintPipeline")
SCALES = {"StableDiffusionUpscalePipeline": {"scaling_factor": 0.08333}}  # fields that a pipeline sets by itself
ENCODING = ("encoder.", "quant_conv.")  # prefixes of the encoder's weight names
BATCHES = (1, 2)  # batch sizes to compare; with larger ones, images would fill the memory


def read_autoencoder(folder: Folder, x_shape: tuple[int, ...], denoiser: str = "") -> AutoencoderSource | None:
    """Read the autoencoder of a folder. Return None if there is none, or, with a warning, if it does not fit.
    `denoiser` is the class name of the denoiser."""
    if not folder.has(COMPONENT):
        return None
    home = folder.path / COMPONENT
    config = read_json(home / CONFIG)
    kind, channels = config.get("_class_name"), config.get("latent_channels")
    if kind not in CLASSES or channels != x_shape[0] or len(x_shape) != 3:
        LOG.warning(
            "%s: its autoencoder, a %s of %s channels, is left out: decode x, %s, yourself",
            *(folder.path, kind, channels, list(x_shape)),
        )
        return None
    folder.check_class(COMPONENT)
    unread = _unread_fields(folder.pipeline, denoiser)
    try:
        factor = _pixels_per_latent(config)
        colours = int(config.get("out_channels", COLOURS))
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{home / CONFIG} is not the config of an {kind} ({error})", GIVE_PIPELINE) from error

    def way(make: Callable[[nn.Module, LatentScale], nn.Module]) -> Callable[[], nn.Module]:
        def load() -> nn.Module:
            network = load_network(home)[0]
            fields: Any = network.config  # includes the class's defaults, which older files omit
            read = {name: fields[name] for name in fields if name not in unread}
            return make(network, LatentScale({**read, **SCALES.get(folder.pipeline, {})}))

        return load

    files = find_weights(home).files
    total, encoding = float_bytes(files), float_bytes(files, ENCODING)

    def ports(shape: tuple[int, ...]) -> tuple[TensorEntry, TensorEntry]:
        image = (colours, *(size * factor for size in shape[1:]))
        return TensorEntry(LATENT, "latent", ("batch", *shape)), TensorEntry(IMAGE, "image", ("batch", *image))

    def decoder(shape: tuple[int, ...]) -> Companion:
        x, pixels = ports(shape)
        feeds = partial(_feeds, x, random_latents)
        return Companion("decoder", way(Decoder), (x,), (pixels,), feeds, BATCHES, total - encoding, at=decoder)

    def encoder(shape: tuple[int, ...]) -> Companion:
        x, pixels = ports(shape)
        feeds = partial(_feeds, pixels, random_images)
        return Companion("encoder", way(Encoder), (pixels,), (x,), feeds, BATCHES, encoding, at=encoder)

    return AutoencoderSource(decoder(x_shape), encoder(x_shape), (home / CONFIG, *files))


def _feeds(port: TensorEntry, draw: Callable[[int, tuple[int, ...]], Array], batch: int) -> Mapping[str, Array]:
    return {port.name: draw(batch, tuple(map(int, port.shape[1:])))}


def _unread_fields(pipeline: str, denoiser: str) -> tuple[str, ...]:
    """Return the fields of an autoencoder's config that a listed pipeline does not read, unlike others."""
    if pipeline not in PIPELINES:
        return ()
    reads_means = pipeline.startswith(XL) and pipeline not in XL_WITHOUT_MEANS
    return (*(() if denoiser == SHIFTED else SHIFTS), *(() if reads_means else MEANS))


def _pixels_per_latent(config: Mapping[str, Any]) -> int:
    """Return the image pixels per latent pixel along each axis: a factor of 2 between consecutive blocks."""
    blocks = config["block_out_channels" if config["_class_name"] == "AutoencoderKL" else "decoder_block_out_channels"]
    return int(2 ** (len(blocks) - 1))


def random_latents(batch: int, shape: tuple[int, ...]) -> Array:
    """Return latents like a sampler's."""
    return np.random.default_rng(batch).standard_normal((batch, *shape), np.float32)


def random_images(batch: int, shape: tuple[int, ...]) -> Array:
    """Return images in [-1, 1]: gradients with noise."""
    noise = np.random.default_rng(batch).uniform(-1, 1, (batch, *shape)).astype(np.float32)
    slope = np.linspace(-0.5, 0.5, shape[-1], dtype=np.float32)
    images: Array = slope + noise / 2
    return images
