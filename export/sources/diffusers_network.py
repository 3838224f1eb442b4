"""A diffusers network that is called as `forward(x, time, *conditions)`."""

from typing import Any

import torch
from torch import Tensor, nn

from fewstep.export.sources.diffusers_classes import ADDED, IMAGE


class Denoiser(nn.Module):
    """Gives the network its conditions under its own names, and returns the first `channels` of its output.

    What comes behind those is a learned variance.
    """

    def __init__(self, network: nn.Module, channels: int, arguments: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.channels, self.arguments = network, channels, arguments

    def forward(self, x: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        given: dict[str, Any] = dict(zip(self.arguments, conditions, strict=True))
        if IMAGE in given:
            x = torch.cat([x, given.pop(IMAGE)], dim=1)
        added = {name: given.pop(name) for name in self.arguments if name.startswith(ADDED)}
        if added:
            given["added_cond_kwargs"] = {name.removeprefix(ADDED): value for name, value in added.items()}
        (output,) = self.network(x, time, **given, return_dict=False)
        prediction: Tensor = output[:, : self.channels]
        return prediction
