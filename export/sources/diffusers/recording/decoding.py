"""How a recorded pipeline turns the final x into an image: by a rearrangement of x, a scale and a shift, and its
autoencoder.

Nothing is listed for each pipeline. The pipeline's call runs with chosen tensors in place of the final x, and the input
of its autoencoder's `decode` shows where each element goes. Another run shows what the call does with a decoded image.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from fewstep.export.companions import Companion
from fewstep.export.sources.diffusers.autoencoder import (
    BATCHES,
    ENCODING,
    IMAGE,
    LATENT,
    AutoencoderSource,
    random_images,
    random_latents,
)
from fewstep.export.sources.diffusers.files import CONFIG, Folder, find_weights, float_bytes
from fewstep.export.sources.diffusers.loading import load_network
from fewstep.export.sources.diffusers.pipeline import PipelineNetworks
from fewstep.export.sources.diffusers.recording.components import BuiltPipeline
from fewstep.export.sources.diffusers.recording.record import record
from fewstep.export.sources.diffusers.recording.relations import is_close
from fewstep.export.sources.diffusers.recording.settings import OUTPUT
from fewstep.export.sources.diffusers.recording.stand_ins import AUTOENCODERS, ENTRIES, copy_network
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import TensorEntry

DIGIT = 2**10  # numbers below it are exact in float16, after a scale and a shift too
PIXELS = "pt"  # output_type of pictures in [0, 1] as tensors
COLOURS = (1, 3)
NONE = "it has no autoencoder"

LOG = logging.getLogger("fewstep")


class LatentMap(nn.Module):
    """The input z of an autoencoder as a function of x: z = scale x[order] + shift, on flattened samples.

    `order` [elements] is None if the elements keep their order. `scale` and `shift` broadcast over z.
    """

    order: Tensor | None
    inverse: Tensor | None
    scale: Tensor
    shift: Tensor

    def __init__(self, order: Tensor, scale: Tensor, shift: Tensor, x_shape: tuple[int, ...]) -> None:
        """order: the index in x of each element of z. scale, shift: [*z_shape]."""
        super().__init__()
        self.x_shape, self.z_shape = x_shape, tuple(scale.shape)
        is_sorted = bool(torch.equal(order, torch.arange(len(order))))
        self.register_buffer("order", None if is_sorted else order)
        self.register_buffer("inverse", None if is_sorted else torch.argsort(order))
        self.register_buffer("scale", _compact(scale)[None])
        self.register_buffer("shift", _compact(shift)[None])

    def to_latents(self, x: Tensor) -> Tensor:
        """Return z [batch, *z_shape] of x [batch, *x_shape]."""
        if self.order is not None:
            x = x.flatten(1).index_select(1, self.order)
        return x.reshape(-1, *self.z_shape) * self.scale + self.shift

    def to_x(self, z: Tensor) -> Tensor:
        """Return x [batch, *x_shape] of z [batch, *z_shape]."""
        x = (z - self.shift) / self.scale
        if self.inverse is not None:
            x = x.flatten(1).index_select(1, self.inverse)
        return x.reshape(-1, *self.x_shape)


def _compact(values: Tensor) -> Tensor:
    """Return values with size 1 along each axis along which they do not change."""
    for axis in range(values.dim()):
        first = values.narrow(axis, 0, 1)
        if torch.equal(values, first.expand_as(values)):
            values = first
    return values.contiguous()


class RecordedDecoder(nn.Module):
    """Converts x to an image in [-1, 1]. An image may have an axis of one frame."""

    def __init__(self, autoencoder: Any, latents: LatentMap) -> None:
        super().__init__()
        self.autoencoder, self.latents = autoencoder, latents

    def forward(self, *latent: Tensor) -> tuple[Tensor, ...]:
        image = self.autoencoder.decode(self.latents.to_latents(latent[0]), return_dict=False)[0]
        return (image[:, :, 0] if image.dim() == 5 else image,)


class RecordedEncoder(nn.Module):
    """Converts an image to the x that would be decoded to it. If the autoencoder returns a distribution, its mean is
    used."""

    def __init__(self, autoencoder: Any, latents: LatentMap) -> None:
        super().__init__()
        self.autoencoder, self.latents = autoencoder, latents

    def forward(self, *image: Tensor) -> tuple[Tensor, ...]:
        pixels = image[0][:, :, None] if len(self.latents.z_shape) == 4 else image[0]
        (encoded,) = self.autoencoder.encode(pixels, return_dict=False)
        return (self.latents.to_x(encoded if isinstance(encoded, Tensor) else encoded.mode()),)


@dataclass(frozen=True)
class RecordedDecoding:
    """The component that decodes, z as a function of x, and the shape of an image."""

    component: str
    latents: LatentMap
    image_shape: tuple[int, ...]


class _CannotDecode(Exception):
    """The pipeline converts x to an image in a way that is not supported."""


@dataclass(frozen=True)
class Networks:
    """How to load an autoencoder with its weights: a function, the bytes of decoder and encoder in float32, and the
    files that are read."""

    load: Callable[[], nn.Module]
    decoding: int
    encoding: int
    files: tuple[Path, ...] = ()


def read_stored(folder: Folder, component: str) -> Networks:
    """Return the autoencoder of a folder."""
    home = folder.path / component
    files = find_weights(home).files
    total, encoding = float_bytes(files), float_bytes(files, ENCODING)
    return Networks(lambda: load_network(home)[0], total - encoding, encoding, (home / CONFIG, *files))


def read_from_memory(pipeline: Any, component: str) -> Networks:
    """Return the autoencoder of a pipeline."""
    network: nn.Module = getattr(pipeline, component)
    sizes = {name: 4 * each.numel() for name, each in network.named_parameters()}
    encoding = sum(size for name, size in sizes.items() if name.startswith(ENCODING))
    return Networks(lambda: network, sum(sizes.values()) - encoding, encoding)


def read_companions(
    label: str,
    built: BuiltPipeline,
    settings: Mapping[str, Any],
    x_shape: tuple[int, ...],
    read: Callable[[str], Networks],
) -> PipelineNetworks | None:
    """Return the autoencoder of a recorded pipeline. Returns None if it has none, or, with a warning, if it cannot be
    used. `read` returns the networks of a component."""
    found = find_decoding(built, settings, x_shape, read)
    if isinstance(found, RecordedDecoding):
        return PipelineNetworks(None, _make_autoencoder(found, read(found.component)), zeros_for_none=False)
    if found != NONE:
        LOG.warning("%s: its autoencoder is left out, so that the bundle returns x: %s", label, found)
    return None


def find_decoding(
    built: BuiltPipeline, settings: Mapping[str, Any], x_shape: tuple[int, ...], read: Callable[[str], Networks]
) -> RecordedDecoding | str:
    """Return how the pipeline decodes the final x to an image, or, as text, why that could not be found out.

    read: returns the networks of a component with their weights; a pipeline may scale x by values that its autoencoder
        stores.
    """
    components = [
        name
        for name, each in built.pipeline.components.items()
        if type(each).__module__.startswith(AUTOENCODERS) and hasattr(each, "decode")
    ]
    if not components or OUTPUT not in settings:
        return NONE
    settings = {**settings, OUTPUT: PIXELS}
    stored = {name: read(name).load() for name in components}
    try:
        with _show_stored_values(built, stored):
            component, order, scale, shift = _find_order(built, components, settings, x_shape)
            latents = LatentMap(order, scale, shift, x_shape)
            return RecordedDecoding(component, latents, _find_image(built, component, settings, latents))
    except _CannotDecode as error:
        return str(error)
    except UserError as error:
        return error.what


@contextmanager
def _show_stored_values(built: BuiltPipeline, stored: Mapping[str, nn.Module]) -> Iterator[None]:
    """While active, let a pipeline read the stored buffers and parameters of its autoencoders, such as the mean and
    variance of FLUX.2's latents. The outputs are still computed by the stand-ins."""
    known = vars(built.pipeline)
    with ExitStack() as stack:
        for name, network in stored.items():
            shown, stand_in = copy_network(network), known[name]
            for entry in ("forward", *ENTRIES):
                if hasattr(stand_in, entry):
                    stack.enter_context(patch.object(shown, entry, getattr(stand_in, entry), create=True))
            stack.enter_context(patch.dict(known, {name: shown}))
        yield


