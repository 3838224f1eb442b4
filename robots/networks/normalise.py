"""Normalise raw observations inside the network, so that its graph takes the robot's measurements as inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PIXEL = 255.0  # uint8 pictures are first divided by this


class Normalise(nn.Module):
    """Compute (value - centre) * scale + base for values [..., n], or images uint8 [..., channels, H, W].

    Subtracting first preserves the precision of a small range far from zero.
    """

    centre: Tensor
    scale: Tensor
    base: Tensor

    def __init__(
        self, centre: Sequence[float], scale: Sequence[float], base: Sequence[float], *, picture: bool
    ) -> None:
        super().__init__()
        self.picture = picture
        for name, numbers in (("centre", centre), ("scale", scale), ("base", base)):
            values = torch.tensor(numbers, dtype=torch.float64).float()
            self.register_buffer(name, values[:, None, None] if picture else values)

    def set(self, scale: Tensor, offset: Tensor) -> None:
        """Change the function to scale * value + offset. Both are float64 tensors with one number, or one per
        element."""
        self.centre.copy_((-offset / scale).reshape(-1, *[1] * (self.centre.dim() - 1)))
        self.scale.copy_(scale.reshape(-1, *[1] * (self.scale.dim() - 1)))
        self.base.zero_()

    def forward(self, value: Tensor) -> Tensor:
        if self.picture:
            value = value.float() / PIXEL
        return (value - self.centre) * self.scale + self.base
