"""The encoder of a recorded pipeline's pictures: from a picture to the x that its autoencoder would decode to it.

The pipeline's call runs with chosen tensors in place of the final x, and the input of its autoencoder's `decode` shows
where each element goes.
"""

from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fewstep.export.companions.companion import Companion
from fewstep.pipelines.companions.autoencoder import BATCHES, IMAGE, LATENT, random_images
from fewstep.pipelines.recording.element_map import ElementMap, find, is_close
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import TensorEntry

DIGIT = 2**10  # numbers below it are exact in float16, after a scale and a shift too


class RecordedEncoder(nn.Module):
    """Converts an image to the x that would be decoded to it. If the autoencoder returns a distribution, its mean is
    used."""

    def __init__(self, autoencoder: Any, latents: ElementMap) -> None:
        super().__init__()
        self.autoencoder, self.latents = autoencoder, latents

    def forward(self, *image: Tensor) -> tuple[Tensor, ...]:
        return (self.latents.undo(self._encode(*image)),)

    def takes(self, image_shape: tuple[int, ...]) -> bool:
        """Return whether an image of this shape is encoded to latents of the size that is decoded: a pipeline may
        resize its picture after decoding, or make one of other channels, as the depth of Marigold. No number is
        computed."""
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), suppress(RuntimeError):
            return self._encode(torch.empty(1, *image_shape)).shape[1:] == self.latents.target_shape
        return False

    def _encode(self, image: Tensor) -> Tensor:
        pixels = image[:, :, None] if len(self.latents.target_shape) == 4 else image
        (encoded,) = self.autoencoder.encode(pixels, return_dict=False)
        return encoded if isinstance(encoded, Tensor) else encoded.mode()


FindPorts = Callable[[tuple[int, ...]], tuple[ElementMap | None, tuple[int, ...]]]


def make_encoder(
    load: Callable[[], nn.Module],
    weights: int,
    find_ports: FindPorts,
    x_shape: tuple[int, ...],
    like: ElementMap | None = None,
) -> Companion | None:
    """Return the encoder of images to x, or None if x is no rearrangement of what the autoencoder decodes.

    load: returns the autoencoder. weights: the bytes of its encoder in float32. find_ports: returns what `find_latents`
        found for an x of this shape, and the shape of its image. like: the map of another size. With another scale or
        shift, there is no encoder.
    """
    latents, image_shape = find_ports(x_shape)
    if latents is None or not (like is None or _scales_alike(latents, like)):
        return None

    def resize(shape: tuple[int, ...]) -> Companion:
        resized = make_encoder(load, weights, find_ports, shape, latents)
        if resized is None:
            raise UserError("its pipeline has other latents for other sizes", "export once for each size")
        return resized

    return Companion(
        "encoder",
        lambda: RecordedEncoder(load(), latents),
        (TensorEntry(IMAGE, "image", ("batch", *image_shape)),),
        (TensorEntry(LATENT, "latent", ("batch", *latents.source_shape)),),
        lambda batch: {IMAGE: random_images(batch, image_shape)},
        BATCHES,
        weights,
        at=resize if latents.is_of_any_size else None,
    )


def _scales_alike(one: ElementMap, other: ElementMap) -> bool:
    pairs = ((one.scale, other.scale), (one.shift, other.shift))
    return all(a is not None and b is not None and a.shape == b.shape and is_close(a, b) for a, b in pairs)


def find_latents(autoencoder: Any, finish: Callable[[Tensor], object], x_shape: tuple[int, ...]) -> ElementMap | None:
    """Return the map from x to the input of an autoencoder's `decode`, or None if it is not a rearrangement of x with a
    scale and a shift. `finish` runs a pipeline's call with a final x [1, *x_shape]."""

    def decode(x: Tensor) -> Tensor:
        return _decode_input(autoencoder, finish, x[None])

    numbers = torch.arange(prod(x_shape))
    try:
        shift = decode(torch.zeros(x_shape))
        scale = decode(torch.ones(x_shape)) - shift
        if shift.numel() != len(numbers) or not bool((scale != 0).all()):
            return None
        digits = [numbers // DIGIT**power % DIGIT for power in range(3)]  # of the index of each element
        sources = torch.stack([digit for digit in digits if digit.any()]).reshape(-1, *x_shape).float()
        targets = [((decode(source) - shift) / scale).round() + 0.0 for source in sources]  # -0 becomes 0
        elements = find(sources, torch.stack(targets))
        if elements is None or not torch.equal(elements.order.sort().values, numbers):
            return None
        latents = ElementMap(elements.order, x_shape, tuple(scale.shape), scale, shift)
        x = torch.randn(x_shape, generator=torch.Generator().manual_seed(0))
        return latents if is_close(latents(x[None])[0], decode(x)) else None
    except _NotOneTensorError:
        return None


class _InputReceived(Exception):
    """Ends a call as soon as its autoencoder has received its input."""


class _NotOneTensorError(Exception):
    """An autoencoder decodes from several tensors, or from several rows for one sample, or nothing."""


def _decode_input(autoencoder: Any, finish: Callable[[Tensor], object], x: Tensor) -> Tensor:
    """Return the input of `decode` for one sample."""
    received = list[list[Tensor]]()

    def decode(*args: Any, **kwargs: Any) -> Any:
        received.append([value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)])
        raise _InputReceived

    with patch.object(autoencoder, "decode", decode, create=True):
        try:
            finish(x)
        except UserError as error:  # the call has been ended
            if not received:
                raise _NotOneTensorError from error
    if not received or len(received[0]) != 1 or len(received[0][0]) != 1:
        raise _NotOneTensorError
    return received[0][0][0].float()