def _find_order(
    built: BuiltPipeline, components: list[str], settings: Mapping[str, Any], x_shape: tuple[int, ...]
) -> tuple[str, Tensor, Tensor, Tensor]:
    """Return the name of the autoencoder that a pipeline uses to decode x, and how its input is made from x: the index
    in x of each of its elements, and a scale and a shift for each."""

    def decode(x: Tensor) -> tuple[str, Tensor]:
        return _decode_input(built, components, settings, x[None])

    elements = prod(x_shape)
    component, shift = decode(torch.zeros(x_shape))
    scale = decode(torch.ones(x_shape))[1] - shift
    if shift.numel() != elements or not bool((scale != 0).all()):
        raise _CannotDecode("its autoencoder does not receive each element of x once")
    numbers, order = torch.arange(elements), torch.zeros(elements, dtype=torch.int64)
    for power in range(3):  # the index of an element, digit by digit
        digits = (numbers // DIGIT**power % DIGIT).reshape(x_shape)
        if digits.any():
            found = (decode(digits.float())[1] - shift) / scale
            order += found.flatten().round().long() * DIGIT**power
    if not torch.equal(order.sort().values, numbers):
        raise _CannotDecode("its autoencoder does not receive the elements of x in some order")
    x = torch.randn(x_shape, generator=torch.Generator().manual_seed(0))
    if not is_close(LatentMap(order, scale, shift, x_shape).to_latents(x[None])[0], decode(x)[1]):
        raise _CannotDecode("its autoencoder receives another function of x than a scale and a shift")
    return component, order, scale, shift


class _InputReceived(Exception):
    """Ends a call as soon as its autoencoder has received its input."""


def _decode_input(
    built: BuiltPipeline, components: list[str], settings: Mapping[str, Any], x: Tensor
) -> tuple[str, Tensor]:
    """Return the component that decodes, and its input for one sample, if the last step returns x [1, *x_shape]."""
    seen: list[tuple[str, list[Tensor]]] = []

    def decode_of(name: str) -> Callable[..., Any]:
        def decode(*args: Any, **kwargs: Any) -> Any:
            seen.append((name, [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]))
            raise _InputReceived

        return decode

    with ExitStack() as stack:
        for name in components:
            stack.enter_context(patch.object(getattr(built.pipeline, name), "decode", decode_of(name), create=True))
        failure = record(built, settings, 0, result=x).failure
    if not seen and failure is not None:
        raise _CannotDecode(f"its call fails after the last step: {failure}")
    if not seen:
        raise _CannotDecode("its call decodes nothing after the last step")
    name, given = seen[0]
    if len(given) != 1:
        raise _CannotDecode(f"its {name} decodes from {len(given)} tensors")
    if len(given[0]) != 1:
        raise _CannotDecode(f"its {name} decodes {len(given[0])} rows for one sample")
    return name, given[0][0].float()


def _find_image(
    built: BuiltPipeline, component: str, settings: Mapping[str, Any], latents: LatentMap
) -> tuple[int, ...]:
    """Return the shape of an image. The call must return the decoded image, from [-1, 1] to [0, 1] and clipped."""
    network, images = getattr(built.pipeline, component), list[Tensor]()
    original = network.decode

    def decode(*args: Any, **kwargs: Any) -> Any:
        decoded = original(*args, **kwargs)
        images.append(decoded[0] if isinstance(decoded, tuple) else decoded.sample)
        return decoded

    with patch.object(network, "decode", decode, create=True):
        returned = record(built, settings, 0, result=torch.zeros(1, *latents.x_shape)).returned
    if returned is None or len(images) != 1:
        raise _CannotDecode(f"its call decodes {len(images)} times, or fails after it")
    image = images[0][:, :, 0] if images[0].dim() == 5 and images[0].shape[2] == 1 else images[0]
    if image.dim() != 4 or image.shape[1] not in COLOURS:
        raise _CannotDecode(f"its autoencoder returns {list(images[0].shape)}, which is not an image")
    if not isinstance(returned[0], Tensor) or not is_close(returned[0].float(), (image / 2 + 0.5).clamp(0, 1)):
        raise _CannotDecode("its call changes the decoded image")
    return tuple(image.shape[1:])


def _make_autoencoder(found: RecordedDecoding, networks: Networks) -> AutoencoderSource:
    """Return an autoencoder as a decoder of x and an encoder to x."""
    x_shape, image_shape = found.latents.x_shape, found.image_shape
    x = TensorEntry(LATENT, "latent", ("batch", *x_shape))
    pixels = TensorEntry(IMAGE, "image", ("batch", *image_shape))

    def way(make: Callable[[nn.Module, LatentMap], nn.Module]) -> Callable[[], nn.Module]:
        return lambda: make(networks.load(), found.latents)

    decoder = Companion(
        "decoder",
        way(RecordedDecoder),
        (x,),
        (pixels,),
        lambda batch: {LATENT: random_latents(batch, x_shape)},
        BATCHES,
        networks.decoding,
    )
    encoder = Companion(
        "encoder",
        way(RecordedEncoder),
        (pixels,),
        (x,),
        lambda batch: {IMAGE: random_images(batch, image_shape)},
        BATCHES,
        networks.encoding,
    )
    return AutoencoderSource(decoder, encoder, networks.files)
