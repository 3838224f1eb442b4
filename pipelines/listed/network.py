"""A diffusers network with the signature `forward(x, time, *conditions)`."""

from typing import Any

import torch
from torch import Tensor, nn

from fewstep.pipelines.listed.control import CONTROL, CONTROL_SCALE
from fewstep.pipelines.listed.interface import ADDED, AESTHETIC_SCORE, IMAGE, TIME_IDS, Interface

NetworkArguments = dict[str, Any]  # the network's arguments except x and time
TEXT, ADDED_ARGUMENT = "encoder_hidden_states", "added_cond_kwargs"


class ConditionedNetwork(nn.Module):
    """Passes conditions to a network under its argument names, and returns only as many of its output channels as x
    has for each output: further channels are a learned variance that the scheduler does not read."""

    def __init__(self, network: nn.Module, interface: Interface) -> None:
        super().__init__()
        self.network, self.interface = network, interface

    def forward(self, x: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        arguments: NetworkArguments = dict(zip(self.interface.arguments, conditions, strict=True))
        if AESTHETIC_SCORE in arguments:
            arguments[TIME_IDS] = torch.cat([arguments[TIME_IDS], arguments.pop(AESTHETIC_SCORE)[:, None]], dim=1)
        added = {name: arguments.pop(name) for name in self.interface.arguments if name.startswith(ADDED)}
        if added:
            arguments[ADDED_ARGUMENT] = {name.removeprefix(ADDED): value for name, value in added.items()}
            arguments.setdefault(TEXT, None)  # for networks that read an encoded image instead
        if self.interface.time_scale != 1:
            time = time * self.interface.time_scale
        return self.predict(x, time, arguments)[:, : self.interface.heads * self.interface.x_shape[0]]

    def predict(self, x: Tensor, time: Tensor, arguments: NetworkArguments) -> Tensor:
        """Return the network's output [B, channels, ...]."""
        if IMAGE in arguments:
            images = [x, arguments.pop(IMAGE)]
            x = torch.cat(images[::-1] if self.interface.picture_first else images, dim=1)
        (output,) = self.network(**{self.interface.x: x}, timestep=time, **arguments, return_dict=False)
        prediction: Tensor = output
        return prediction


class AdaptedUNet(ConditionedNetwork):
    """A U-Net to which a T2I-Adapter (Mou et al. 2023) adds residuals, which it computes from an image."""

    def __init__(self, network: nn.Module, adapter: nn.Module, interface: Interface) -> None:
        super().__init__(network, interface)
        self.adapter = adapter

    def predict(self, x: Tensor, time: Tensor, arguments: NetworkArguments) -> Tensor:
        picture, scale = arguments.pop(CONTROL), arguments.pop(CONTROL_SCALE)[:, None, None, None]
        arguments["down_intrablock_additional_residuals"] = [scale * residual for residual in self.adapter(picture)]
        return super().predict(x, time, arguments)


class Flux(ConditionedNetwork):
    """FLUX.1, whose tokens are 2x2 squares of a latent image. Besides the tokens, the network takes the position of
    each."""

    def predict(self, x: Tensor, time: Tensor, arguments: NetworkArguments) -> Tensor:
        if IMAGE in arguments:
            x = torch.cat([x, arguments.pop(IMAGE)], dim=1)
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        places = torch.zeros(rows, columns, 3)
        places[..., 1] += torch.arange(rows)[:, None]
        places[..., 2] += torch.arange(columns)[None, :]
        (output,) = self.network(
            hidden_states=pack_latents(x),
            timestep=time,
            img_ids=places.reshape(-1, 3),
            txt_ids=torch.zeros(arguments[TEXT].shape[1], 3),
            **arguments,
            return_dict=False,
        )
        return unpack_latents(output, rows, columns)


def wrap_network(network: nn.Module, interface: Interface) -> ConditionedNetwork:
    """Return the network with fewstep's signature."""
    return (Flux if type(network).__name__ == "FluxTransformer2DModel" else ConditionedNetwork)(network, interface)


def pack_latents(x: Tensor) -> Tensor:
    """Return latents [B, C, 2h, 2w] as tokens [B, h w, 4 C], one for each 2x2 square, in row-major order."""
    batch, channels, height, width = x.shape
    squares = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpack_latents(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Return tokens [B, h w, 4 C] as latents [B, C, 2h, 2w]: the inverse of `pack_latents`."""
    batch, _, channels = tokens.shape
    squares = tokens.reshape(batch, rows, columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(batch, channels // 4, 2 * rows, 2 * columns)
